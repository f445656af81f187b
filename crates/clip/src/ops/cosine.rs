//! The three steps from features to a loss: unit length, scaled cosines, cross entropy. Each is one pass over its rows.
//!
//! `B` images, `K` classes, `E` joint width (arXiv 2103.00020, figure 3).

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Layout as Strides, Result, Shape, Tensor, bail,
};
use pulp::Arch;
use rayon::prelude::*;

use super::gemm::{Mat, Threads, product};
use super::rows::{dot, exp, max, sum};
use super::{composed, on_pool, values, with_values};

/// Rows a task takes at least: fewer are not worth handing over.
const ROWS: usize = 16;

/// Every row, along the last dimension, scaled to unit length.
///
/// # Errors
/// Those of candle.
pub fn unit(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return composed::unit(x);
    }
    x.contiguous()?.apply_op1(Unit)
}

/// `scale * images texts^T`, `[B, K]`, of `[B, E]` and `[K, E]`. The scale multiplies the images, as published.
///
/// # Errors
/// When shapes do not fit.
pub fn scaled_cosine(images: &Tensor, texts: &Tensor, scale: f64) -> Result<Tensor> {
    let ((_, width), (_, other)) = (images.dims2()?, texts.dims2()?);
    if width != other {
        bail!("image features are {width} wide, text features {other}");
    }
    if !images.device().is_cpu() {
        return composed::scaled_cosine(images, texts, scale);
    }
    let op = ScaledCosine {
        scale: scale as f32,
        tracked: (images.track_op(), texts.track_op()),
    };
    images.contiguous()?.apply_op2(&texts.contiguous()?, op)
}

/// Mean cross entropy of `[B, K]` logits and `[B]` labels (u32), a scalar.
///
/// # Errors
/// When shapes do not fit, or a label is no class.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    if labels.dims1()? != rows {
        bail!("{rows} rows of logits and {} labels", labels.dims1()?);
    }
    if !logits.device().is_cpu() {
        return composed::cross_entropy(logits, labels);
    }
    let labels = labels.to_vec1::<u32>()?;
    if let Some(label) = labels.iter().find(|l| **l as usize >= classes) {
        bail!("label {label} is not one of {classes} classes");
    }
    logits.contiguous()?.apply_op1(CrossEntropy { labels })
}

fn width(shape: &Shape) -> Result<usize> {
    match shape.dims().last() {
        Some(&width) if width > 0 => Ok(width),
        _ => bail!("there is nothing to normalise in {shape:?}"),
    }
}

struct Unit;

impl CustomOp1 for Unit {
    fn name(&self) -> &'static str {
        "unit-length"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Strides) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (values(storage, layout)?, width(layout.shape())?);
        let mut out = vec![0f32; x.len()];
        let arch = Arch::new();
        on_pool(|| {
            let rows = out.par_chunks_mut(w).zip(x.par_chunks(w));
            rows.with_min_len(ROWS).for_each(|(out, x)| {
                arch.dispatch(
                    #[inline(always)]
                    || {
                        let norm = dot(x, x).sqrt();
                        out.iter_mut().zip(x).for_each(|(out, x)| *out = x / norm);
                    },
                );
            });
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    /// `(g - y (y . g)) / |x|`, row by row.
    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let w = width(x.shape())?;
        let arch = Arch::new();
        let dx = with_values(x, |x| {
            with_values(y, |y| {
                with_values(grad, |g| {
                    let mut dx = vec![0f32; x.len()];
                    on_pool(|| {
                        let given = (x.par_chunks(w), y.par_chunks(w), g.par_chunks(w));
                        let rows = dx.par_chunks_mut(w).zip(given.into_par_iter());
                        rows.with_min_len(ROWS).for_each(|(dx, (x, y, g))| {
                            arch.dispatch(
                                #[inline(always)]
                                || {
                                    let (norm, along) = (dot(x, x).sqrt(), dot(y, g));
                                    for ((dx, y), g) in dx.iter_mut().zip(y).zip(g) {
                                        *dx = (g - y * along) / norm;
                                    }
                                },
                            );
                        });
                    });
                    Ok(dx)
                })
            })
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

struct ScaledCosine {
    scale: f32,
    /// Whether images and texts want gradients.
    tracked: (bool, bool),
}

impl ScaledCosine {
    fn scaled(&self, x: &[f32]) -> Vec<f32> {
        x.iter().map(|v| v * self.scale).collect()
    }
}

impl CustomOp2 for ScaledCosine {
    fn name(&self) -> &'static str {
        "scaled-cosine"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Strides,
        s2: &CpuStorage,
        l2: &Strides,
    ) -> Result<(CpuStorage, Shape)> {
        let (images, texts) = (self.scaled(values(s1, l1)?), values(s2, l2)?);
        let ((b, e), (k, _)) = (l1.shape().dims2()?, l2.shape().dims2()?);
        let mut out = vec![0f32; b * k];
        let (a, t) = (Mat::new(&images, b, e, e), Mat::new(texts, k, e, e).t());
        on_pool(|| product(&mut out, k, a, t, false, Threads::Pool));
        Ok((CpuStorage::F32(out), Shape::from((b, k))))
    }

    fn bwd(
        &self,
        images: &Tensor,
        texts: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((b, e), (k, _)) = (images.dims2()?, texts.dims2()?);
        let gradient = |wanted: bool, rows: usize, grad: Mat, of: &[f32], inner: usize| {
            wanted.then(|| {
                let mut d = vec![0f32; rows * e];
                let of = Mat::new(of, inner, e, e);
                on_pool(|| product(&mut d, e, grad, of, false, Threads::Pool));
                d
            })
        };
        let (di, dt) = with_values(grad, |g| {
            let scaled = self.scaled(g);
            let g = Mat::new(&scaled, b, k, k);
            let di = with_values(texts, |t| Ok(gradient(self.tracked.0, b, g, t, k)))?;
            let dt = with_values(images, |i| Ok(gradient(self.tracked.1, k, g.t(), i, b)))?;
            Ok((di, dt))
        })?;
        let tensor = |d: Option<Vec<f32>>, of: &Tensor| {
            d.map(|d| Tensor::from_vec(d, of.shape(), of.device()))
                .transpose()
        };
        Ok((tensor(di, images)?, tensor(dt, texts)?))
    }
}

struct CrossEntropy {
    labels: Vec<u32>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Strides) -> Result<(CpuStorage, Shape)> {
        let (logits, k) = (values(storage, layout)?, layout.shape().dims2()?.1);
        let arch = Arch::new();
        let mut losses = vec![0f32; self.labels.len()];
        on_pool(|| {
            let rows = losses.par_iter_mut().zip(logits.par_chunks(k));
            let rows = rows.zip(&self.labels).with_min_len(ROWS);
            rows.for_each_init(Vec::new, |e: &mut Vec<f32>, ((loss, row), label)| {
                let (top, total) = exponentials(arch, row, e);
                *loss = top + total.ln() - row[*label as usize];
            });
        });
        let mean = losses.iter().sum::<f32>() / losses.len() as f32;
        Ok((CpuStorage::F32(vec![mean]), Shape::from(())))
    }

    /// `(softmax - one hot) / B`.
    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (b, k) = logits.dims2()?;
        let share = grad.to_scalar::<f32>()? / b as f32;
        let arch = Arch::new();
        let d = with_values(logits, |logits| {
            let mut d = vec![0f32; b * k];
            on_pool(|| {
                let rows = d.par_chunks_mut(k).zip(logits.par_chunks(k));
                let rows = rows.zip(&self.labels).with_min_len(ROWS);
                rows.for_each_init(Vec::new, |e: &mut Vec<f32>, ((d, row), label)| {
                    let (_, total) = exponentials(arch, row, e);
                    let factor = share / total;
                    d.iter_mut().zip(&*e).for_each(|(d, e)| *d = e * factor);
                    d[*label as usize] -= share;
                });
            });
            Ok(d)
        })?;
        Ok(Some(Tensor::from_vec(d, (b, k), logits.device())?))
    }
}

/// The largest of `row`, and the sum of `exp(v - largest)`, which are left in `e`.
fn exponentials(arch: Arch, row: &[f32], e: &mut Vec<f32>) -> (f32, f32) {
    e.resize(row.len(), 0.0);
    let mut found = (0.0, 0.0);
    arch.dispatch(
        #[inline(always)]
        || {
            let top = max(row);
            e.iter_mut().zip(row).for_each(|(e, v)| *e = exp(*v - top));
            found = (top, sum(e));
        },
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn noise(shape: &[usize], seed: u32) -> Tensor {
        let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let draw = |_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(draw).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn labels(b: u32, k: u32) -> Tensor {
        Tensor::from_iter((0..b).map(|i| i * 7 % k), &Device::Cpu).unwrap()
    }

    /// Loss, and gradients of raw features, from the three operations or from candle's own.
    fn run(images: &Var, texts: &Var, fused: bool) -> [Vec<f32>; 3] {
        let (b, k) = (images.dim(0).unwrap(), texts.dim(0).unwrap());
        let (i, t) = (images.as_tensor(), texts.as_tensor());
        let labels = labels(b as u32, k as u32);
        let loss = if fused {
            let cosines = scaled_cosine(&unit(i).unwrap(), &unit(t).unwrap(), 100.0).unwrap();
            cross_entropy(&cosines, &labels).unwrap()
        } else {
            let (i, t) = (composed::unit(i).unwrap(), composed::unit(t).unwrap());
            let cosines = composed::scaled_cosine(&i, &t, 100.0).unwrap();
            composed::cross_entropy(&cosines, &labels).unwrap()
        };
        let gradients = loss.backward().unwrap();
        [
            flat(&loss),
            flat(gradients.get(i).unwrap()),
            flat(gradients.get(t).unwrap()),
        ]
    }

    #[test]
    fn fused_losses_and_gradients_equal_the_composed_ones() {
        for (b, k, e) in [(1, 2, 8), (5, 3, 16), (70, 45, 64)] {
            let images = Var::from_tensor(&noise(&[b, e], 1)).unwrap();
            let texts = Var::from_tensor(&noise(&[k, e], 2)).unwrap();
            let fused = run(&images, &texts, true);
            for (a, b) in fused.iter().zip(&run(&images, &texts, false)) {
                let largest = b.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
                let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs() / largest);
                let worst = gaps.fold(0f32, f32::max);
                assert!(worst < 3e-5, "{worst}");
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let (images, texts) = (noise(&[4, 12], 3), noise(&[6, 12], 4));
        let labels = labels(4, 6);
        let loss = |images: &Tensor, texts: &Tensor| {
            let cosines = scaled_cosine(&unit(images).unwrap(), &unit(texts).unwrap(), 3.0);
            cross_entropy(&cosines.unwrap(), &labels).unwrap()
        };
        let (i, t) = (
            Var::from_tensor(&images).unwrap(),
            Var::from_tensor(&texts).unwrap(),
        );
        let gradients = loss(i.as_tensor(), t.as_tensor()).backward().unwrap();
        let number = |t: Tensor| f64::from(t.to_scalar::<f32>().unwrap());
        for seed in 5..9 {
            let step = 1e-2;
            let (di, dt) = (noise(&[4, 12], seed), noise(&[6, 12], 10 + seed));
            let at = |by: f64| {
                let (i, t) = ((&di * by).unwrap(), (&dt * by).unwrap());
                number(loss(&(&images + i).unwrap(), &(&texts + t).unwrap()))
            };
            let measured = (at(step) - at(-step)) / (2.0 * step);
            let along = |g: &Tensor, d: &Tensor| number((g * d).unwrap().sum_all().unwrap());
            let computed =
                along(gradients.get(&i).unwrap(), &di) + along(gradients.get(&t).unwrap(), &dt);
            assert!(
                (measured - computed).abs() < 2e-3 * measured.abs().max(1.0),
                "{measured} against {computed}"
            );
        }
    }

    #[test]
    fn large_logits_do_not_overflow_and_wrong_labels_are_refused() {
        let logits = Tensor::new(&[[1e4f32, 0.0], [-1e4, 0.0]], &Device::Cpu).unwrap();
        let of =
            |labels: &[u32]| cross_entropy(&logits, &Tensor::new(labels, &Device::Cpu).unwrap());
        assert_eq!(of(&[0, 1]).unwrap().to_scalar::<f32>().unwrap(), 0.0);
        assert_eq!(of(&[1, 0]).unwrap().to_scalar::<f32>().unwrap(), 1e4);
        assert!(of(&[0, 2]).unwrap_err().to_string().contains("label 2"));
        assert!(of(&[0]).is_err());
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let images = Var::from_tensor(&noise(&[90, 64], 1)).unwrap();
                let texts = Var::from_tensor(&noise(&[120, 64], 2)).unwrap();
                run(&images, &texts, true)
            })
        };
        assert_eq!(on(1), on(2));
    }
}
