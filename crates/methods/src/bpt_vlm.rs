//! BPT-VLM: prompts of both towers found without a gradient, by CMA-ES in a space that a fixed random projection spreads out.
//!
//! Yu et al., *Black-box Prompt Tuning for Vision-Language Model as a Service*, IJCAI 2023,
//! <https://www.ijcai.org/proceedings/2023/0187.pdf>. Follows the shallow prompts of the authors' code at 607025b
//! (`model/Shallow_Prompt_CLIP.py`, `configs/shallow_prompt.yaml`).
//!
//! `M` text vectors, `W` text width, `N` image tokens, `V` image width, `d` numbers searched for either, `K` classes, `B` shots.
//!
//! What a candidate costs is a forward pass over all shots and all class texts; how many are scored is `budget`.
//!
//! Differs: what is kept is the candidate of the smallest loss on the shots; the authors test every twelfth generation and
//! report the best accuracy on the test pictures. Deep prompts are not here. A budget that is no whole number of generations
//! is cut to one. CMA-ES itself: see its part.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor, Var, bail};
use clip::{Clip, ImagePrompt, model::unit};

use crate::parts::cma_es::CmaEs;
use crate::parts::context::Context;
use crate::parts::image_tokens::Prompted;
use crate::parts::layout::{placeholder, variable};
use crate::parts::losses::log_softmax;
use crate::parts::shots;
use crate::replay::{Comparison, Stage};
use crate::{
    Backbones, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Method, Needs,
    Predict, Replay, Round, Search, Settings, Shots, Support, TextCost,
};

/// Registry entry. The budget is that of Caltech-101, Pets and Food-101; ImageNet has 14400, SUN397 18000, EuroSAT, UCF101 and
/// Stanford Cars 25200, DTD 36000.
pub const ENTRY: Entry = Entry {
    name: "bpt-vlm",
    title: "BPT-VLM",
    source: "https://www.ijcai.org/proceedings/2023/0187.pdf",
    group: Group::BothTowers,
    training: None,
    read: |s| Box::new(BptConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["bpt"], replay),
};

#[derive(Clone, Debug)]
struct BptConfig {
    count: usize,
    count_vision: usize,
    dim: usize,
    dim_vision: usize,
    sigma: f64,
    popsize: usize,
    budget: usize,
    focal: bool,
}

impl BptConfig {
    fn read(s: &mut Settings) -> Self {
        let count = s.count("n_ctx", 8, 1..=72, "text vectors, M");
        let help = "image tokens, N; 0: cached features, and text vectors alone";
        let count_vision = s.count("n_ctx_vision", 5, 0..=512, help);
        let dim = s.count(
            "dim",
            500,
            1..=5000,
            "numbers searched for the text vectors",
        );
        let help = "numbers searched for the image tokens";
        let dim_vision = s.count("dim_vision", 500, 1..=5000, help);
        let sigma = s.number("sigma", 1.0, 1e-6..=100.0, "first step size of CMA-ES");
        let popsize = s.count("popsize", 30, 6..=10_000, "candidates of a generation");
        let help =
            "candidates scored in all, each a pass over all shots; a whole number of generations";
        let budget = s.count("budget", 3600, 1..=10_000_000, help);
        let help = "what is made small: mean cross entropy, or the focal loss (gamma 2)";
        let focal = s.choice("loss", &["ce", "focal"], help) == "focal";
        if budget < popsize {
            s.refuse(
                "budget",
                format!("must be at least one generation, {popsize} candidates"),
            );
        }
        Self {
            count,
            count_vision,
            dim,
            dim_vision: if count_vision == 0 { 0 } else { dim_vision },
            sigma,
            popsize,
            budget,
            focal,
        }
    }

    fn make(&self, clip: &Arc<Clip>, classes: &Classes, init: &mut Init) -> Result<BptVlm> {
        let table = clip.tensors()?;
        let (size, deviation) = (self.dim as f64, spread(&table["token_embedding.weight"])?.1);
        let width = clip.text.width();
        let zeros = |rows, width| Tensor::zeros((rows, width), DType::F32, clip.device());
        let text = init.normal(
            &[self.count * width, self.dim],
            deviation / size.sqrt() / self.sigma,
        )?;
        let image = match self.count_vision {
            0 => None,
            count => {
                let width = clip.transformer()?.width();
                let kernel = &table["visual.conv1.weight"];
                // Of a kernel's numbers, as the authors have it: 3072 are those of a patch of 32 by 32.
                let (mean, deviation) = spread(kernel)?;
                let numbers = kernel.elem_count() as f64 / kernel.dim(0)? as f64;
                let share = numbers / self.dim_vision as f64;
                let noise = init.normal(
                    &[count * width, self.dim_vision],
                    deviation * share.sqrt() * self.sigma,
                )?;
                Some(ImagePart {
                    projection: (noise + mean * share)?,
                    tokens: variable(&zeros(count, width)?)?,
                })
            }
        };
        let lead = placeholder(self.count);
        Ok(BptVlm {
            context: Context::of_values(clip, &plain(classes), zeros(self.count, width)?, lead)?,
            text,
            image,
            es: None,
            best: f64::INFINITY,
            scored: 0,
            config: self.clone(),
        })
    }
}

/// Mean and deviation of all numbers of `t`.
fn spread(t: &Tensor) -> Result<(f64, f64)> {
    let t = t.to_dtype(DType::F64)?;
    let mean = t.mean_all()?.to_scalar::<f64>()?;
    let square = t
        .affine(1.0, -mean)?
        .sqr()?
        .mean_all()?
        .to_scalar::<f64>()?;
    Ok((mean, square.sqrt()))
}

/// Names without hyphens, as the authors' have none.
fn plain(classes: &Classes) -> Classes {
    let names = classes.names.iter().map(|n| n.replace('-', " "));
    Classes {
        names: names.collect(),
        ..classes.clone()
    }
}

impl Config for BptConfig {
    fn needs(&self) -> Needs {
        let seen = match self.count_vision {
            0 => Needs::features(),
            _ => Needs::pixels(),
        };
        Needs {
            support: Some(Support::Plain),
            ..seen
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost {
                backward: 0.0,
                ..TextCost::trained(self.count)
            },
            image: match self.count_vision {
                0 => ImageCost::FROZEN,
                tokens => ImageCost::trained(tokens),
            },
        }
    }

    fn search(&self) -> Option<Search> {
        let rounds = self.budget / self.popsize;
        Some(Search {
            rounds,
            candidates: rounds * self.popsize,
        })
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(self.make(&on.clip, classes, init)?))
    }
}

/// Image tokens and where they come from.
struct ImagePart {
    /// `[N V, d]`.
    projection: Tensor,
    /// `[N, V]`: the best so far.
    tokens: Var,
}

struct BptVlm {
    /// With the best vectors so far.
    context: Context,
    /// `[M W, d]`.
    text: Tensor,
    image: Option<ImagePart>,
    /// Between the first round and the last.
    es: Option<CmaEs>,
    /// Smallest loss so far.
    best: f64,
    /// Candidates scored.
    scored: usize,
    config: BptConfig,
}

/// What a candidate stands for.
struct Candidate {
    /// `[M, W]`.
    ctx: Tensor,
    /// `[N, V]`.
    tokens: Option<Tensor>,
}

impl BptVlm {
    fn candidate(&self, numbers: &[f64]) -> Result<Candidate> {
        let (text, image) = numbers.split_at(self.config.dim);
        let spread = |projection: &Tensor, z: &[f64], like: &Tensor| {
            let z: Vec<f32> = z.iter().map(|z| *z as f32).collect();
            let z = Tensor::new(z, projection.device())?.unsqueeze(1)?; // [d, 1]
            projection.matmul(&z)?.reshape(like.dims())
        };
        Ok(Candidate {
            ctx: spread(&self.text, text, &self.context.ctx)?,
            tokens: match &self.image {
                Some(part) => Some(spread(&part.projection, image, &part.tokens)?),
                None => None,
            },
        })
    }

    /// Mean loss of a candidate over all shots; `seen` are their unit features, where nothing is put into the image tower.
    fn loss_of(&self, candidate: &Candidate, seen: &Seen, labels: &Tensor) -> Result<f64> {
        let clip = &self.context.clip;
        let features = match (seen, &candidate.tokens) {
            (Seen::Pixels(pixels), Some(tokens)) => {
                let tower = clip.transformer()?;
                unit(&tower.encode(pixels, &prompt(tokens.clone()))?)?
            }
            (Seen::Features(features), None) => features.clone(),
            _ => bail!("image tokens need pixels"),
        };
        let logits = clip.logits(&features, &self.context.texts(&candidate.ctx)?)?; // [B, K]
        let right = log_softmax(&logits)?.gather(&labels.unsqueeze(1)?, D::Minus1)?; // [B, 1]
        let loss = match self.config.focal {
            true => (right.exp()?.affine(-1.0, 1.0)?.sqr()? * &right)?.neg()?,
            false => right.neg()?,
        };
        Ok(f64::from(loss.mean_all()?.to_scalar::<f32>()?))
    }

    /// The losses of a generation, of which the best candidate so far is kept.
    fn losses(&mut self, all: &[Vec<f64>], seen: &Seen, labels: &Tensor) -> Result<Vec<f64>> {
        let mut losses = Vec::new();
        for numbers in all {
            let candidate = self.candidate(numbers)?;
            let loss = self.loss_of(&candidate, seen, labels)?;
            if loss < self.best {
                self.best = loss;
                self.context.ctx.set(&candidate.ctx)?;
                if let (Some(part), Some(tokens)) = (&self.image, &candidate.tokens) {
                    part.tokens.set(tokens)?;
                }
            }
            losses.push(loss);
            self.scored += 1;
        }
        Ok(losses)
    }

    /// What candidates are scored on.
    fn seen(&self, images: &Images) -> Result<Seen> {
        Ok(match &self.image {
            Some(_) => Seen::Pixels(images.pixels()?.clone()),
            None => Seen::Features(images.unit_features(&self.context.clip)?),
        })
    }

    fn strategy(&self) -> CmaEs {
        let BptConfig {
            dim,
            dim_vision,
            popsize,
            sigma,
            ..
        } = self.config;
        CmaEs::new(dim + dim_vision, popsize, sigma)
    }
}

/// The shots, as far as they are the same for all candidates.
enum Seen {
    Pixels(Tensor),
    Features(Tensor),
}

fn prompt(tokens: Tensor) -> ImagePrompt {
    ImagePrompt {
        tokens: Some(tokens),
        ..ImagePrompt::default()
    }
}

impl Method for BptVlm {
    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = self.context.named();
        let tokens = self.image.iter();
        all.extend(tokens.map(|part| ("image_encoder.VPT".to_owned(), part.tokens.clone())));
        all
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let kept = |t: Result<_>| t.expect("a list of numbers is a tensor");
        let so_far = [self.best, self.scored as f64];
        let so_far = Tensor::new(&so_far, self.text.device());
        let mut all = vec![(
            "so_far".to_owned(),
            so_far.expect("two numbers are a tensor"),
        )];
        if let Some(es) = &self.es {
            all.extend(kept(es.state()));
        }
        all
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        if let Some(so_far) = state.get("so_far") {
            let so_far: Vec<f64> = so_far.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
            let [best, scored] = so_far[..] else {
                bail!("so_far is not two numbers");
            };
            (self.best, self.scored) = (best, scored as usize);
        }
        self.es = self.strategy().restored(state)?;
        Ok(())
    }

    /// A generation.
    fn search(&mut self, given: &Shots, seed: u64) -> Result<Round> {
        let Some(images) = given.train.passes.first() else {
            bail!("there is no pass over the pictures");
        };
        let mut es = match self.es.take() {
            Some(es) => es,
            None => {
                (self.best, self.scored) = (f64::INFINITY, 0);
                self.strategy()
            }
        };
        let numbers = self.config.popsize * (self.config.dim + self.config.dim_vision);
        let draws = Init::seeded(seed)
            .normal(&[numbers], 1.0)?
            .to_dtype(DType::F64)?;
        let candidates = es.ask(&draws.to_vec1::<f64>()?)?;
        let labels = Tensor::new(&given.train.labels[..], self.text.device())?;
        let seen = self.seen(images)?;
        let losses = self.losses(&candidates, &seen, &labels)?;
        es.tell(&candidates, &losses);
        self.es = Some(es);
        Ok(Round {
            scored: losses.len(),
            loss: self.best,
        })
    }

    fn finish(&mut self) -> Result<()> {
        self.es = None;
        Ok(())
    }

    fn found(&self) -> Vec<(&'static str, serde_json::Value)> {
        vec![
            ("loss on the shots", self.best.into()),
            ("candidates scored", self.scored.into()),
        ]
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.context.rebind(&plain(classes))
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        if self.scored == 0 {
            bail!("{}", shots::NOT_YET);
        }
        let part = self.image.as_ref();
        let prompt = part.map(|part| prompt(part.tokens.as_detached_tensor()));
        Ok(Box::new(Prompted {
            clip: &self.context.clip,
            texts: self.context.texts(&self.context.ctx.as_detached_tensor())?,
            prompt: prompt.unwrap_or_default(),
        }))
    }
}

/// Every constant, loss and choice of the recorded generations; the strategy's state behind each; the best prompts and their
/// scores.
fn replay(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let table = r.settings(&[
        ("n_prompt_tokens_L", "n_ctx"),
        ("n_prompt_tokens_V", "n_ctx_vision"),
        ("intrinsic_dim_L", "dim"),
        ("intrinsic_dim_V", "dim_vision"),
        ("loss_type", "loss"),
        ("sigma", "sigma"),
        ("popsize", "popsize"),
        ("budget", "budget"),
    ])?;
    let config = stage.typed(table, BptConfig::read)?;
    let mut method = config.make(&stage.clip, &r.classes()?, &mut Init::seeded(0))?;
    method.text = r.get("projection_text")?.to_dtype(DType::F32)?;
    if let Some(part) = &mut method.image {
        part.projection = r.get("projection_vision")?.to_dtype(DType::F32)?;
    }
    let mut es = method.strategy();
    let k = es.constants.clone();
    let constants = [
        ("c1", k.c1),
        ("cmu", k.cmu),
        ("cc", k.cc),
        ("cs", k.cs),
        ("damps", k.damps),
    ];
    let constants = constants
        .into_iter()
        .chain([("mu", k.mu as f64), ("mueff", k.mueff)]);
    for (name, ours) in constants {
        c.chosen(name, ours, r.at(&format!("/es/{name}")));
    }
    for (i, ours) in k.weights.iter().enumerate() {
        c.chosen(
            &format!("weights[{i}]"),
            *ours,
            r.at(&format!("/es/weights/{i}")),
        );
    }
    let labels = r.get("train_labels")?.to_dtype(DType::U32)?;
    let seen = method.seen(&Images::Pixels(r.get("train_images")?.clone()))?;
    let (solutions, fitness) = (r.get("solutions")?, r.get("fitness")?);
    let search = config.search().map_or(0, |s| s.rounds);
    c.choice("generations", search, fitness.dim(0)?);
    for generation in 0..fitness.dim(0)? {
        let candidates: Vec<Vec<f64>> = solutions.get(generation)?.to_vec2()?;
        let want: Vec<f64> = fitness.get(generation)?.to_vec1()?;
        let losses = method.losses(&candidates, &seen, &labels)?;
        losses
            .iter()
            .zip(&want)
            .for_each(|(ours, want)| c.loss(*ours, *want));
        let orders = [&losses, &want].map(|l| CmaEs::order(l));
        c.choice("order of candidates", &orders[0], &orders[1]);
        es.renew()?;
        es.tell(&candidates, &losses);
        for (name, ours) in es.state()? {
            let name = name.replace("search.", "state.");
            let ours = match name.as_str() {
                "state.sigma" => ours.get(0)?,
                _ => ours,
            };
            if let Some(want) = r.tensors.get(&name) {
                c.values(&name, &ours, &want.get(generation)?)?;
            }
        }
        c.steps += 1;
    }
    c.loss(method.best, r.at("/best_fitness").unwrap_or(f64::NAN));
    c.values("best_text", &method.context.ctx, r.get("best_text")?)?;
    if let Some(part) = &method.image {
        c.values("best_vision", &part.tokens, r.get("best_vision")?)?;
    }
    let test = Images::Pixels(r.get("test_images")?.clone());
    c.logits(&method.predictor()?.logits(&test)?, r.get("logits.after")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{base, batch, clip, pixels};
    use crate::{Labelled, find};

    fn small(text: &str) -> BptVlm {
        let mut settings = Settings::new(text.parse().unwrap());
        let config = BptConfig::read(&mut settings);
        assert_eq!(settings.finish().problems, []);
        config.make(&clip(), &base(), &mut Init::seeded(1)).unwrap()
    }

    fn given() -> Shots {
        Shots {
            train: Labelled {
                passes: vec![Images::Pixels(pixels(6, 5))],
                labels: vec![0, 1, 2, 0, 1, 2],
            },
            validation: None,
            test: None,
            seed: 1,
        }
    }

    const SMALL: &str =
        "n_ctx = 2\nn_ctx_vision = 2\ndim = 4\ndim_vision = 3\npopsize = 6\nbudget = 72";

    #[test]
    fn rounds_only_make_the_best_loss_smaller_and_it_is_that_of_what_is_kept() {
        for more in ["", "\nloss = \"focal\""] {
            let (mut method, shots) = (small(&format!("{SMALL}{more}")), given());
            assert!(method.predictor().is_err());
            let losses: Vec<f64> = (0..12)
                .map(|n| method.search(&shots, n).unwrap().loss)
                .collect();
            assert!(losses.is_sorted_by(|a, b| a >= b), "{losses:?}");
            assert!(losses[11] < 0.95 * losses[0], "{losses:?}");
            method.finish().unwrap();
            let part = method.image.as_ref().unwrap();
            let kept = Candidate {
                ctx: method.context.ctx.as_detached_tensor(),
                tokens: Some(part.tokens.as_detached_tensor()),
            };
            let labels = Tensor::new(&shots.train.labels[..], method.text.device()).unwrap();
            let seen = method.seen(&shots.train.passes[0]).unwrap();
            assert_eq!(method.loss_of(&kept, &seen, &labels).unwrap(), losses[11]);
            assert_eq!(method.found()[1].1, 72);
        }
    }

    #[test]
    fn nothing_searched_for_pictures_needs_no_pixels() {
        let config = format!("{SMALL}\nn_ctx_vision = 0").replacen("n_ctx_vision = 2\n", "", 1);
        let mut method = small(&config);
        let clip = clip();
        let mut shots = given();
        method.search(&shots, 1).unwrap();
        let one = method.best;
        shots.train.passes[0] = Images::Features(shots.train.passes[0].features(&clip).unwrap());
        let mut other = small(&config);
        other.search(&shots, 1).unwrap();
        assert!((one - other.best).abs() < 1e-6, "{one} {}", other.best);
        assert_eq!(method.parameters().len(), 1);
        let images = batch().images;
        assert!(method.predictor().unwrap().logits(&images).is_ok());
    }

    #[test]
    fn a_name_has_no_hyphens_and_a_budget_is_at_least_a_generation() {
        let names = ["Boeing 737-800".to_owned()];
        assert_eq!(
            plain(&Classes::new(&names, "any", "{}")).names,
            ["Boeing 737 800"]
        );
        let entry = find("bpt-vlm").unwrap();
        let problems = entry.read("budget = 29".parse().unwrap()).problems;
        assert_eq!(problems[0].field, "budget");
        let search = entry.read("budget = 100".parse().unwrap()).config.search();
        assert_eq!(
            search,
            Some(Search {
                rounds: 3,
                candidates: 90
            })
        );
    }
}
