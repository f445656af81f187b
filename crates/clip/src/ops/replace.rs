//! Putting prompt rows into packed rows: how every prompt enters a tower.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout as Strides, Result, Shape, Tensor, bail};

use super::{values, with_values};

/// What happens to the rows that are there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Put {
    /// They are lost, and get no gradient.
    Instead,
    /// The prompt is added to them.
    OnTop,
    /// This share of the prompt and the rest of them.
    Mixed(f64),
}

/// For each `(row, source)`: puts `prompt[source]` at `x[row]`. `x` `[R, W]`, `prompt` `[N, W]`, result `[R, W]`.
///
/// A source may appear many times (a context shared by classes); its gradients add up in list order.
///
/// # Errors
/// When a row, a source or a width does not fit.
pub fn put_rows(
    x: &Tensor,
    prompt: &Tensor,
    rows: &Arc<Vec<(usize, usize)>>,
    put: Put,
) -> Result<Tensor> {
    let ((r, w), (n, pw)) = (x.dims2()?, prompt.dims2()?);
    if w != pw {
        bail!("prompt rows are {pw} wide, the tower's are {w}");
    }
    if let Some((row, source)) = rows.iter().find(|(row, source)| *row >= r || *source >= n) {
        bail!("prompt row {source} of {n} cannot go to row {row} of {r}");
    }
    if !x.device().is_cpu() {
        return composed(x, prompt, rows, put);
    }
    let op = PutRows {
        rows: rows.clone(),
        put,
        into_tracked: x.track_op(),
    };
    x.contiguous()?.apply_op2(&prompt.contiguous()?, op)
}

fn composed(x: &Tensor, prompt: &Tensor, rows: &[(usize, usize)], put: Put) -> Result<Tensor> {
    let (r, _) = x.dims2()?;
    let device = x.device();
    let to = Tensor::new(rows.iter().map(|p| p.0 as u32).collect::<Vec<_>>(), device)?;
    let from = Tensor::new(rows.iter().map(|p| p.1 as u32).collect::<Vec<_>>(), device)?;
    let (kept, share) = match put {
        Put::OnTop => (1.0, 1.0),
        Put::Instead => (0.0, 1.0),
        Put::Mixed(share) => ((1.0 - share) as f32, share),
    };
    let mut keep = vec![1f32; r];
    rows.iter().for_each(|p| keep[p.0] = kept);
    let base = x.broadcast_mul(&Tensor::from_vec(keep, (r, 1), device)?)?;
    base.index_add(&to, &(prompt.index_select(&from, 0)? * share)?, 0)
}

struct PutRows {
    rows: Arc<Vec<(usize, usize)>>,
    put: Put,
    into_tracked: bool,
}

impl CustomOp2 for PutRows {
    fn name(&self) -> &'static str {
        "put-rows"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Strides,
        s2: &CpuStorage,
        l2: &Strides,
    ) -> Result<(CpuStorage, Shape)> {
        let (prompt, w) = (values(s2, l2)?, l1.shape().dims2()?.1);
        let mut out = values(s1, l1)?.to_vec();
        for &(row, source) in self.rows.iter() {
            let (to, from) = (
                &mut out[row * w..(row + 1) * w],
                &prompt[source * w..(source + 1) * w],
            );
            match self.put {
                Put::Instead => to.copy_from_slice(from),
                Put::OnTop => to.iter_mut().zip(from).for_each(|(a, b)| *a += b),
                Put::Mixed(share) => {
                    let (share, rest) = (share as f32, (1.0 - share) as f32);
                    let pairs = to.iter_mut().zip(from);
                    pairs.for_each(|(a, b)| *a = share * b + rest * *a);
                }
            }
        }
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        prompt: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, w) = prompt.dims2()?;
        let d_prompt = with_values(grad, |g| {
            let mut d = vec![0f32; n * w];
            for &(row, source) in self.rows.iter() {
                let (to, from) = (
                    &mut d[source * w..(source + 1) * w],
                    &g[row * w..(row + 1) * w],
                );
                to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
            }
            if let Put::Mixed(share) = self.put {
                d.iter_mut().for_each(|v| *v *= share as f32);
            }
            Tensor::from_vec(d, (n, w), prompt.device())
        })?;
        let d_into = match (self.into_tracked, self.put) {
            (false, _) => None,
            (true, Put::OnTop) => Some(grad.clone()),
            (true, Put::Instead | Put::Mixed(_)) => Some(with_values(grad, |g| {
                let mut d = g.to_vec();
                for &(row, _) in self.rows.iter() {
                    let row = &mut d[row * w..(row + 1) * w];
                    match self.put {
                        Put::Mixed(share) => {
                            row.iter_mut().for_each(|v| *v *= (1.0 - share) as f32);
                        }
                        _ => row.fill(0.0),
                    }
                }
                Tensor::from_vec(d, grad.shape(), grad.device())
            })?),
        };
        Ok((d_into, Some(d_prompt)))
    }
}
