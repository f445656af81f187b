//! Two small layers behind a tower, blended with what comes out of it: CLIP-Adapter's, and CoPrompt's behind both.
//!
//! `n` rows, `E` joint width, `H` hidden width.

use candle_core::{Result, Tensor, Var};

use super::losses::relu;
use crate::{Init, Settings};

/// Reads joint width over hidden width; 4 as published.
pub(crate) fn read_reduction(s: &mut Settings) -> usize {
    s.count("reduction", 4, 1..=4096, "joint width over hidden width")
}

/// The layers, and how much of them enters.
pub(crate) struct Adapter {
    /// `[H, E]`.
    down: Var,
    /// `[E, H]`.
    up: Var,
    /// Share of the adapted feature.
    ratio: f64,
}

impl Adapter {
    /// With fresh values, behind features `[n, width]`.
    pub(crate) fn new(width: usize, reduction: usize, ratio: f64, init: &mut Init) -> Result<Self> {
        let hidden = (width / reduction).max(1);
        // `torch.nn.Linear` without a bias draws its weight and nothing more.
        let mut layer = |out: usize, inner: usize| {
            Var::from_tensor(&init.uniform(&[out, inner], 1.0 / (inner as f64).sqrt())?)
        };
        Ok(Self {
            down: layer(hidden, width)?,
            up: layer(width, hidden)?,
            ratio,
        })
    }

    /// Both layers, named as those of the module `module`.
    pub(crate) fn named(&self, module: &str) -> Vec<(String, Var)> {
        vec![
            (format!("{module}.fc.0.weight"), self.down.clone()),
            (format!("{module}.fc.2.weight"), self.up.clone()),
        ]
    }

    /// `[n, E]` of `features` `[n, E]` that are not normalised yet.
    pub(crate) fn blend(&self, features: &Tensor, of: &impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let hidden = relu(&features.matmul(&of(&self.down).t()?)?)?; // [n, H]
        // The second ReLU too: the blend adds nothing below zero.
        let adapted = relu(&hidden.matmul(&of(&self.up).t()?)?)?; // [n, E]
        (adapted * self.ratio)? + (features * (1.0 - self.ratio))?
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_blend_is_worked_out_by_hand() {
        let mut adapter = Adapter::new(2, 2, 0.25, &mut Init::seeded(1)).unwrap();
        let set = |v: &mut Var, rows: &[[f32; 2]]| {
            let flat = Tensor::new(rows.as_flattened(), &Device::Cpu).unwrap();
            v.set(&flat.reshape(v.dims()).unwrap()).unwrap();
        };
        set(&mut adapter.down, &[[1.0, -1.0]]);
        set(&mut adapter.up, &[[2.0, -3.0]]);
        let features = Tensor::new(&[[3f32, 1.0], [1.0, 3.0]], &Device::Cpu).unwrap();
        let got = adapter
            .blend(&features, &Var::as_detached_tensor)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        // Hidden 2 and 0; adapted (4, 0) and nothing.
        assert_eq!(got, [[0.25 * 4.0 + 0.75 * 3.0, 0.75], [0.75, 2.25]]);
    }
}
