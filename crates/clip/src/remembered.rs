//! Tensors made of a frozen CLIP and texts alone, kept for whoever asks for the same again.

use std::collections::VecDeque;
use std::sync::Mutex;

use candle_core::{Result, Tensor};

/// Most bytes kept, of tensors and of the texts that they are known by; the oldest go first.
const MOST: usize = 32 << 20;

/// What was made, in the order in which it was.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<VecDeque<Entry>>);

#[derive(Debug)]
struct Entry {
    what: String,
    texts: Vec<String>,
    tensor: Tensor,
}

impl Entry {
    fn is(&self, what: &str, texts: &[String]) -> bool {
        self.what == what && self.texts == texts
    }

    fn bytes(&self) -> usize {
        let texts = self.texts.iter().map(|t| t.len() + size_of::<String>());
        texts.sum::<usize>() + self.tensor.elem_count() * self.tensor.dtype().size_in_bytes()
    }
}

impl Remembered {
    /// What `make` gives, or gave before. Two threads that ask at once both make it: the same, for it depends on nothing
    /// else.
    pub(crate) fn get(
        &self,
        what: &str,
        texts: &[String],
        make: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let known = self.0.lock().expect("no panic while held");
        if let Some(entry) = known.iter().find(|e| e.is(what, texts)) {
            return Ok(entry.tensor.clone());
        }
        drop(known);
        let tensor = make()?.detach();
        let entry = Entry {
            what: what.to_owned(),
            texts: texts.to_vec(),
            tensor: tensor.clone(),
        };
        let mut known = self.0.lock().expect("no panic while held");
        if !known.iter().any(|e| e.is(what, texts)) {
            known.push_back(entry);
        }
        let mut held: usize = known.iter().map(Entry::bytes).sum();
        while held > MOST {
            let oldest = known.pop_front().expect("what is held is held by entries");
            held -= oldest.bytes();
        }
        Ok(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn texts(of: &[&str]) -> Vec<String> {
        of.iter().map(|t| (*t).to_owned()).collect()
    }

    fn made(value: f32, numbers: usize) -> Result<Tensor> {
        Tensor::full(value, numbers, &Device::Cpu)
    }

    fn first(tensor: &Tensor) -> f32 {
        tensor.get(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn the_same_is_made_once_and_anything_else_anew() {
        let known = Remembered::default();
        let ask = |what: &str, of: &[&str], value: f32| {
            first(&known.get(what, &texts(of), || made(value, 3)).unwrap())
        };
        assert_eq!(ask("mean", &["a", "b"], 1.0), 1.0);
        assert_eq!(ask("mean", &["a", "b"], 2.0), 1.0);
        assert_eq!(ask("mean", &["b", "a"], 3.0), 3.0);
        assert_eq!(ask("unit", &["a", "b"], 4.0), 4.0);
        assert_eq!(ask("mean", &["ab"], 5.0), 5.0);
    }

    #[test]
    fn the_oldest_go_where_all_do_not_fit() {
        let known = Remembered::default();
        let third = MOST / size_of::<f32>() / 3;
        let ask = |name: &str, value: f32| {
            first(
                &known
                    .get("mean", &texts(&[name]), || made(value, third))
                    .unwrap(),
            )
        };
        assert_eq!(
            [ask("a", 1.0), ask("b", 2.0), ask("c", 3.0)],
            [1.0, 2.0, 3.0]
        );
        assert_eq!(ask("c", 4.0), 3.0);
        assert_eq!(
            ask("a", 5.0),
            5.0,
            "three of a third and their texts are more than there is room for"
        );
    }

    #[test]
    fn what_alone_is_too_large_is_given_but_not_kept() {
        let known = Remembered::default();
        let all = MOST / size_of::<f32>();
        for value in [1.0, 2.0] {
            let given = known.get("mean", &texts(&["a"]), || made(value, all));
            assert_eq!(first(&given.unwrap()), value);
        }
    }

    #[test]
    fn an_error_is_not_kept() {
        let known = Remembered::default();
        let failed = known.get("mean", &texts(&["a"]), || candle_core::bail!("no"));
        assert!(failed.is_err());
        let given = known.get("mean", &texts(&["a"]), || made(1.0, 1));
        assert_eq!(first(&given.unwrap()), 1.0);
    }
}
