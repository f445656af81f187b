//! What differs between published text towers: who sees whom, where a text is read, and what follows.

use candle_core::{Result, Tensor};

use crate::ops::times;

/// Where a text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// At its last row.
    Last,
    /// At its first row, which the start token is.
    First,
    /// At all of them, by their mean.
    Mean,
}

/// Whose text tower it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// CLIP's: rows see those before them, texts are read at their end token.
    #[default]
    Clip,
    /// BERT's (BiomedCLIP): all rows see each other; positions, token types and a norm before the blocks, no norm behind.
    Bert(Pooling),
    /// SigLIP's: all rows see each other, what fills a text up too, and the last is read.
    Siglip,
}

impl Family {
    /// Where it reads a text.
    pub fn pooling(self) -> Pooling {
        match self {
            Self::Clip | Self::Siglip => Pooling::Last,
            Self::Bert(pooling) => pooling,
        }
    }
}

/// From a text's hidden state to its feature. `W` text width, `E` joint width.
#[derive(Clone, Debug)]
pub(crate) enum Head {
    /// Nothing.
    None,
    /// `[W, E]`, and a bias `[E]` where there is one.
    Linear(Tensor, Option<Tensor>),
    /// `[W, H]`, GELU, `[H, E]` (`proj_type: mlp` of open_clip's `hf_model.py`).
    Mlp([Tensor; 2]),
}

impl Head {
    /// `E`; of `None` the tower's own width.
    pub(crate) fn width(&self) -> Option<usize> {
        self.tensors().next()?;
        let last = match self {
            Self::None => return None,
            Self::Linear(matrix, _) => matrix,
            Self::Mlp([_, second]) => second,
        };
        last.dim(1).ok()
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let all: Vec<&Tensor> = match self {
            Self::None => Vec::new(),
            Self::Linear(matrix, bias) => std::iter::once(matrix).chain(bias).collect(),
            Self::Mlp(both) => both.iter().collect(),
        };
        all.into_iter()
    }

    /// The same with what `f` makes of each tensor.
    pub(crate) fn map(&self, f: &mut dyn FnMut(String, &Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(match self {
            Self::None => Self::None,
            Self::Linear(matrix, bias) => {
                let matrix = f("text_projection".to_owned(), matrix)?;
                let bias = bias
                    .as_ref()
                    .map(|b| f("text_projection.bias".to_owned(), b));
                Self::Linear(matrix, bias.transpose()?)
            }
            Self::Mlp([first, second]) => Self::Mlp([
                f("text_projection.0".to_owned(), first)?,
                f("text_projection.2".to_owned(), second)?,
            ]),
        })
    }

    /// `[n, W]` to `[n, E]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x.clone()),
            Self::Linear(matrix, None) => times(x, matrix),
            Self::Linear(matrix, Some(bias)) => times(x, matrix)?.broadcast_add(bias),
            Self::Mlp([first, second]) => x.matmul(first)?.gelu_erf()?.matmul(second),
        }
    }
}
