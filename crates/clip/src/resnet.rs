//! CLIP's ModifiedResNet: an image tower that takes no prompts, for inference only.
//!
//! `ModifiedResNet` and `AttentionPool2d` of `clip/model.py`, <https://github.com/openai/CLIP> at a1d0717: a stem of
//! three convolutions, average pooling in place of strided convolutions, and a last pooling by attention whose query
//! is the mean of all places. Batch normalisation is in evaluation mode, so it is folded into the convolution before
//! it: `w' = w * g / sqrt(v + 1e-5)`, `b' = b - m * g / sqrt(v + 1e-5)`.
//!
//! `B` images, `R` pixels a side, `D` channels after the last stage, `E` joint width.

use candle_core::{D, DType, Result, Tensor, bail};

/// PyTorch's default in `BatchNorm2d`.
const EPSILON: f64 = 1e-5;
/// Width of an attention head.
const HEAD_WIDTH: usize = 64;
/// Pixels that one place of the last stage stands for.
const STRIDE: usize = 32;

/// A convolution with the normalisation after it.
#[derive(Clone, Debug)]
struct Convolution {
    kernel: Tensor,
    bias: Tensor,
    stride: usize,
}

impl Convolution {
    fn new(tensors: &Named, kernel: &str, norm: &str, stride: usize) -> Result<Self> {
        let [gain, shift, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
            .map(|leaf| tensors.get(&format!("{norm}.{leaf}")));
        let scale = gain?.div(&(variance? + EPSILON)?.sqrt()?)?;
        let kernel = tensors.get(&format!("{kernel}.weight"))?;
        let bias = (shift? - (mean? * &scale)?)?;
        let kernel = kernel.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?;
        Ok(Self {
            kernel,
            bias: bias.reshape((1, (), 1, 1))?,
            stride,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (out, from, size, _) = self.kernel.dims4()?;
        let x = if size == 1 {
            // A matrix product over channels; places lie last.
            let (b, _, h, w) = x.dims4()?;
            let flat = x.contiguous()?.reshape((b, from, h * w))?;
            let kernel = self
                .kernel
                .reshape((1, out, from))?
                .broadcast_as((b, out, from))?;
            kernel.matmul(&flat)?.reshape((b, out, h, w))?
        } else {
            x.conv2d(&self.kernel, size / 2, self.stride, 1, 1)?
        };
        x.broadcast_add(&self.bias)
    }
}

/// 1x1, 3x3, average pool, 1x1, and the shortcut.
#[derive(Clone, Debug)]
struct Bottleneck {
    convolutions: [Convolution; 3],
    downsample: Option<Convolution>,
    stride: usize,
}

impl Bottleneck {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pool = |x: &Tensor| {
            if self.stride > 1 {
                x.avg_pool2d(self.stride)
            } else {
                Ok(x.clone())
            }
        };
        let [reduce, spread, expand] = &self.convolutions;
        let inner = spread.forward(&reduce.forward(x)?.relu()?)?.relu()?;
        let out = expand.forward(&pool(&inner)?)?;
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(&pool(x)?)?,
            None => x.clone(),
        };
        (out + shortcut)?.relu()
    }
}

/// A dense layer, `y = x W^T + b`, `W` kept transposed.
#[derive(Clone, Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(tensors: &Named, base: &str) -> Result<Self> {
        let weight = tensors.get(&format!("{base}.weight"))?.t()?.contiguous()?;
        Ok(Self {
            weight,
            bias: tensors.get(&format!("{base}.bias"))?,
        })
    }

    /// Of `[B, n]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

/// Attention of one query, the mean of all places, over the mean and all places.
#[derive(Clone, Debug)]
struct AttentionPool {
    /// `[s * s + 1, D]`
    positional_embedding: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

impl AttentionPool {
    /// `[B, D, s, s]` to `[B, q, E]`: read with the first `q` tokens (the mean of all places, then every place), or all.
    fn forward(&self, x: &Tensor, read: Option<usize>) -> Result<Tensor> {
        let (b, d, _, _) = x.dims4()?;
        let places = x.flatten_from(2)?.transpose(1, 2)?; // [B, s * s, D]
        let mean = places.mean_keepdim(1)?;
        let x = Tensor::cat(&[&mean, &places], 1)?
            .broadcast_add(&self.positional_embedding)?
            .contiguous()?;
        let (n, heads) = (x.dim(1)?, (d / HEAD_WIDTH).max(1));
        let width = d / heads;
        let rows = x.reshape((b * n, d))?;
        let split = |x: Tensor, n: usize| {
            x.reshape((b, n, heads, width))?
                .transpose(1, 2)?
                .contiguous()
        };
        let count = read.unwrap_or(n);
        let asking = x.narrow(1, 0, count)?.reshape((b * count, d))?;
        let query = self.query.forward(&asking)?;
        let query = split((query * (width as f64).powf(-0.5))?, count)?; // [B, heads, q, width]
        let key = split(self.key.forward(&rows)?, n)?;
        let value = split(self.value.forward(&rows)?, n)?;
        let scores = query.matmul(&key.transpose(2, 3)?.contiguous()?)?; // [B, heads, q, n]
        let scores = scores
            .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
            .exp()?;
        let weights = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
        let pooled = weights
            .matmul(&value)?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((b * count, d))?;
        self.out.forward(&pooled)?.reshape((b, count, ()))
    }
}

/// The image tower of RN50, RN101, RN50x4, RN50x16 and RN50x64.
#[derive(Clone, Debug)]
pub struct ModifiedResNet {
    stem: [Convolution; 3],
    blocks: Vec<Bottleneck>,
    pool: AttentionPool,
    image_size: usize,
}

/// Reads a tensor by OpenAI's name, float32 when it comes out.
struct Named<'a>(&'a dyn Fn(&str) -> Result<Tensor>);

impl Named<'_> {
    fn get(&self, name: &str) -> Result<Tensor> {
        (self.0)(name)?.to_dtype(DType::F32)
    }
}

impl ModifiedResNet {
    /// Folds the normalisations of `visual.*` into its convolutions. Tensors are read one at a time, each once, so that
    /// none is held twice.
    ///
    /// # Errors
    /// Those of `read`, and when a tensor has an unfit shape.
    pub fn read(has: &dyn Fn(&str) -> bool, read: &dyn Fn(&str) -> Result<Tensor>) -> Result<Self> {
        let tensors = &Named(read);
        let convolution = |kernel: &str, norm: &str, stride| {
            Convolution::new(
                tensors,
                &format!("visual.{kernel}"),
                &format!("visual.{norm}"),
                stride,
            )
        };
        let stem = [
            convolution("conv1", "bn1", 2)?,
            convolution("conv2", "bn2", 1)?,
            convolution("conv3", "bn3", 1)?,
        ];
        let mut blocks = Vec::new();
        for stage in 1..=4 {
            for i in 0.. {
                let base = format!("layer{stage}.{i}");
                if !has(&format!("visual.{base}.conv1.weight")) {
                    break;
                }
                let conv =
                    |n: usize| convolution(&format!("{base}.conv{n}"), &format!("{base}.bn{n}"), 1);
                let has_shortcut = has(&format!("visual.{base}.downsample.0.weight"));
                let downsample = has_shortcut
                    .then(|| {
                        convolution(
                            &format!("{base}.downsample.0"),
                            &format!("{base}.downsample.1"),
                            1,
                        )
                    })
                    .transpose()?;
                let stride = if stage > 1 && i == 0 { 2 } else { 1 };
                blocks.push(Bottleneck {
                    convolutions: [conv(1)?, conv(2)?, conv(3)?],
                    downsample,
                    stride,
                });
            }
        }
        let linear = |name: &str| Linear::new(tensors, &format!("visual.attnpool.{name}"));
        let positional_embedding = tensors.get("visual.attnpool.positional_embedding")?;
        let places = positional_embedding.dim(0)?.saturating_sub(1);
        let pool = AttentionPool {
            positional_embedding,
            query: linear("q_proj")?,
            key: linear("k_proj")?,
            value: linear("v_proj")?,
            out: linear("c_proj")?,
        };
        Ok(Self {
            stem,
            blocks,
            pool,
            image_size: STRIDE * places.isqrt(),
        })
    }

    /// `R`.
    pub fn image_size(&self) -> usize {
        self.image_size
    }

    /// `[B, 3, R, R]` normalised pixels to `[B, E]` features, not of unit length.
    ///
    /// # Errors
    /// When the pixels have another shape.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.pool
            .forward(&self.places(pixels)?, Some(1))?
            .squeeze(1)
    }

    /// `[B, 1 + s s, E]`: the features of [`ModifiedResNet::forward`], then those that the attention pool gives when asked
    /// with each of the `s s` places (PLOT's local features), not of unit length.
    ///
    /// # Errors
    /// As [`ModifiedResNet::forward`].
    pub fn tokens(&self, pixels: &Tensor) -> Result<Tensor> {
        self.pool.forward(&self.places(pixels)?, None)
    }

    /// What the last stage makes of the pixels, `[B, D, s, s]`.
    fn places(&self, pixels: &Tensor) -> Result<Tensor> {
        let (_, channels, height, width) = pixels.dims4()?;
        if (channels, height, width) != (3, self.image_size, self.image_size) {
            bail!(
                "pixels are {:?}; this tower takes [B, 3, {r}, {r}]",
                pixels.dims(),
                r = self.image_size
            );
        }
        let mut x = pixels.to_dtype(DType::F32)?;
        for convolution in &self.stem {
            x = convolution.forward(&x)?.relu()?;
        }
        x = x.avg_pool2d(2)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use std::collections::BTreeMap;

    #[test]
    fn folding_is_the_normalisation() {
        let t = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let kernel = Tensor::new(&[2.0f32, -1.0], &Device::Cpu)
            .unwrap()
            .reshape((2, 1, 1, 1))
            .unwrap();
        let tensors = BTreeMap::from([
            ("c.weight".to_owned(), kernel),
            ("n.weight".to_owned(), t(&[3.0, 0.5])),
            ("n.bias".to_owned(), t(&[1.0, 0.0])),
            ("n.running_mean".to_owned(), t(&[4.0, -2.0])),
            ("n.running_var".to_owned(), t(&[0.25, 4.0])),
        ]);
        let x = Tensor::new(&[5.0f32], &Device::Cpu)
            .unwrap()
            .reshape((1, 1, 1, 1))
            .unwrap();
        let y = Convolution::new(&Named(&|name| Ok(tensors[name].clone())), "c", "n", 1)
            .unwrap()
            .forward(&x)
            .unwrap();
        let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // (w x - m) g / sqrt(v) + b
        for (y, expected) in y
            .iter()
            .zip([(10.0f32 - 4.0) * 3.0 / 0.5 + 1.0, (-5.0 + 2.0) * 0.5 / 2.0])
        {
            assert!((y - expected).abs() < 1e-3, "{y} {expected}");
        }
    }

    #[test]
    fn the_pool_can_be_asked_with_every_place() {
        const WIDE: usize = 2 * HEAD_WIDTH;
        const PLACES: usize = 5;
        let noise = |shape: &[usize], seed: usize| {
            let n = shape.iter().product::<usize>();
            let value = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 2003.0 - 0.5;
            Tensor::from_vec((0..n).map(value).collect(), shape, &Device::Cpu).unwrap()
        };
        let linear = |seed| Linear {
            weight: (noise(&[WIDE, WIDE], seed) * 0.3).unwrap(),
            bias: noise(&[WIDE], seed + 1),
        };
        let pool = AttentionPool {
            positional_embedding: noise(&[PLACES, WIDE], 1),
            query: linear(2),
            key: linear(4),
            value: linear(6),
            out: linear(8),
        };
        let x = noise(&[3, WIDE, 2, 2], 11);
        let all = pool.forward(&x, None).unwrap();
        assert_eq!(all.dims(), [3, PLACES, WIDE]);
        let rows = |t: &Tensor| t.to_vec2::<f32>().unwrap();
        for picture in 0..3 {
            let one = x
                .get(picture)
                .unwrap()
                .flatten_from(1)
                .unwrap()
                .t()
                .unwrap();
            let tokens = Tensor::cat(&[&one.mean_keepdim(0).unwrap(), &one], 0).unwrap();
            let tokens = (tokens + &pool.positional_embedding).unwrap();
            let [q, k, v] =
                [&pool.query, &pool.key, &pool.value].map(|l| rows(&l.forward(&tokens).unwrap()));
            let mut attended = vec![0f32; PLACES * WIDE];
            for (i, out) in attended.chunks_mut(WIDE).enumerate() {
                for head in 0..WIDE / HEAD_WIDTH {
                    let own = head * HEAD_WIDTH..(head + 1) * HEAD_WIDTH;
                    let score = |j: usize| {
                        let pairs = own.clone().map(|d| q[i][d] * k[j][d]);
                        (pairs.sum::<f32>() / 8.0).exp()
                    };
                    let scores: Vec<f32> = (0..PLACES).map(score).collect();
                    let total: f32 = scores.iter().sum();
                    for d in own {
                        out[d] = (0..PLACES).map(|j| scores[j] / total * v[j][d]).sum();
                    }
                }
            }
            let attended = Tensor::from_vec(attended, (PLACES, WIDE), &Device::Cpu).unwrap();
            let expected = rows(&pool.out.forward(&attended).unwrap());
            let found = rows(&all.get(picture).unwrap());
            for (a, b) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
        // The first of them is what the tower gives.
        let first = pool.forward(&x, Some(1)).unwrap().squeeze(1).unwrap();
        let gap = (first - all.narrow(1, 0, 1).unwrap().squeeze(1).unwrap()).unwrap();
        let gap = gap.abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f32>().unwrap() < 1e-6);
    }
}
