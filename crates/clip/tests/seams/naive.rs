//! CLIP's towers once more, in the plainest way: a sequence or a picture at a time, dense masks, candle's own
//! operations, and a hook wherever a method may want to change something.

use std::collections::BTreeMap;

use candle_core::{D, Device, Result, Tensor, Var};
use clip::Slot;

pub type Tensors = BTreeMap<String, Tensor>;

pub const WIDTH: usize = 128;
pub const JOINT: usize = 8;
pub const LAYERS: usize = 3;
const HEADS: usize = 2;

pub fn noise(shape: &[usize], seed: u64, scale: f32) -> Tensor {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            ((s >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub fn var(shape: &[usize], seed: u64, scale: f32) -> Var {
    Var::from_tensor(&noise(shape, seed, scale)).unwrap()
}

/// A CLIP of three blocks and two heads a tower, four patches a picture and 30 tokens.
pub fn tensors() -> Tensors {
    let sizes = super::published_names::Sizes {
        width: WIDTH,
        joint: JOINT,
        layers: LAYERS,
        tokens: 30,
        places: 5,
        patch: 4,
    };
    let named = super::published_names::shapes(&sizes).into_iter().zip(1..);
    named
        .map(|((name, shape), seed)| {
            let fan = *shape.last().unwrap_or(&1) as f32;
            let t = match name.as_str() {
                n if n.contains("ln_") && n.ends_with("weight") => {
                    (noise(&shape, seed, 0.2) + 1.0).unwrap()
                }
                _ if shape.len() == 2 => noise(&shape, seed, 2.0 / fan.sqrt()),
                _ => noise(&shape, seed, 0.2),
            };
            (name, t)
        })
        .collect()
}

/// The hooks of one pass: each gets what is there and gives what is to be there.
pub struct Hooks<'a> {
    /// The input `[T, W]` of a block.
    pub before: &'a dyn Fn(usize, Tensor) -> Result<Tensor>,
    /// Block, projection 0 to 3 (q, k, v, out), its input; added to its output.
    pub project: &'a Project<'a>,
    /// Block and `ln_1` of its input; added to its output.
    pub beside: &'a dyn Fn(usize, &Tensor) -> Result<Option<Tensor>>,
}

/// Runs one sequence or picture, by its index, with hooks of its own.
pub type Each<'a> = dyn Fn(usize, &dyn Fn(&Hooks) -> Result<Tensor>) -> Result<Tensor> + 'a;

/// What [`Hooks::project`] is.
pub type Project<'a> = dyn Fn(usize, usize, &Tensor) -> Result<Option<Tensor>> + 'a;

impl Default for Hooks<'_> {
    fn default() -> Self {
        Self {
            before: &|_, x| Ok(x),
            project: &|_, _, _| Ok(None),
            beside: &|_, _| Ok(None),
        }
    }
}

/// Reads `tensors`, in which those that a method replaces are replaced.
pub struct Naive<'a> {
    pub tensors: &'a Tensors,
}

impl Naive<'_> {
    fn get(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    pub fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (x.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?;
        x.broadcast_div(&deviation)?
            .broadcast_mul(self.get(&format!("{name}.weight")))?
            .broadcast_add(self.get(&format!("{name}.bias")))
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        x.matmul(&self.get(&format!("{name}.weight")).t()?)?
            .broadcast_add(self.get(&format!("{name}.bias")))
    }

    /// All blocks of a tower, over `x` `[T, W]`.
    fn blocks(&self, mut x: Tensor, tower: &str, causal: bool, hooks: &Hooks) -> Result<Tensor> {
        for i in 0..LAYERS {
            x = (hooks.before)(i, x)?;
            let base = format!("{tower}transformer.resblocks.{i}");
            let length = x.dim(0)?;
            let plus = |y: Tensor, p: usize, input: &Tensor| match (hooks.project)(i, p, input)? {
                Some(more) => y + more,
                None => Ok(y),
            };
            let normed = self.norm(&x, &format!("{base}.ln_1"))?;
            let weight = self.get(&format!("{base}.attn.in_proj_weight"));
            let bias = self.get(&format!("{base}.attn.in_proj_bias"));
            let project = |p: usize| -> Result<Tensor> {
                let weight = weight.narrow(0, p * WIDTH, WIDTH)?;
                let bias = bias.narrow(0, p * WIDTH, WIDTH)?;
                let y = normed.matmul(&weight.t()?)?.broadcast_add(&bias)?;
                plus(y, p, &normed)
            };
            let (q, k, v) = (project(0)?, project(1)?, project(2)?);
            let mut heads = Vec::new();
            for head in 0..HEADS {
                let size = WIDTH / HEADS;
                let of = |t: &Tensor| t.narrow(1, head * size, size)?.contiguous();
                let scores = (of(&q)?.matmul(&of(&k)?.t()?)? / (size as f64).sqrt())?;
                let open: Vec<f32> = (0..length * length)
                    .map(|at| {
                        let hidden = causal && at % length > at / length;
                        if hidden { f32::NEG_INFINITY } else { 0.0 }
                    })
                    .collect();
                let scores = (scores + Tensor::from_vec(open, (length, length), &Device::Cpu)?)?;
                let e = scores.exp()?;
                let shares = e.broadcast_div(&e.sum_keepdim(1)?)?;
                heads.push(shares.matmul(&of(&v)?)?);
            }
            let attended = Tensor::cat(&heads, 1)?;
            let out = self.linear(&attended, &format!("{base}.attn.out_proj"))?;
            let middle = (&x + plus(out, 3, &attended)?)?;
            let h = self.norm(&middle, &format!("{base}.ln_2"))?;
            let h = self.linear(&h, &format!("{base}.mlp.c_fc"))?;
            let h = (&h / ((&h * -1.702)?.exp()? + 1.0)?)?;
            let mut out = (middle + self.linear(&h, &format!("{base}.mlp.c_proj"))?)?;
            if let Some(more) = (hooks.beside)(i, &normed)? {
                out = (out + more)?;
            }
            x = out;
        }
        Ok(x)
    }

    /// Features `[E]` of one sequence.
    pub fn text(&self, slots: &[Slot], context: Option<&Tensor>, hooks: &Hooks) -> Result<Tensor> {
        let rows = slots.iter().map(|slot| match slot {
            Slot::Token(token) => self.get("token_embedding.weight").get(*token as usize),
            Slot::Context(row) => context.unwrap().get(*row),
        });
        let rows = Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 0)?;
        let positions = self.get("positional_embedding").narrow(0, 0, slots.len())?;
        let x = self.blocks((rows + positions)?, "", true, hooks)?;
        let end = x.narrow(0, x.dim(0)? - 1, 1)?;
        self.norm(&end, "ln_final")?
            .matmul(self.get("text_projection"))?
            .squeeze(0)
    }

    /// Features `[K, E]` of sequences.
    pub fn texts(&self, all: &[Vec<Slot>], context: Option<&Tensor>, hooks: &Each) -> Tensor {
        let rows: Vec<Tensor> = all
            .iter()
            .enumerate()
            .map(|(i, slots)| hooks(i, &|hooks| self.text(slots, context, hooks)).unwrap())
            .collect();
        Tensor::stack(&rows, 0).unwrap()
    }

    /// Last hidden states `[T, W]` of one picture `[3, 8, 8]`, with `tokens` behind the patches.
    pub fn image(&self, pixels: &Tensor, tokens: Option<&Tensor>, hooks: &Hooks) -> Result<Tensor> {
        let kernel = self.get("visual.conv1.weight");
        let patches = pixels.unsqueeze(0)?.conv2d(kernel, 0, 4, 1, 1)?;
        let patches = patches.squeeze(0)?.flatten_from(1)?.t()?;
        let class = self.get("visual.class_embedding").unsqueeze(0)?;
        let mut x = Tensor::cat(&[class, patches], 0)?
            .broadcast_add(self.get("visual.positional_embedding"))?;
        if let Some(tokens) = tokens {
            x = Tensor::cat(&[&x, tokens], 0)?;
        }
        self.blocks(self.norm(&x, "visual.ln_pre")?, "visual.", false, hooks)
    }

    /// Last hidden states `[B, T, W]` of pictures.
    pub fn images(&self, pixels: &Tensor, tokens: Option<&Tensor>, hooks: &Each) -> Tensor {
        let rows: Vec<Tensor> = (0..pixels.dim(0).unwrap())
            .map(|i| {
                let picture = pixels.get(i).unwrap();
                hooks(i, &|hooks| self.image(&picture, tokens, hooks)).unwrap()
            })
            .collect();
        Tensor::stack(&rows, 0).unwrap()
    }

    /// Features of last hidden states.
    pub fn read(&self, hidden: &Tensor) -> Tensor {
        let normed = self.norm(hidden, "visual.ln_post").unwrap();
        normed.broadcast_matmul(self.get("visual.proj")).unwrap()
    }
}

/// With `n` rows more at `at`.
pub fn insert(x: &Tensor, at: usize, rows: &Tensor) -> Result<Tensor> {
    let rest = x.dim(0)? - at;
    Tensor::cat(&[&x.narrow(0, 0, at)?, rows, &x.narrow(0, at, rest)?], 0)
}

/// With `share` of rows and the rest of what is there, from `at` on.
pub fn mix(x: &Tensor, at: usize, rows: &Tensor, share: f64) -> Result<Tensor> {
    let n = rows.dim(0)?;
    let rows = ((rows * share)? + (x.narrow(0, at, n)? * (1.0 - share))?)?;
    let rest = x.dim(0)? - at - n;
    Tensor::cat(
        &[&x.narrow(0, 0, at)?, &rows, &x.narrow(0, at + n, rest)?],
        0,
    )
}

/// Largest difference in units of the largest value.
pub fn gap(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let max = |t: &Tensor| {
        t.abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
    };
    max(&(a - b).unwrap()) / max(b).max(1e-6)
}

/// That both have the same values and the same gradients of all of `of`, which are not zero; and that the gradients of
/// the first agree with finite differences of the second along a drawn direction each.
pub fn same(a: &Tensor, again: &dyn Fn() -> Tensor, of: &[&Var]) {
    let b = again();
    let found = gap(a, &b);
    assert!(found < 5e-5, "values {found}");
    let weights = noise(a.dims(), 77, 1.0);
    let loss = |t: &Tensor| (t * &weights).unwrap().sum_all().unwrap();
    let [ga, gb] = [a, &b].map(|t| loss(t).backward().unwrap());
    for (i, var) in of.iter().enumerate() {
        let (x, y) = (ga.get(var).unwrap(), gb.get(var).unwrap());
        let size = x
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(size > 1e-5, "gradient {i} is zero");
        let found = gap(x, y);
        assert!(found < 5e-4, "gradient {i}: {found}");
        // Half of the direction is the gradient's own, so that the slope stands out from rounding.
        let unit = |t: &Tensor| {
            let norm = t.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
            t.broadcast_div(&norm).unwrap()
        };
        let (at, step) = (var.as_tensor().copy().unwrap(), 1e-2);
        let direction = unit(&noise(at.dims(), 500 + i as u64, 1.0));
        let direction = (unit(x) + direction).unwrap();
        let moved = |by: f64| {
            var.set(&(&at + (&direction * by).unwrap()).unwrap())
                .unwrap();
            let terms = (again() * &weights).unwrap().flatten_all().unwrap();
            let terms = terms.to_vec1::<f32>().unwrap();
            terms.into_iter().map(f64::from).sum::<f64>()
        };
        let measured = (moved(step) - moved(-step)) / (2.0 * step);
        var.set(&at).unwrap();
        let computed = (x * &direction).unwrap().sum_all().unwrap();
        let computed = f64::from(computed.to_scalar::<f32>().unwrap());
        assert!(
            (measured - computed).abs() < 1e-2 * measured.abs(),
            "gradient {i}: {measured} measured, {computed} computed"
        );
    }
}
