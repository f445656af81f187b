//! One training step, the same for whoever trains: trials, replays, benchmarks.

use candle_core::backprop::GradStore;
use candle_core::{Result, bail};

use crate::method::{Batch, Loss, Method};
use crate::optimizer::Optimizer;

/// What a step did.
pub struct Step {
    /// The loss before the update, with its parts.
    pub loss: Loss,
    /// Its value.
    pub value: f64,
    /// The gradients the update was made of; `None` where the loss is not finite, and then nothing was updated.
    pub gradients: Option<GradStore>,
}

/// The learning rate of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Of the optimizer's first group.
    pub lr: f64,
    /// Whether [`Method::rate`] multiplies it; not while warming up, when the family gives every group the same.
    pub by_parameter: bool,
}

impl From<f64> for Rate {
    fn from(lr: f64) -> Self {
        Self {
            lr,
            by_parameter: true,
        }
    }
}

/// Loss, gradients, update.
///
/// # Errors
/// Those of the method; at the optimizer's first step a trained tensor that gets no gradient, by its name: a tower
/// operation without one would leave it untrained in silence.
pub fn step(
    method: &mut dyn Method,
    optimizer: &mut Optimizer,
    batch: &Batch,
    rate: impl Into<Rate>,
) -> Result<Step> {
    let loss = method.loss(batch)?;
    let value = f64::from(loss.total.to_scalar::<f32>()?);
    if !value.is_finite() {
        return Ok(Step {
            loss,
            value,
            gradients: None,
        });
    }
    let gradients = method.gradients(&loss)?;
    let trained = method.trained_now();
    if !optimizer.has_stepped() {
        for (name, var) in &trained {
            if gradients.get(var.as_tensor()).is_none() {
                bail!("{name} gets no gradient; this is a defect of the method, please report it");
            }
        }
    }
    let Rate { lr, by_parameter } = rate.into();
    let factor = |name: &str| if by_parameter { method.rate(name) } else { 1.0 };
    optimizer.step_at(&trained, &gradients, |name| lr * factor(name))?;
    Ok(Step {
        loss,
        value,
        gradients: Some(gradients),
    })
}
