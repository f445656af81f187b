//! Configurations beside weights: what they claim is compared with the tensors, and they say what tensors do not: the
//! activation, the heads, and how pictures are made ready.
//!
//! Fields are those of open_clip 3.3.0 (`model.py`, `transform.py`) and transformers 5.24.0 and before
//! (`configuration_clip.py`, `configuration_utils.py`, `image_processing_clip.py`). Each is honoured, refused by name
//! where it asks for what is not computed here, or changes no number of frozen towers; `tests/weights/fields.rs` walks
//! over all of them.

mod hugging_face;
mod open_clip;
mod others;

pub(super) use hugging_face::{hugging_face, is_of_a_clip};
pub(super) use open_clip::open_clip;

use super::architecture::Transformer;
use super::foreign;
use super::settings::Look;
use crate::error::{Error, Fault};
use crate::ops::Activation;
use crate::text::Pooling;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What a configuration says that tensors do not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Of the image and the text tower.
    pub(super) activations: [Activation; 2],
    /// Not of a tower that only the configuration of another repository describes (BERT).
    pub(super) text_heads: Option<usize>,
    /// Of a vision transformer.
    pub(super) image_heads: Option<usize>,
    pub(super) look: Look,
    /// Most tokens of a text, where positions do not say.
    pub(super) context: Option<usize>,
    /// Where BERT is read.
    pub(super) pooling: Option<Pooling>,
}

/// Configurations are a few kilobytes.
const LARGEST: u64 = 16 << 20;

/// A JSON file.
pub(super) fn read(path: &Path) -> Result<Value, Error> {
    let mut text = String::new();
    let file = File::open(path).map_err(Error::file(path))?;
    file.take(LARGEST)
        .read_to_string(&mut text)
        .map_err(Error::file(path))?;
    let json = text.strip_prefix('\u{feff}').unwrap_or(&text);
    serde_json::from_str(json).map_err(|e| {
        // A pointer or a web page in its place says more than where the first brace is missing.
        let is_json = json.trim_start().starts_with(['{', '[']);
        let other = foreign::file(json.as_bytes()).filter(|_| !is_json);
        Error::weights(path, "JSON", other.unwrap_or_else(|| e.to_string()))
    })
}

/// Equal, whole numbers and others alike.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|a| b.as_f64() == Some(a))
}

/// Collects where a configuration and the tensors disagree.
struct Comparison<'a> {
    config: &'a Value,
    faults: Vec<Fault>,
}

impl Comparison<'_> {
    fn find(&self, field: &str) -> Option<&Value> {
        let pointer = format!("/{}", field.replace('.', "/"));
        self.config.pointer(&pointer).filter(|v| !v.is_null())
    }

    /// The fields of an object, if it is there.
    fn fields(&self, object: &str) -> Vec<String> {
        let found = match object {
            "" => Some(self.config),
            _ => self.find(object),
        };
        let fields = found.and_then(Value::as_object);
        fields.map_or_else(Vec::new, |f| f.keys().cloned().collect())
    }

    fn disagree(&mut self, field: &str, problem: String) {
        self.faults.push(Fault::new(field, problem));
    }

    /// A field that says how large something is.
    fn size(&mut self, field: &str, tensors: impl Into<Value>) {
        let tensors = tensors.into();
        let is_same = |claimed: &Value| {
            let both = claimed.as_array().filter(|sides| sides.len() == 2);
            // A side of a square, or both.
            same(claimed, &tensors) || both.is_some_and(|b| b.iter().all(|v| same(v, &tensors)))
        };
        if let Some(claimed) = self.find(field).filter(|v| !is_same(v)) {
            let problem = format!("is {claimed}, but the tensors make it {tensors}");
            self.disagree(field, problem);
        }
    }

    /// A field that changes what is computed, with the one value that is computed here.
    fn only(&mut self, field: &str, value: impl Into<Value>) {
        let value = value.into();
        if let Some(claimed) = self.find(field).filter(|v| !same(v, &value)) {
            let problem = format!("is {claimed}; only {value} can be run here");
            self.disagree(field, problem);
        }
    }

    /// A field that changes what is computed unless it is off.
    fn off(&mut self, field: &str) {
        let is_off = |v: &Value| match v {
            Value::Bool(is_on) => !is_on,
            Value::Number(n) => n.as_f64() == Some(0.0),
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            Value::Null => true,
        };
        if let Some(claimed) = self.find(field).filter(|v| !is_off(v)) {
            let problem = format!("is {claimed}, which cannot be run here; it has to be off");
            self.disagree(field, problem);
        }
    }

    /// Three numbers, or one for all three channels.
    fn triple(&mut self, field: &str, usual: [f32; 3]) -> [f64; 3] {
        let usual = usual.map(f64::from);
        let Some(claimed) = self.find(field).cloned() else {
            return usual;
        };
        let found = match claimed.as_array() {
            None => claimed.as_f64().map(|v| [v; 3]),
            Some(all) => {
                let all: Option<Vec<f64>> = all.iter().map(Value::as_f64).collect();
                all.and_then(|a| <[f64; 3]>::try_from(a).ok())
            }
        };
        let found = found.filter(|v| v.iter().all(|v| v.is_finite()));
        found.unwrap_or_else(|| {
            let problem = format!("is {claimed}; it is a number for each of red, green and blue");
            self.disagree(field, problem);
            usual
        })
    }

    /// Deviations are divided by.
    fn deviation(&mut self, field: &str, usual: [f32; 3]) -> [f64; 3] {
        let found = self.triple(field, usual);
        if found.contains(&0.0) {
            self.disagree(field, format!("is {found:?}; nothing can be divided by 0"));
        }
        found
    }

    /// A count of heads, or what the format means by leaving it out.
    fn heads(&mut self, field: &str, tower: &Transformer, left_out: usize) -> usize {
        let claimed = self.find(field);
        let heads = claimed.map_or(Some(left_out), |v| {
            v.as_u64().and_then(|n| n.try_into().ok())
        });
        match heads {
            Some(n) if n > 0 && tower.width.is_multiple_of(n) => n,
            _ => {
                let said = claimed.map_or_else(
                    || format!("is left out, which means {left_out}"),
                    |v| format!("is {v}"),
                );
                let problem = format!("{said}; heads have to divide the width {}", tower.width);
                self.disagree(field, problem);
                1
            }
        }
    }

    fn finish(self, path: &Path) -> Result<(), Error> {
        if self.faults.is_empty() {
            Ok(())
        } else {
            Err(Error::Weights {
                path: path.to_owned(),
                faults: self.faults,
            })
        }
    }
}
