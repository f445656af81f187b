//! How far a replay is from what was recorded.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, bail};

use crate::method::Method;

/// How far a replay is from its recording.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// Steps replayed (pictures, for methods that adapt to test pictures).
    pub steps: usize,
    /// Of any loss or part of one: absolute or relative, the smaller.
    pub loss: f64,
    /// Of any first gradient, as a share of the tensor's largest magnitude.
    pub gradient: f64,
    /// Of any final or derived tensor, as a share of its largest magnitude.
    pub values: f64,
    /// Of any logit, absolute.
    pub logits: f64,
    /// Choices that are not the recorded ones: kept views, picks, search results, votes.
    pub choices: Vec<String>,
}

/// Largest magnitude.
pub(super) fn largest(t: &Tensor) -> Result<f64> {
    Ok(f64::from(
        t.abs()?
            .flatten_all()?
            .max(0)?
            .to_dtype(DType::F32)?
            .to_scalar::<f32>()?,
    ))
}

/// Takes `value` where it is worse than what is there.
pub(super) fn worst(into: &mut f64, value: f64) {
    // Not a number is worse than any number.
    if value.is_nan() || value > *into {
        *into = value;
    }
}

/// Largest difference as a share of the recording's largest magnitude.
fn share(name: &str, ours: &Tensor, theirs: &Tensor) -> Result<f64> {
    if ours.dims() != theirs.dims() {
        bail!(
            "{name} is {:?}, recorded as {:?}",
            ours.dims(),
            theirs.dims()
        );
    }
    let difference = largest(&(ours.to_dtype(DType::F32)? - theirs.to_dtype(DType::F32)?)?)?;
    Ok(difference / largest(theirs)?.max(f64::MIN_POSITIVE))
}

impl Comparison {
    /// Compares a loss, or a part of one.
    pub fn loss(&mut self, ours: f64, theirs: f64) {
        let gap = (ours - theirs).abs();
        worst(&mut self.loss, gap.min(gap / theirs.abs()));
    }

    /// As [`Comparison::loss`], of a scalar.
    ///
    /// # Errors
    /// Those of candle.
    pub fn loss_of(&mut self, ours: &Tensor, theirs: f64) -> Result<()> {
        self.loss(f64::from(ours.to_scalar::<f32>()?), theirs);
        Ok(())
    }

    /// Compares a first gradient.
    ///
    /// # Errors
    /// Another shape.
    pub fn gradient(&mut self, name: &str, ours: &Tensor, theirs: &Tensor) -> Result<()> {
        worst(&mut self.gradient, share(name, ours, theirs)?);
        Ok(())
    }

    /// Compares a learned or derived tensor.
    ///
    /// # Errors
    /// Another shape.
    pub fn values(&mut self, name: &str, ours: &Tensor, theirs: &Tensor) -> Result<()> {
        worst(&mut self.values, share(name, ours, theirs)?);
        Ok(())
    }

    /// Compares logits.
    ///
    /// # Errors
    /// Another shape.
    pub fn logits(&mut self, ours: &Tensor, theirs: &Tensor) -> Result<()> {
        if ours.dims() != theirs.dims() {
            bail!(
                "logits are {:?}, recorded as {:?}",
                ours.dims(),
                theirs.dims()
            );
        }
        let theirs = theirs.to_dtype(ours.dtype())?;
        worst(&mut self.logits, largest(&(ours - theirs)?)?);
        Ok(())
    }

    /// Compares a choice, which must be equal.
    pub fn choice<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, ours: T, theirs: T) {
        if ours != theirs {
            self.choices
                .push(format!("{name}: {ours:?}, recorded {theirs:?}"));
        }
    }

    /// Compares how many rows of `scores` are largest at their label with recorded percent.
    ///
    /// # Errors
    /// Another number of labels; nothing recorded.
    pub fn accuracy(
        &mut self,
        name: &str,
        scores: &Tensor,
        labels: &[u32],
        percent: Option<f64>,
    ) -> Result<()> {
        let Some(percent) = percent else {
            bail!("{name}: must be a number");
        };
        let ours = crate::parts::shots::hits(scores, labels)?;
        self.choice(name, ours, counted(percent, labels.len()));
        Ok(())
    }

    /// Compares counts of `of` pictures, in the recorded tensor's order, with recorded percent.
    ///
    /// # Errors
    /// Another number of counts.
    pub fn hits(&mut self, name: &str, ours: &[u32], of: usize, percent: &Tensor) -> Result<()> {
        let recorded: Vec<f64> = percent.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        if recorded.len() != ours.len() {
            bail!("{name}: {} points, recorded {}", ours.len(), recorded.len());
        }
        for (index, (ours, theirs)) in ours.iter().zip(recorded).enumerate() {
            self.choice(
                &format!("{name}[{index}]"),
                *ours as usize,
                counted(theirs, of),
            );
        }
        Ok(())
    }

    /// Compares a chosen number, which must be the recorded one; readers of JSON may lose its last bit.
    pub fn chosen(&mut self, name: &str, ours: f64, theirs: Option<f64>) {
        if theirs.is_none_or(|theirs| (ours - theirs).abs() > 1e-12 * theirs.abs()) {
            self.choices
                .push(format!("{name}: {ours}, recorded {theirs:?}"));
        }
    }

    /// Compares every trained tensor with the recorded ones, which must be the same by name; and what the recording has of
    /// the method's state.
    ///
    /// # Errors
    /// Tensors that only one of the two has.
    pub fn parameters(
        &mut self,
        method: &dyn Method,
        recorded: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let trained = method.parameters().into_iter();
        let trained = trained.map(|(n, v)| (n, v.as_detached_tensor()));
        let state = method.state().into_iter();
        let state = state.filter(|(n, _)| recorded.contains_key(n));
        let ours: BTreeMap<String, Tensor> = trained.chain(state).collect();
        if ours.len() != recorded.len() {
            bail!(
                "{} tensors are trained, {} are recorded",
                ours.len(),
                recorded.len()
            );
        }
        for (name, want) in recorded {
            match ours.get(name) {
                Some(ours) => self.values(name, ours, want)?,
                None => bail!("{name} is recorded but not trained"),
            }
        }
        Ok(())
    }
}

/// How many of `of` pictures `percent` are.
fn counted(percent: f64, of: usize) -> usize {
    (percent * of as f64 / 100.0).round() as usize
}
