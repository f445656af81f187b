//! HTML character references, as Python's `html.unescape` and ftfy's `unescape_html` read them.

use html_escape::NAMED_ENTITIES;

/// Names that HTML 5 reads without a closing semicolon.
const BARE: &str = "AElig AMP Aacute Acirc Agrave Aring Atilde Auml COPY Ccedil ETH Eacute Ecirc Egrave Euml GT \
    Iacute Icirc Igrave Iuml LT Ntilde Oacute Ocirc Ograve Oslash Otilde Ouml QUOT REG THORN Uacute Ucirc Ugrave \
    Uuml Yacute aacute acirc acute aelig agrave amp aring atilde auml brvbar ccedil cedil cent copy curren deg \
    divide eacute ecirc egrave eth euml frac12 frac14 frac34 gt iacute icirc iexcl igrave iquest iuml laquo lt macr \
    micro middot nbsp not ntilde oacute ocirc ograve ordf ordm oslash otilde ouml para plusmn pound quot raquo reg \
    sect shy sup1 sup2 sup3 szlig thorn times uacute ucirc ugrave uml uuml yacute yen yuml";

/// Names that stand for two characters, by the second: html-escape 0.2 knows only the first.
const SECOND: [(char, &str); 8] = [
    (
        '\u{338}',
        "NotEqualTilde NotGreaterFullEqual NotGreaterGreater NotGreaterSlantEqual NotHumpDownHump \
         NotHumpEqual NotLeftTriangleBar NotLessLess NotLessSlantEqual NotNestedGreaterGreater \
         NotNestedLessLess NotPrecedesEqual NotRightTriangleBar NotSquareSubset NotSquareSuperset \
         NotSucceedsEqual NotSucceedsTilde nGg nGtv nLl nLtv napE napid nbump nbumpe ncongdot nedot nesim ngE \
         ngeqq ngeqslant nges nlE nleqq nleqslant nles notinE notindot npart npre npreceq nrarrc nrarrw nsce \
         nsubE nsubseteqq nsucceq nsupE nsupseteqq",
    ),
    (
        '\u{fe00}',
        "caps cups gesl gvertneqq gvnE lates lesg lvertneqq lvnE smtes sqcaps sqcups varsubsetneq \
         varsubsetneqq varsupsetneq varsupsetneqq vsubnE vsubne vsupnE vsupne",
    ),
    (
        '\u{20d2}',
        "NotSubset NotSuperset nGt nLt nang nsubset nsupset nvap nvge nvgt nvle nvlt nvltrie nvrtrie nvsim \
         vnsub vnsup",
    ),
    ('\u{20e5}', "bne bnequiv nparsl"),
    ('\u{333}', "acE"),
    ('j', "fjlig"),
    ('\u{331}', "race"),
    ('\u{200a}', "ThickSpace"),
];

/// Windows-1252 at 0x80 to 0x9F; unassigned bytes stand for themselves.
pub(super) const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Value of a name without its semicolon.
fn named(name: &str) -> Option<String> {
    let index = NAMED_ENTITIES
        .binary_search_by(|(key, _)| (*key).cmp(name.as_bytes()))
        .ok()?;
    // Only the first character, so that a table that is complete some day changes nothing here.
    let first = NAMED_ENTITIES[index].1.chars().take(1);
    let holds = |names: &str| names.split(' ').any(|other| other == name);
    let second = SECOND
        .iter()
        .find(|(_, names)| holds(names))
        .map(|(c, _)| *c);
    Some(first.chain(second).collect())
}

/// A key of Python's `html.entities.html5`: `amp;`, or `amp` for the names in [`BARE`].
fn html5(key: &str) -> Option<String> {
    match key.strip_suffix(';') {
        Some(name) => named(name),
        None if BARE.split(' ').any(|name| name == key) => named(key),
        None => None,
    }
}

/// The text of `&#...`; `digits` is what stands between `#` and the optional semicolon.
fn numbered(digits: &str) -> String {
    let number = match digits.strip_prefix(['x', 'X']) {
        Some(hex) => hex.chars().fold(0u32, |n, c| {
            n.saturating_mul(16)
                .saturating_add(c.to_digit(16).unwrap_or(0))
        }),
        None => digits.chars().fold(0u32, |n, c| {
            n.saturating_mul(10)
                .saturating_add(c.to_digit(10).unwrap_or(0))
        }),
    };
    match number {
        0 => '\u{fffd}'.to_string(),
        0x0d => '\r'.to_string(),
        0x80..=0x9f => WINDOWS_1252[(number - 0x80) as usize].to_string(),
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => String::new(),
        _ if number <= 0x10_ffff && number & 0xfffe == 0xfffe => String::new(),
        _ => char::from_u32(number).unwrap_or('\u{fffd}').to_string(),
    }
}

/// Length of the digits after `&#` (with the `x`), if there are any.
fn digits(after: &str) -> Option<usize> {
    let (prefix, hex) = match after.strip_prefix(['x', 'X']) {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => (1, true),
        _ => (0, false),
    };
    let count = after[prefix..]
        .bytes()
        .take_while(|b| {
            if hex {
                b.is_ascii_hexdigit()
            } else {
                b.is_ascii_digit()
            }
        })
        .count();
    (count > 0).then_some(prefix + count)
}

/// Python's `html.unescape`: every reference of HTML 5, with or without its semicolon where the standard allows.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some((number, length)) = after
            .strip_prefix('#')
            .and_then(|number| Some((number, digits(number)?)))
        {
            out.push_str(&numbered(&number[..length]));
            let tail = &number[length..];
            rest = tail.strip_prefix(';').unwrap_or(tail);
            continue;
        }
        let stop = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
        let length: usize = after
            .chars()
            .take_while(|&c| !stop(c))
            .take(32)
            .map(char::len_utf8)
            .sum();
        if length == 0 {
            out.push('&');
            rest = after;
            continue;
        }
        let length = length + usize::from(after[length..].starts_with(';'));
        let (name, tail) = after.split_at(length);
        // The longest prefix that is a name by itself, never a single character.
        let prefixes = (2..length).rev().filter(|&cut| name.is_char_boundary(cut));
        let known = std::iter::once(length)
            .chain(prefixes)
            .find_map(|cut| Some((html5(&name[..cut])?, cut)));
        match known {
            Some((value, cut)) => {
                out.push_str(&value);
                out.push_str(&name[cut..]);
            }
            None => {
                out.push('&');
                out.push_str(name);
            }
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// ftfy's `unescape_html`: only references closed by a semicolon, and names written in capitals throughout.
pub(super) fn unescape_closed(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match closed(rest) {
            Some((value, length)) => {
                out.push_str(&value);
                rest = &rest[length..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Value and length of the closed reference at the head of `text`, if it is one that ftfy decodes.
fn closed(text: &str) -> Option<(String, usize)> {
    let after = text.strip_prefix('&')?;
    let sign = usize::from(after.starts_with('#'));
    let count = after[sign..]
        .bytes()
        .take_while(u8::is_ascii_alphanumeric)
        .count();
    if !(1..=24).contains(&count) || !after[sign + count..].starts_with(';') {
        return None;
    }
    let name = &after[sign..sign + count];
    let length = 1 + sign + count + 1;
    if sign == 1 {
        let value = unescape(&text[..length]);
        return (!value.contains(';')).then_some((value, length));
    }
    if let Some(value) = named(name) {
        return Some((value, length));
    }
    let lower = name.to_ascii_lowercase();
    let is_capitals =
        name == name.to_ascii_uppercase() && unescape(&text[..length]) == text[..length];
    let value = named(&lower).filter(|_| is_capitals)?;
    Some((value.to_uppercase(), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_decode_as_python_does() {
        let cases = [
            ("&amp;&amp&ampx", "&&&x"),
            ("&notit; &notin; &not", "¬it; ∉ ¬"),
            ("&#65;&#x41&#X41;&#150;", "AAA–"),
            (
                "&#0;&#xD800;&#x110000;&#1;&#99999999999;",
                "\u{fffd}\u{fffd}\u{fffd}\u{fffd}",
            ),
            ("& &; &# &#x; &foo; &a", "& &; &# &#x; &foo; &a"),
            ("&NotEqualTilde;&fjlig;&amp;", "≂\u{338}fj&"),
            ("&é;&lté", "&é;<é"),
        ];
        for (text, expected) in cases {
            assert_eq!(unescape(text), expected, "{text}");
        }
    }

    #[test]
    fn only_closed_references_are_sure_ones() {
        assert_eq!(
            unescape_closed("this&not that &amp; P&EACUTE;REZ"),
            "this&not that & PÉREZ"
        );
        assert_eq!(
            unescape_closed("&ntilde; &NTILDE; &nTILDE; &#59;"),
            "ñ Ñ &nTILDE; &#59;"
        );
        assert_eq!(unescape_closed("BUNDESSTRA&SZLIG;E"), "BUNDESSTRASSE");
    }

    #[test]
    fn entity_names_are_sorted_for_the_search() {
        assert!(NAMED_ENTITIES.is_sorted_by_key(|(name, _)| *name));
        assert!(BARE.split(' ').all(|name| named(name).is_some()));
    }
}
