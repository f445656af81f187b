//! The few losses that the methods are built of. `B` images, `K` classes, `E` joint width.

use candle_core::{D, Result, Tensor};

pub use clip::ops::composed::{log_softmax, softmax};

/// Mean cross entropy of `[B, K]` logits and `[B]` labels.
///
/// # Errors
/// When shapes do not fit.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    log_softmax(logits)?
        .gather(&labels.unsqueeze(1)?, 1)?
        .mean_all()?
        .neg()
}

/// Mean of `|a - b|` over all elements; its slope is 0 where they are equal, as in PyTorch.
///
/// # Errors
/// When shapes do not fit.
pub fn mean_absolute(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let difference = (a - b)?;
    (&difference * difference.detach().sign()?)?.mean_all()
}

/// Mean over rows of the cosine of `a` and `b`, both `[n, E]` and of unit length.
///
/// # Errors
/// When shapes do not fit.
pub fn mean_cosine(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    (a * b)?.sum(D::Minus1)?.mean_all()
}

/// `x` where it is positive, else 0; slope 0 at 0, as in PyTorch.
///
/// # Errors
/// Those of candle.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x * x.detach().gt(0f64)?.to_dtype(x.dtype())?
}
