//! What texts are to one text tower: which ids their words have, what stands before and behind them, and how long a text
//! may or has to be.
//!
//! CLIP's own is the default and part of the program ([`Tokenizer`]). Others are read from the tokenizer that lies beside
//! the weights (`reading`), by the `tokenizers` crate, which is what transformers runs.

mod reading;

pub(crate) use reading::{Form, read};

use crate::error::Error;
use crate::tokenizer::{CONTEXT, EOT, SOT, Tokenizer, VOCABULARY, canonical, clean_case};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The wording of one text tower; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Wording(Kind);

#[derive(Clone, Debug, Default)]
enum Kind {
    /// CLIP's byte pairs.
    #[default]
    Clip,
    Read(Arc<Read>),
}

/// A tokenizer of a file, and how its tower takes texts.
#[derive(Debug)]
struct Read {
    tokenizer: tokenizers::Tokenizer,
    /// Ids before and behind the words.
    start: Vec<u32>,
    end: Vec<u32>,
    /// What fills a text up.
    pad: u32,
    /// Most tokens of a text, start and end included.
    longest: usize,
    /// Whether the tower sees what fills it up, so that every text is as long as the longest.
    is_filled: bool,
    /// Whether texts are in lower case and without punctuation.
    is_canonical: bool,
}

impl Read {
    fn encode(&self, text: &str) -> Vec<u32> {
        let text = match self.is_canonical {
            true => canonical(text),
            false => clean_case(text),
        };
        let encoded = self.tokenizer.encode_fast(text, false);
        encoded.map_or_else(|_| Vec::new(), |e| e.get_ids().to_vec())
    }

    /// With start and end, and filled up where the tower wants it.
    fn whole(&self, words: &[u32]) -> Vec<u32> {
        let mut ids = [&self.start, words, &self.end].concat();
        if self.is_filled {
            ids.resize(self.longest.max(ids.len()), self.pad);
        }
        ids
    }

    fn room(&self) -> usize {
        (self.longest - self.start.len()).saturating_sub(self.end.len())
    }
}

impl Wording {
    /// Token ids of a text, without start and end.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        match &self.0 {
            Kind::Clip => Tokenizer::shared().encode(text),
            Kind::Read(read) => read.encode(text),
        }
    }

    /// Ids as the tower takes them: start (where there is one), words, end; filled up only where the tower sees what
    /// fills it up (SigLIP).
    ///
    /// # Errors
    /// When that is more than [`context`](Self::context) tokens; the error names the text.
    pub fn sequence(&self, text: &str) -> Result<Vec<u32>, Error> {
        match &self.0 {
            Kind::Clip => Tokenizer::shared().sequence(text),
            Kind::Read(read) => {
                let words = read.encode(text);
                if words.len() > read.room() {
                    return Err(Error::TooLong {
                        text: text.to_owned(),
                        tokens: read.start.len() + words.len() + read.end.len(),
                        limit: read.longest,
                    });
                }
                Ok(read.whole(&words))
            }
        }
    }

    /// Ids of a text that is not cleaned before, start and end included, however many.
    pub fn raw(&self, text: &str) -> Vec<u32> {
        let Kind::Read(read) = &self.0 else {
            return self.cut(text);
        };
        let encoded = read.tokenizer.encode_fast(text, true);
        encoded.map_or_else(|_| Vec::new(), |e| e.get_ids().to_vec())
    }

    /// As [`sequence`](Self::sequence), of as many first words as fit.
    pub fn cut(&self, text: &str) -> Vec<u32> {
        let words = self.encode(text);
        match &self.0 {
            Kind::Clip => {
                let kept = &words[..words.len().min(CONTEXT - 2)];
                let ends = [SOT, EOT];
                [&ends[..1], kept, &ends[1..]].concat()
            }
            Kind::Read(read) => read.whole(&words[..words.len().min(read.room())]),
        }
    }

    /// [`sequence`](Self::sequence) filled up to [`context`](Self::context) tokens, as published code hands it over.
    ///
    /// # Errors
    /// As [`sequence`](Self::sequence).
    pub fn padded(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut ids = self.sequence(text)?;
        ids.resize(self.context(), self.pad());
        Ok(ids)
    }

    /// What stands before the words: one token, or none.
    pub fn start(&self) -> &[u32] {
        match &self.0 {
            Kind::Clip => &[SOT],
            Kind::Read(read) => &read.start,
        }
    }

    /// How many tokens stand before the words.
    pub fn starts(&self) -> usize {
        self.start().len()
    }

    /// Most tokens of a text, start and end included.
    pub fn context(&self) -> usize {
        match &self.0 {
            Kind::Clip => CONTEXT,
            Kind::Read(read) => read.longest,
        }
    }

    /// The id that fills a text up.
    pub fn pad(&self) -> u32 {
        match &self.0 {
            Kind::Clip => 0,
            Kind::Read(read) => read.pad,
        }
    }

    /// Number of ids.
    pub fn vocabulary(&self) -> usize {
        match &self.0 {
            Kind::Clip => VOCABULARY,
            Kind::Read(read) => read.tokenizer.get_vocab_size(true),
        }
    }

    /// The token as people read it, without the signs for where words end or go on. Empty for an unknown id.
    pub fn word(&self, id: u32) -> String {
        match &self.0 {
            Kind::Clip => Tokenizer::shared().word(id).replace("</w>", ""),
            Kind::Read(read) => {
                let token = read.tokenizer.id_to_token(id).unwrap_or_default();
                token.trim_start_matches('▁').to_owned()
            }
        }
    }

    /// What kind of tokens these are, for people.
    pub fn about(&self) -> String {
        use tokenizers::ModelWrapper;
        let Kind::Read(read) = &self.0 else {
            return "CLIP byte pairs".to_owned();
        };
        let kind = match read.tokenizer.get_model() {
            ModelWrapper::WordPiece(_) => "WordPiece",
            ModelWrapper::Unigram(_) => "unigrams",
            ModelWrapper::BPE(_) => "byte pairs",
            ModelWrapper::WordLevel(_) => "whole words",
        };
        let filled = if read.is_filled { "always" } else { "at most" };
        format!(
            "{kind} of {} tokens, {filled} {} a text",
            self.vocabulary(),
            read.longest
        )
    }

    /// What follows the fingerprint of weights: nothing for CLIP's, else a digest of the vocabulary and of how the tower
    /// takes texts.
    pub(crate) fn manner(&self) -> String {
        let Kind::Read(read) = &self.0 else {
            return String::new();
        };
        let vocabulary = read.tokenizer.get_vocab(true);
        let mut vocabulary: Vec<(&u32, &String)> =
            vocabulary.iter().map(|(token, id)| (id, token)).collect();
        vocabulary.sort();
        let form = (
            &read.start,
            &read.end,
            read.pad,
            read.longest,
            read.is_filled,
        );
        let digest = Sha256::digest(format!("{form:?} {vocabulary:?}"));
        let digits: String = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
        format!("-words{digits}")
    }

    /// Whether it is CLIP's.
    pub fn is_clips(&self) -> bool {
        matches!(self.0, Kind::Clip)
    }
}
