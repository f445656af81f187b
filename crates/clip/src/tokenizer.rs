//! CLIP's byte-pair encoding: text to token ids and back.
//!
//! The same splitting, merges and cleaning as `clip/simple_tokenizer.py` of <https://github.com/openai/CLIP> at
//! a1d0717, over the vocabulary it ships (`assets/`). Differs: text decoded in the wrong encoding ("cafÃ©") is left
//! as it is, where ftfy guesses what was meant; see [`clean`].

mod clean;
mod entities;

pub use clean::clean;
pub(crate) use clean::{canonical, clean_case};

use crate::error::Error;
use std::collections::HashMap;
use std::io::Read;
use std::sync::LazyLock;

/// Id of the start token, `<|startoftext|>`.
pub const SOT: u32 = 49406;
/// Id of the end token, `<|endoftext|>`: the largest id, at whose place the text feature is read.
pub const EOT: u32 = 49407;
/// Tokens in a text, start and end included.
pub const CONTEXT: usize = 77;
/// Number of ids.
pub const VOCABULARY: usize = 49408;

const MERGES: usize = VOCABULARY - 2 * 256 - 2;
const SPECIALS: [(&str, u32); 2] = [("<|startoftext|>", SOT), ("<|endoftext|>", EOT)];
const FILE: &[u8] = include_bytes!("../assets/bpe_simple_vocab_16e6.txt.gz");

/// CLIP's tokenizer. There is one vocabulary, so there is one of these: [`Tokenizer::shared`].
#[derive(Debug)]
pub struct Tokenizer {
    /// Token strings by id, in the alphabet of [`alphabet`]; the last piece of a word ends in `</w>`.
    words: Vec<String>,
    /// Two neighbours and the id that replaces them. Ids rise in the order the merges were learned, so the
    /// smallest id is the first merge to apply.
    merges: HashMap<(u32, u32), u32>,
    /// Id of the symbol of each byte, inside a word.
    bytes: [u32; 256],
}

/// The printable stand-in of each byte, in the order of their ids (`bytes_to_unicode` of the original).
fn alphabet() -> Vec<(u8, char)> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let plain = (0..=255).filter(printable).map(|b| (b, char::from(b)));
    let moved = (0..=255u8).filter(|b| !printable(b));
    let moved = moved
        .zip(0x100u32..)
        .map(|(b, c)| (b, char::from_u32(c).expect("U+0100 to U+0143 are letters")));
    plain.chain(moved).collect()
}

/// `\p{L}`, from what std knows: alphabetic, less letter-like numbers, vowel signs and circled letters.
fn is_letter(c: char) -> bool {
    c.is_alphabetic()
        && !c.is_numeric()
        && !unicode_normalization::char::is_combining_mark(c)
        && !matches!(c, '\u{24B6}'..='\u{24E9}' | '\u{1F130}'..='\u{1F149}' | '\u{1F150}'..='\u{1F169}'
            | '\u{1F170}'..='\u{1F189}')
}

/// White space, and the one sign whose capital is a letter: ignoring case, the original's expression matches it
/// neither as a letter nor as anything else.
fn is_skipped(c: char) -> bool {
    c.is_whitespace() || c == '\u{345}'
}

/// Splits cleaned text as the original's regular expression does: special tokens, English contractions, runs of
/// letters, single digits, runs of anything else but white space.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(is_skipped);
        let first = rest.chars().next()?;
        let special = SPECIALS.iter().find(|(s, _)| rest.starts_with(s));
        // `ſ` because the expression ignores case.
        let contraction = ["'s", "'ſ", "'t", "'re", "'ve", "'m", "'ll", "'d"]
            .into_iter()
            .find(|c| rest.starts_with(c));
        let until = |stop: fn(char) -> bool| rest.find(stop).unwrap_or(rest.len());
        let length = if let Some((special, _)) = special {
            special.len()
        } else if let Some(contraction) = contraction {
            contraction.len()
        } else if is_letter(first) {
            until(|c| !is_letter(c))
        } else if first.is_numeric() {
            first.len_utf8()
        } else {
            until(|c| is_letter(c) || c.is_numeric() || is_skipped(c))
        };
        let (piece, after) = rest.split_at(length);
        rest = after;
        Some(piece)
    })
}

impl Tokenizer {
    /// The tokenizer of every CLIP, read once from the vocabulary inside the program.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::read);
        &SHARED
    }

    fn read() -> Self {
        let mut text = String::new();
        flate2::read::GzDecoder::new(FILE)
            .read_to_string(&mut text)
            .expect("the vocabulary inside the program is gzip and UTF-8");
        let alphabet = alphabet();
        let mut bytes = [0; 256];
        let mut words = Vec::with_capacity(VOCABULARY);
        for (id, (byte, symbol)) in (0u32..).zip(&alphabet) {
            bytes[usize::from(*byte)] = id;
            words.push(symbol.to_string());
        }
        words.extend(alphabet.iter().map(|(_, symbol)| format!("{symbol}</w>")));

        let mut ids: HashMap<String, u32> = words.iter().cloned().zip(0..).collect();
        let mut merges = HashMap::with_capacity(MERGES);
        // The first line is a version; lines after the merges are spare.
        for line in text.lines().skip(1).take(MERGES) {
            let (left, right) = line.split_once(' ').expect("a merge is two words");
            let id = u32::try_from(words.len()).expect("ids fit");
            let word = format!("{left}{right}");
            merges.insert((ids[left], ids[right]), id);
            ids.insert(word.clone(), id);
            words.push(word);
        }
        words.extend(SPECIALS.iter().map(|(s, _)| (*s).to_owned()));
        assert_eq!(
            words.len(),
            VOCABULARY,
            "the vocabulary inside the program is whole"
        );
        Self {
            words,
            merges,
            bytes,
        }
    }

    /// Token ids of a text, without start and end.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        for piece in pieces(&clean(text)) {
            match SPECIALS.iter().find(|(s, _)| *s == piece) {
                Some((_, id)) => ids.push(*id),
                None => self.merge(piece, &mut ids),
            }
        }
        ids
    }

    /// Byte-pair encoding of one word, appended to `out`.
    fn merge(&self, piece: &str, out: &mut Vec<u32>) {
        let mut word: Vec<u32> = piece.bytes().map(|b| self.bytes[usize::from(b)]).collect();
        if let Some(last) = word.last_mut() {
            *last += 256; // the `</w>` forms follow the plain ones
        }
        loop {
            let merged = |pair: &[u32]| self.merges.get(&(pair[0], pair[1])).copied();
            let Some(id) = word.windows(2).filter_map(merged).min() else {
                break;
            };
            // In place: every occurrence of that pair, from the left.
            let (mut read, mut write) = (0, 0);
            while read < word.len() {
                let joins = read + 1 < word.len() && merged(&word[read..read + 2]) == Some(id);
                word[write] = if joins { id } else { word[read] };
                read += if joins { 2 } else { 1 };
                write += 1;
            }
            word.truncate(write);
        }
        out.extend(word);
    }

    /// Start, ids, end; not padded.
    ///
    /// # Errors
    /// When that is more than [`CONTEXT`] tokens; the error names the text.
    pub fn sequence(&self, text: &str) -> Result<Vec<u32>, Error> {
        let ids = self.encode(text);
        let tokens = ids.len() + 2;
        if tokens > CONTEXT {
            return Err(Error::TooLong {
                text: text.to_owned(),
                tokens,
                limit: CONTEXT,
            });
        }
        Ok([&[SOT], ids.as_slice(), &[EOT]].concat())
    }

    /// [`sequence`](Self::sequence) filled up with zeros, as the towers were trained on it.
    ///
    /// # Errors
    /// As [`sequence`](Self::sequence).
    pub fn padded(&self, text: &str) -> Result<[u32; CONTEXT], Error> {
        let mut padded = [0; CONTEXT];
        let sequence = self.sequence(text)?;
        padded[..sequence.len()].copy_from_slice(&sequence);
        Ok(padded)
    }

    /// Text of these ids, every word followed by a space, as the original's `decode`. Unknown ids are left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        let byte_of: HashMap<char, u8> = alphabet().into_iter().map(|(b, c)| (c, b)).collect();
        let symbols = ids.iter().flat_map(|&id| self.word(id).chars());
        let bytes: Vec<u8> = symbols.filter_map(|c| byte_of.get(&c).copied()).collect();
        String::from_utf8_lossy(&bytes).replace("</w>", " ")
    }

    /// The token as the vocabulary spells it: pieces that end a word end in `</w>`, bytes above ASCII are shown by
    /// stand-ins. Empty for an id outside the vocabulary.
    pub fn word(&self, id: u32) -> &str {
        self.words.get(id as usize).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> &'static Tokenizer {
        Tokenizer::shared()
    }

    #[test]
    fn a_sentence_has_the_published_ids() {
        // `clip.tokenize("a diagram")` in the README of openai/CLIP; "a photo of a" is CoOp's initial context.
        assert_eq!(tokenizer().encode("a diagram"), [320, 22697]);
        assert_eq!(tokenizer().encode("a photo of a"), [320, 1125, 539, 320]);
        assert_eq!(tokenizer().encode("X"), [343]);
    }

    #[test]
    fn letters_are_those_of_the_published_regular_expression() {
        for letter in ['a', 'é', 'ß', '日', 'ـ', 'ª', 'ʼ', 'ᴀ'] {
            assert!(is_letter(letter), "{letter:?}");
        }
        for other in [
            '1', 'Ⅷ', '²', 'ⓐ', '🅰', '\u{0301}', '\u{0345}', '_', '😀', '्',
        ] {
            assert!(!is_letter(other), "{other:?}");
        }
    }

    #[test]
    fn text_is_split_at_contractions_digits_and_signs() {
        let split = |text| pieces(text).collect::<Vec<_>>();
        assert_eq!(
            split("they've 737-800!!"),
            ["they", "'ve", "7", "3", "7", "-", "8", "0", "0", "!!"]
        );
        assert_eq!(split("!'s 's"), ["!'", "s", "'s"]);
        assert_eq!(split("<|endoftext|>x"), ["<|endoftext|>", "x"]);
        assert_eq!(split("!<|endoftext|>"), ["!<|", "endoftext", "|>"]);
    }

    #[test]
    fn decoding_gives_the_cleaned_text_back() {
        for text in ["naïve café 日本語 😀", "a photo of a cat .", "hello"] {
            assert_eq!(
                tokenizer().decode(&tokenizer().encode(text)).trim_end(),
                text
            );
        }
        assert_eq!(tokenizer().decode(&[u32::MAX, 320]), "a ");
        assert_eq!(tokenizer().word(320), "a</w>");
        assert_eq!(tokenizer().word(EOT), "<|endoftext|>");
    }

    #[test]
    fn a_text_that_does_not_fit_is_named() {
        assert_eq!(
            tokenizer().sequence(&"x ".repeat(75)).expect("fits").len(),
            CONTEXT
        );
        let error = tokenizer()
            .sequence(&"x ".repeat(76))
            .expect_err("too long")
            .to_string();
        assert!(
            error.contains("78") && error.contains("77") && error.contains("x x x"),
            "{error}"
        );
    }

    #[test]
    fn padding_is_zero() {
        let padded = tokenizer().padded("x").expect("fits");
        assert_eq!(padded[..4], [SOT, 343, EOT, 0]);
        assert!(padded[3..].iter().all(|&id| id == 0));
    }

    #[test]
    fn odd_texts_have_the_published_tokens() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/published");
        let texts = std::fs::read_to_string(format!("{folder}/texts.json")).expect("it ships");
        let texts: Vec<String> = serde_json::from_str(&texts).expect("a list of strings");
        let expected =
            std::fs::read(format!("{folder}/expected.safetensors")).expect("beside the texts");
        let expected = safetensors::SafeTensors::deserialize(&expected).expect("safetensors");
        let tokens = expected.tensor("tokens").expect("tokens");
        assert_eq!(tokens.shape(), [texts.len(), CONTEXT]);
        for (text, row) in texts.iter().zip(tokens.data().chunks(8 * CONTEXT)) {
            let ours: Vec<u8> = tokenizer()
                .padded(text)
                .expect("fits")
                .iter()
                .flat_map(|&id| i64::from(id).to_le_bytes())
                .collect();
            assert_eq!(ours, row, "{text:?}");
        }
    }
}
