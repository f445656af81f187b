//! What methods put into the towers, each against towers written in the plainest way, with gradients.

#![expect(clippy::unwrap_used, reason = "a test")]

mod image;
mod naive;
#[path = "../../../gpu/tests/null_driver.rs"]
mod null_driver;
#[path = "../published_names/mod.rs"]
mod published_names;
mod text;

use candle_core::{Result, Tensor, Var};
use clip::Clip;
use clip::changes::{Beside, Changes, Dropout, LowRank, Norm, Projection};
use clip::device::Precision;
use clip::ops::{Activation, scale_gradient};
use naive::{Hooks, LAYERS, Project, Tensors, WIDTH, noise, var};
use std::sync::Arc;

/// Whether these tests are built by the name that says so.
fn on_card() -> bool {
    env!("CARGO_CRATE_NAME").ends_with("on_card")
}

/// On the null driver's card, if so.
fn clip(tensors: &Tensors) -> Clip {
    let mut clip = Clip::frozen(tensors, Activation::QuickGelu).unwrap();
    if on_card()
        && let Some(card) = null_driver::card()
    {
        let stays = clip.use_gpu(&card, Precision::Float32).unwrap();
        assert!(stays.is_empty(), "{stays:?}");
    }
    clip
}

fn tensor(v: &Var) -> Tensor {
    v.as_tensor().clone()
}

const SCALE: f64 = 0.3;

/// Low ranks on every projection of block 1 and of the last, norms of block 0 and those at the ends, and a branch beside
/// blocks 1 and 2, with its variables.
struct All {
    /// `(block, projection, down, up)`.
    low_rank: Vec<(usize, usize, Var, Var)>,
    /// Name without the tower, gain and bias.
    norms: Vec<(&'static str, Var, Var)>,
    beside: Var,
}

impl All {
    fn new(of_image: bool) -> Self {
        let low_rank = [1, LAYERS - 1].into_iter().flat_map(|block| {
            (0..4).map(move |p| {
                let seed = (10 * block + p) as u64;
                let down = var(&[2, WIDTH], 300 + seed, 0.1);
                (block, p, down, var(&[WIDTH, 2], 400 + seed, 0.1))
            })
        });
        let ends: &[&str] = if of_image {
            &["ln_pre", "ln_post"]
        } else {
            &["ln_final"]
        };
        let block = [
            "transformer.resblocks.0.ln_1",
            "transformer.resblocks.0.ln_2",
        ];
        let names = block.into_iter().chain(ends.iter().copied()).zip(600..);
        Self {
            low_rank: low_rank.collect(),
            norms: names
                .map(|(name, seed)| {
                    (
                        name,
                        var(&[WIDTH], seed, 0.8),
                        var(&[WIDTH], seed + 50, 0.4),
                    )
                })
                .collect(),
            beside: var(&[WIDTH, WIDTH], 700, 0.1),
        }
    }

    fn variables(&self) -> Vec<&Var> {
        let ranks = self.low_rank.iter().flat_map(|(_, _, a, b)| [a, b]);
        let norms = self.norms.iter().flat_map(|(_, gain, bias)| [gain, bias]);
        ranks.chain(norms).chain([&self.beside]).collect()
    }

    /// With the keep-mask of each low rank, if any.
    fn changes(&self, mask: &dyn Fn(usize, usize) -> Option<Tensor>) -> Changes {
        let mut changes = Changes::default();
        for (block, p, down, up) in &self.low_rank {
            let of = [
                Projection::Query,
                Projection::Key,
                Projection::Value,
                Projection::Out,
            ];
            changes.block(*block).low_rank.push(LowRank {
                of: of[*p],
                down: tensor(down),
                up: tensor(up),
                scale: SCALE,
                dropout: mask(*block, *p).map(|kept| Dropout { kept, share: 0.75 }),
            });
        }
        for (name, gain, bias) in &self.norms {
            let norm = Some(Norm {
                gain: tensor(gain),
                bias: tensor(bias),
            });
            match *name {
                "ln_pre" => changes.norm_before = norm,
                "ln_post" | "ln_final" => changes.norm_after = norm,
                name if name.ends_with("ln_1") => changes.block(0).norm_1 = norm,
                _ => changes.block(0).norm_2 = norm,
            }
        }
        for block in [1, 2] {
            changes.block(block).beside = Some(Beside {
                tensors: vec![tensor(&self.beside)],
                f: Arc::new(|tensors, rows| rows.matmul(&tensors[0])?.tanh()),
            });
        }
        changes
    }

    /// Tensors with the norms replaced.
    fn tensors(&self, mut tensors: Tensors, tower: &str) -> Tensors {
        for (name, gain, bias) in &self.norms {
            tensors.insert(format!("{tower}{name}.weight"), tensor(gain));
            tensors.insert(format!("{tower}{name}.bias"), tensor(bias));
        }
        tensors
    }

    /// What the low ranks add, with the keep-mask `[T, W]` of each.
    fn project(
        &self,
        block: usize,
        p: usize,
        x: &Tensor,
        mask: &dyn Fn(usize, usize) -> Option<Tensor>,
    ) -> Result<Option<Tensor>> {
        let mut own = self.low_rank.iter();
        let Some((_, _, down, up)) = own.find(|l| (l.0, l.1) == (block, p)) else {
            return Ok(None);
        };
        let x = match mask(block, p) {
            Some(kept) => ((x * kept.to_dtype(x.dtype())?)? / 0.75)?,
            None => x.clone(),
        };
        let y = x.matmul(&down.t()?)?.matmul(&up.t()?)?;
        (y * SCALE).map(Some)
    }

    fn beside(&self, block: usize, normed: &Tensor) -> Result<Option<Tensor>> {
        if block == 0 {
            return Ok(None);
        }
        normed.matmul(&self.beside)?.tanh().map(Some)
    }
}

/// A keep-mask `[rows, W]` for each block and projection.
fn mask(rows: usize, block: usize, p: usize) -> Tensor {
    let seed = (40 * block + p) as u64;
    noise(&[rows, WIDTH], 900 + seed, 1.0).ge(-0.5f32).unwrap()
}

#[test]
fn a_branch_of_small_scale_is_trained_as_if_the_scale_were_one() {
    let tensors = naive::tensors();
    let (clip, s) = (clip(&tensors), 1e-3);
    let (down, up) = (var(&[WIDTH, 4], 1, 0.2), var(&[4, WIDTH], 2, 0.2));
    let rows = var(&[2, WIDTH], 3, 0.5);
    let slots = vec![
        clip::Slot::Token(1),
        clip::Slot::Context(0),
        clip::Slot::Context(1),
        clip::Slot::Token(9),
    ];
    let plan = clip.text.plan(&[slots]).unwrap();
    // The path into the rows keeps the small scale, the branch's own matrices are trained as if it were 1.
    let gradients = [false, true].map(|rule| {
        let f = move |tensors: &[Tensor], normed: &Tensor| -> Result<Tensor> {
            let rate = |by| if rule { by } else { 1.0 };
            let x = scale_gradient(normed, rate(s))?;
            let y = (x.matmul(&tensors[0])?.relu()?.matmul(&tensors[1])? * s)?;
            scale_gradient(&y, rate(1.0 / s))
        };
        let mut changes = Changes::default();
        changes.block(1).beside = Some(Beside {
            tensors: vec![tensor(&down), tensor(&up)],
            f: Arc::new(f),
        });
        let prompt = clip::TextPrompt {
            context: Some(tensor(&rows)),
            changes,
            ..clip::TextPrompt::default()
        };
        let features = clip.text.encode(&plan, &prompt).unwrap();
        let loss = (features * noise(&[1, naive::JOINT], 5, 1.0)).unwrap();
        loss.sum_all().unwrap().backward().unwrap()
    });
    let [plain, ruled] = gradients;
    for own in [&down, &up] {
        let expected = (plain.get(own).unwrap() / s).unwrap();
        assert!(naive::gap(ruled.get(own).unwrap(), &expected) < 1e-4);
    }
    let of_rows = [&plain, &ruled].map(|g| g.get(&rows).unwrap());
    assert!(naive::gap(of_rows[1], of_rows[0]) < 1e-4);
}

/// Hooks of [`All`].
fn hooked<'a>(
    project: &'a Project<'a>,
    beside: &'a dyn Fn(usize, &Tensor) -> Result<Option<Tensor>>,
) -> Hooks<'a> {
    Hooks {
        project,
        beside,
        ..Hooks::default()
    }
}
