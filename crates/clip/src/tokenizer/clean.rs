//! Text as CLIP's tokenizer wants it: repaired, unescaped, single spaces, lower case.

use super::entities::{WINDOWS_1252, unescape, unescape_closed};
use unicode_normalization::UnicodeNormalization;

/// `whitespace_clean(basic_clean(text)).lower()` of `clip/simple_tokenizer.py`.
///
/// `basic_clean` is ftfy's `fix_text` (6.3), then HTML references decoded twice. Differs: of ftfy, the steps that
/// change characters one by one are here (closed references, C1 controls, ligatures, full-width forms, curly quotes,
/// line breaks, terminal colours, control characters, NFC); the one that guesses the encoding of garbled text is not.
pub fn clean(text: &str) -> String {
    clean_case(text).to_lowercase()
}

/// As [`clean`], with capitals as they are: `whitespace` of open_clip's tokenizers.
pub(crate) fn clean_case(text: &str) -> String {
    single_spaces(&unescape(&unescape(&repair(text))))
}

/// Without punctuation and in lower case, as SigLIP's towers were trained: `canonicalize` of open_clip's tokenizers, from
/// big_vision's `prompt_engineering.py`.
pub(crate) fn canonical(text: &str) -> String {
    let text = unescape(&unescape(&repair(text))).replace('_', " ");
    let text: String = text.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    single_spaces(&text.to_lowercase())
}

fn single_spaces(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// ftfy's `fix_text` line by line, without `fix_encoding`.
fn repair(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut unescapes = true;
    for line in text.split_inclusive('\n') {
        // A `<` says that this is markup, and then so is what follows.
        unescapes &= !line.contains('<');
        let mut line = line.to_owned();
        loop {
            let before = line.clone();
            if unescapes && line.contains('&') {
                line = unescape_closed(&line);
            }
            line = without_terminal_colours(&line.chars().fold(String::new(), replace));
            line.retain(|c| !is_control(c));
            line = line.nfc().collect();
            if line == before {
                break;
            }
        }
        out.push_str(&line);
    }
    out
}

/// Appends what stands for one character.
fn replace(mut out: String, c: char) -> String {
    let c = match c {
        '\u{80}'..='\u{9f}' => WINDOWS_1252[c as usize - 0x80],
        _ => c,
    };
    let letters = match c {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "'n", // by way of U+02BC
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        'ʼ' | '‘'..='‛' => "'",
        '“'..='‟' => "\"",
        '\u{3000}' => " ",
        '\r' | '\u{2028}' | '\u{2029}' | '\u{85}' => "\n",
        '\u{ff01}'..='\u{ffef}' => {
            out.extend(std::iter::once(c).nfkc());
            return out;
        }
        _ => {
            out.push(c);
            return out;
        }
    };
    out.push_str(letters);
    out
}

/// Drops `ESC [ digits and semicolons, letter`.
fn without_terminal_colours(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\u{1b}[") {
        let arguments = &rest[at + 2..];
        let end = arguments
            .find(|c: char| !c.is_ascii_digit() && c != ';')
            .unwrap_or(arguments.len());
        if arguments[end..].starts_with(|c: char| c.is_ascii_alphabetic()) {
            out.push_str(&rest[..at]);
            rest = &arguments[end + 1..];
        } else {
            out.push_str(&rest[..at + 2]);
            rest = arguments;
        }
    }
    out.push_str(rest);
    out
}

/// ftfy's `CONTROL_CHARS`.
fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_has_neither_punctuation_nor_capitals() {
        assert_eq!(
            canonical(" A photo_of: a \"Cat\" (big)."),
            "a photo of a cat big"
        );
        assert_eq!(canonical("&quot;café&quot; - it's"), "café its");
        assert_eq!(clean_case(" A  &quot;Cat&quot;\n"), "A \"Cat\"");
    }

    #[test]
    fn text_is_cleaned_as_published() {
        let cases = [
            ("  A  centered\tPhoto\r\nof x ", "a centered photo of x"),
            ("&amp;amp;lt; &ldquo;x&rdquo;", "< \"x\""),
            ("<b>&ldquo;x&rdquo;", "<b>“x”"),
            ("ﬁne ＬＯＵＤ　ﾊﾟ ŉ", "fine loud パ 'n"),
            ("e\u{301} it\u{2019}s", "é it's"),
            ("\u{1b}[36;44mblue\u{1b}[0m\u{0}\u{feff}", "blue"),
            ("ΟΔΟΣ İ", "οδος i\u{307}"),
        ];
        for (text, expected) in cases {
            assert_eq!(clean(text), expected, "{text:?}");
        }
    }
}
