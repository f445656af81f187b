//! The tokenizer that lies beside the weights: `tokenizer.json`, or BERT's `vocab.txt`.

use super::{Kind, Read, Wording};
use crate::error::{Error, Fault};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

/// How a tower takes texts, which no tokenizer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// Most tokens of a text, start and end included.
    pub(crate) longest: usize,
    /// Whether texts are SigLIP's: always filled up to the longest, in lower case and without punctuation.
    pub(crate) is_siglip: bool,
}

const JSON: &str = "tokenizer.json";
const VOCABULARY: &str = "vocab.txt";
const CONFIG: &str = "tokenizer_config.json";
/// Vocabularies are of some ten megabytes.
const LARGEST: u64 = 256 << 20;

/// Reads the tokenizer of `folder` for a table of `rows` token embeddings.
///
/// # Errors
/// When there is none, it cannot be read, or has ids that the table has not.
pub(crate) fn read(folder: &Path, form: Form, rows: usize) -> Result<Wording, Error> {
    let config = match folder.join(CONFIG) {
        path if path.is_file() => json(&path)?,
        _ => Value::Null,
    };
    let (path, tokenizer) = find(folder, form, &config)?;
    let fail = |field: &str, problem: String| Error::weights(&path, field, problem);
    let ids = |text: &str, specials: bool| {
        let encoded = tokenizer.encode_fast(text, specials);
        encoded.map(|e| e.get_ids().to_vec())
    };
    // A letter shows what a text gets before and behind it.
    let (bare, whole) = match (ids("x", false), ids("x", true)) {
        (Ok(bare), Ok(whole)) => (bare, whole),
        (Err(e), _) | (_, Err(e)) => return Err(fail("model", e.to_string())),
    };
    let at = whole.windows(bare.len().max(1)).position(|w| w == bare);
    let Some(at) = at.filter(|_| !bare.is_empty()) else {
        return Err(fail(
            "post_processor",
            "does not keep the tokens of a text together".to_owned(),
        ));
    };
    let (start, end) = (whole[..at].to_vec(), whole[at + bare.len()..].to_vec());
    let wrong = match form.is_siglip {
        false if (start.len(), end.len()) != (1, 1) => "[CLS] before a text and [SEP] behind it",
        true if !start.is_empty() || end.len() != 1 => {
            "one end token behind a text and nothing before it"
        }
        _ => "",
    };
    if !wrong.is_empty() {
        let problem =
            format!("puts {start:?} before a text and {end:?} behind it; this tower takes {wrong}");
        return Err(fail("post_processor", problem));
    }
    if form.longest <= start.len() + end.len() {
        return Err(fail(
            "length",
            format!("no text fits into {} tokens", form.longest),
        ));
    }
    let vocabulary = tokenizer.get_vocab(true);
    if let Some((token, id)) = vocabulary.iter().find(|(_, id)| **id as usize >= rows) {
        let problem =
            format!("has the id {id} for {token:?}; the weights have embeddings of {rows} tokens");
        return Err(fail("model.vocab", problem));
    }
    let pad = pad(&tokenizer, &config, form).ok_or_else(|| {
        let problem = format!("is not said by {CONFIG}, and there is no [PAD] and no <pad>");
        fail("pad_token", problem)
    })?;
    Ok(Wording(Kind::Read(Arc::new(Read {
        tokenizer,
        start,
        end,
        pad,
        longest: form.longest,
        is_filled: form.is_siglip,
        is_canonical: form.is_siglip,
    }))))
}

fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let size = std::fs::metadata(path).map_err(Error::file(path))?.len();
    if size > LARGEST {
        return Err(Error::weights(
            path,
            "file",
            format!("is {size} bytes; no tokenizer is that large"),
        ));
    }
    std::fs::read(path).map_err(Error::file(path))
}

fn json(path: &Path) -> Result<Value, Error> {
    let bytes = bytes(path)?;
    serde_json::from_slice(&bytes).map_err(|e| Error::weights(path, "JSON", e.to_string()))
}

/// The tokenizer and the file it is in.
fn find(folder: &Path, form: Form, config: &Value) -> Result<(PathBuf, Tokenizer), Error> {
    let path = folder.join(JSON);
    if path.is_file() {
        let read = Tokenizer::from_bytes(bytes(&path)?);
        let mut tokenizer = read.map_err(|e| Error::weights(&path, "tokenizer", e.to_string()))?;
        // Whoever wrote it may have had a length of their own.
        tokenizer.with_padding(None);
        let cut = tokenizer.with_truncation(None);
        cut.map_err(|e| Error::weights(&path, "truncation", e.to_string()))?;
        return Ok((path, tokenizer));
    }
    let path = folder.join(VOCABULARY);
    if path.is_file() && !form.is_siglip {
        let tokenizer = word_pieces(&path, config)?;
        return Ok((path, tokenizer));
    }
    let problem = match form.is_siglip {
        true => format!(
            "{JSON} is missing: this text tower (SigLIP) has a vocabulary of its own; the file lies in the repository of \
             the weights (a spiece.model alone is not read: save it as {JSON} with transformers)"
        ),
        false => format!(
            "{JSON} and {VOCABULARY} are missing: this text tower (BERT) has a vocabulary of its own; either file lies in \
             the repository of the weights"
        ),
    };
    Err(Error::Weights {
        path: folder.to_owned(),
        faults: vec![Fault::new("tokenizer", problem)],
    })
}

/// BERT's tokenizer of a vocabulary, one token a line; as transformers makes it where there is no `tokenizer.json`.
fn word_pieces(path: &Path, config: &Value) -> Result<Tokenizer, Error> {
    let fail = |field: &str, problem: String| Error::weights(path, field, problem);
    let vocabulary = WordPiece::read_bytes(&bytes(path)?);
    let vocabulary = vocabulary.map_err(|e| fail("file", e.to_string()))?;
    let special = |token: &str| {
        let id = vocabulary.get(token).copied();
        id.ok_or_else(|| fail(token, "is missing; BERT's vocabularies have it".to_owned()))
    };
    let (start, end) = (special("[CLS]")?, special("[SEP]")?);
    for token in ["[UNK]", "[PAD]"] {
        special(token)?;
    }
    let flag =
        |field: &str, usual: bool| config.get(field).and_then(Value::as_bool).unwrap_or(usual);
    let has_mask = vocabulary.contains_key("[MASK]");
    let model = WordPiece::builder()
        .vocab(vocabulary.clone())
        .unk_token("[UNK]".to_owned())
        .build();
    let mut tokenizer = Tokenizer::new(model.map_err(|e| fail("file", e.to_string()))?);
    let normalizer = BertNormalizer::new(
        true,
        flag("tokenize_chinese_chars", true),
        config.get("strip_accents").and_then(Value::as_bool),
        flag("do_lower_case", true),
    );
    let told = tokenizer.with_normalizer(Some(normalizer));
    told.map_err(|e| fail("normalizer", e.to_string()))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let ends = BertProcessing::new(("[SEP]".to_owned(), end), ("[CLS]".to_owned(), start));
    tokenizer.with_post_processor(Some(ends));
    let specials = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"];
    let specials = specials.iter().filter(|t| has_mask || **t != "[MASK]");
    let added = tokenizer.add_special_tokens(specials.map(|t| AddedToken::from(*t, true)));
    added.map_err(|e| fail("special tokens", e.to_string()))?;
    Ok(tokenizer)
}

/// The id that fills texts up: what `tokenizer_config.json` calls so, else what is usually called so.
fn pad(tokenizer: &Tokenizer, config: &Value, form: Form) -> Option<u32> {
    let named = config.get("pad_token");
    let named = named.and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str()));
    let usual = ["[PAD]", "<pad>"];
    let found = named
        .into_iter()
        .chain(usual)
        .find_map(|t| tokenizer.token_to_id(t));
    // SigLIP's first vocabulary fills up with its end token.
    found.or_else(|| tokenizer.token_to_id("</s>").filter(|_| form.is_siglip))
}
