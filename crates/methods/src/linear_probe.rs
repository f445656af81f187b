//! Linear probe: logistic regression on features of the frozen image tower, its strength searched on validation pictures.
//!
//! Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*,
//! <https://arxiv.org/abs/2103.00020>, as the few-shot baseline of CoOp (<https://arxiv.org/abs/2109.01134>): follows
//! `lpclip/linear_probe.py` at 61a9cd3, whose `LogisticRegression` is scikit-learn's.
//!
//! `N` shots, `K` classes, `E` joint width, `C` weight of the data against `|W|^2 / 2`. Features are not normalised.
//!
//! What is minimised is a mean and a minimum is often not reached: where scikit-learn stops is part of the result, and of
//! what `C` is found. Fits are in float64, as the released code's are.
//!
//! Differs: the shots are those of all other methods, not drawn by NumPy; what is learned is kept in float32.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, Var, bail};
use clip::Clip;

use crate::parts::lbfgs::Stop;
use crate::parts::logistic::{Fit, Problem, Seen};
use crate::parts::rows::Rows;
use crate::parts::shots;
use crate::replay::{Comparison, Recording, Stage};
use crate::{
    Backbones, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Labelled, Method,
    Needs, Predict, Replay, Settings, Shots, Support, TextCost, Validation,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "linear-probe",
    title: "linear probe",
    source: "https://arxiv.org/abs/2103.00020",
    group: Group::Features,
    training: None,
    read: |s| Box::new(ProbeConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["linear_probe"], replay),
};

/// Values of `C` that are tried first.
const GRID: [f64; 7] = [1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6];

/// Share of the loss that an iteration must fall by: scikit-learn's.
const DECREASE: f64 = 64.0 * f64::EPSILON;

#[derive(Clone, Copy, Debug)]
struct ProbeConfig {
    rounds: usize,
    stop: Stop,
}

impl ProbeConfig {
    fn read(s: &mut Settings) -> Self {
        let rounds = "halvings of the bracket around the best C of the grid";
        let tolerance = "of the gradient, where L-BFGS stops (scikit-learn's default)";
        Self {
            rounds: s.count("rounds", 8, 1..=64, rounds),
            stop: Stop {
                iterations: s.count("iterations", 1000, 1..=1_000_000, "of L-BFGS, at most"),
                gradient: s.number("tolerance", 1e-4, 1e-12..=1.0, tolerance),
                decrease: DECREASE,
            },
        }
    }
}

impl Config for ProbeConfig {
    fn needs(&self) -> Needs {
        Needs {
            support: Some(Support::Plain),
            validation: Validation::Few,
            ..Needs::features()
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(Probe::new(&on.clip, *self, classes)?))
    }
}

/// A halving of the bracket.
struct Round {
    left: f64,
    right: f64,
    /// Validation pictures that each end has right.
    hits: [usize; 2],
    /// The end that is kept, and its fit.
    c: f64,
    fit: Fit,
}

/// The search for `C`.
struct Searched {
    /// Validation pictures that each value of [`GRID`] has right.
    grid: Vec<usize>,
    rounds: Vec<Round>,
}

/// The grid, then `rounds` halvings, in the logarithm, of the decades around its first maximum. The better end is kept, the left one of
/// equals, and the other moves halfway to it.
fn search(problem: &Problem, validation: &Seen, config: &ProbeConfig) -> Result<Searched> {
    let mut known: Vec<(f64, Fit, usize)> = Vec::new();
    let mut at = |c: f64| -> Result<(Fit, usize)> {
        if let Some((_, fit, hits)) = known.iter().find(|(of, ..)| *of == c) {
            return Ok((fit.clone(), *hits));
        }
        let fit = problem.fit(c, config.stop)?;
        let hits = fit.hits(validation)?;
        known.push((c, fit.clone(), hits));
        Ok((fit, hits))
    };
    let grid: Vec<usize> = GRID.iter().map(|c| Ok(at(*c)?.1)).collect::<Result<_>>()?;
    let most = grid.iter().max();
    let peak = grid.iter().position(|hits| Some(hits) == most);
    let peak = GRID[peak.expect("the grid is not empty")];
    let (mut left, mut right) = (0.1 * peak, 10.0 * peak);
    let mut rounds = Vec::new();
    for _ in 0..config.rounds {
        let ((at_left, hits_left), (at_right, hits_right)) = (at(left)?, at(right)?);
        let middle = 0.5 * (right.log10() + left.log10());
        let goes_right = hits_left < hits_right;
        let (c, fit) = if goes_right {
            (right, at_right)
        } else {
            (left, at_left)
        };
        rounds.push(Round {
            left,
            right,
            hits: [hits_left, hits_right],
            c,
            fit,
        });
        // Through the logarithm and back, as published.
        let kept = 10f64.powf(c.log10());
        let middle = 10f64.powf(middle);
        (left, right) = if goes_right {
            (middle, kept)
        } else {
            (kept, middle)
        };
    }
    Ok(Searched { grid, rounds })
}

struct Probe {
    clip: Arc<Clip>,
    config: ProbeConfig,
    rows: Rows,
    /// `[K, E]`.
    coef: Var,
    /// `[K]`.
    intercept: Var,
}

impl Probe {
    fn new(clip: &Arc<Clip>, config: ProbeConfig, classes: &Classes) -> Result<Self> {
        let rows = Rows::new(classes)?;
        if classes.len() < 2 {
            bail!("a linear probe tells classes apart; there is only one");
        }
        let device = clip.device();
        let zeros = |shape: &[usize]| Var::zeros(shape, DType::F32, device);
        Ok(Self {
            coef: zeros(&[classes.len(), clip.embedding_size()])?,
            intercept: zeros(&[classes.len()])?,
            clip: clip.clone(),
            config,
            rows,
        })
    }

    fn searched(&self, given: &Shots) -> Result<Searched> {
        let trained = self.rows.trained();
        shots::of_each_class(&given.train.labels, trained)?;
        let validation = Seen::of(&self.clip, shots::validation(given)?)?;
        let problem = Problem {
            seen: &Seen::of(&self.clip, &given.train)?,
            classes: trained.len(),
        };
        search(&problem, &validation, &self.config)
    }
}

impl Method for Probe {
    fn parameters(&self) -> Vec<(String, Var)> {
        vec![
            ("coef".into(), self.coef.clone()),
            ("intercept".into(), self.intercept.clone()),
        ]
    }

    fn fit(&mut self, given: &Shots) -> Result<()> {
        let searched = self.searched(given)?;
        let Some(Round { fit, .. }) = searched.rounds.last() else {
            bail!("there is no round of the search");
        };
        let device = self.clip.device();
        let kept = |t: &Tensor| t.to_dtype(DType::F32)?.to_device(device);
        self.coef.set(&kept(&fit.coef)?)?;
        self.intercept.set(&kept(&fit.intercept)?)
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.rows.bind(classes)
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Fitted { probe: self }))
    }
}

struct Fitted<'a> {
    probe: &'a Probe,
}

impl Predict for Fitted<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let features = images.features(&self.probe.clip)?;
        let linear = features.matmul(&self.probe.coef.as_detached_tensor().t()?)?;
        let scores = linear.broadcast_add(&self.probe.intercept.as_detached_tensor())?;
        self.probe.rows.of(&scores)
    }
}

/// The rows of `features.<which>` that `picks` names, as pictures with labels.
fn picked(r: &Recording, which: &str, picks: Option<&Tensor>) -> Result<Labelled> {
    let mut features = r.get(&format!("features.{which}"))?.clone();
    let mut labels = r.get(&format!("{which}_labels"))?.to_dtype(DType::U32)?;
    if let Some(picks) = picks {
        features = features.index_select(picks, 0)?;
        labels = labels.index_select(picks, 0)?;
    }
    Ok(Labelled {
        passes: vec![Images::Features(features)],
        labels: labels.to_vec1()?,
    })
}

/// Every accuracy and `C` of every search, the fits kept, and the same solved to the end.
fn replay(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let config = ProbeConfig {
        rounds: r.count("steps")?,
        stop: Stop {
            iterations: r.count("max_iter")?,
            gradient: r.number("tol")?,
            decrease: DECREASE,
        },
    };
    let solved = Stop {
        iterations: 100_000,
        gradient: 1e-9,
        decrease: 0.0,
    };
    let test = picked(r, "test", None)?;
    c.values(
        "features.test",
        &stage.clip.encode_image(r.get("test_images")?)?,
        r.get("features.test")?,
    )?;
    let tested = Seen::of(&stage.clip, &test)?;
    let Some(runs) = r.field("runs").and_then(|v| v.as_array()) else {
        bail!("runs: must be a list");
    };
    for (number, run) in runs.iter().enumerate() {
        let at = |key: &str| r.at(&format!("/runs/{number}/{key}"));
        let whole = |key: &str| run.get(key).and_then(serde_json::Value::as_u64);
        let (Some(seed), Some(count)) = (whole("seed"), whole("shots")) else {
            bail!("runs[{number}]: must name its seed and shots");
        };
        let key = format!("s{seed}.k{count}");
        let of = |which: &str| {
            let picks = r.get(&format!("pick.{which}.{key}"))?;
            picked(r, which, Some(picks))
        };
        let given = Shots {
            train: of("train")?,
            validation: Some(of("val")?),
            test: None,
            seed,
        };
        let mut probe = Probe::new(&stage.clip, config, &r.classes()?)?;
        let searched = probe.searched(&given)?;
        let validated = shots::validation(&given)?.labels.len();
        let share = |hits: usize| hits as f64 / validated as f64;
        for (i, (hits, value)) in searched.grid.iter().zip(GRID).enumerate() {
            c.chosen("grid", value, at(&format!("grid/{i}")));
            c.chosen(
                &format!("{key}: validation of {value}"),
                share(*hits),
                at(&format!("grid_val_acc/{i}")),
            );
        }
        let percent = |hits: usize| 100.0 * hits as f64 / tested.labels.len() as f64;
        for (i, round) in searched.rounds.iter().enumerate() {
            let ours = [
                ("c_left", round.left),
                ("c_right", round.right),
                ("val_left", share(round.hits[0])),
                ("val_right", share(round.hits[1])),
                ("c", round.c),
                ("test_acc", percent(round.fit.hits(&tested)?)),
            ];
            for (name, ours) in ours {
                let pointer = format!("rounds/{i}/{name}");
                c.chosen(&format!("{key}: {pointer}"), ours, at(&pointer));
            }
            c.steps += 1;
        }
        let Some(Round { c: chosen, fit, .. }) = searched.rounds.last() else {
            bail!("there is no round of the search");
        };
        c.chosen("iterations", fit.iterations as f64, at("n_iter"));
        c.loss(fit.objective, at("final_objective").unwrap_or(f64::NAN));
        compare(r, c, &format!(".{key}"), fit, &tested)?;
        let problem = Problem {
            seen: &Seen::of(&stage.clip, &given.train)?,
            classes: probe.rows.trained().len(),
        };
        for (weight, name) in [(1.0, "_C1"), (100.0, "_C100"), (*chosen, "_converged")] {
            let fit = problem.fit(weight, solved)?;
            compare(r, c, &format!("{name}.{key}"), &fit, &tested)?;
            if weight == *chosen {
                c.loss(fit.objective, at("objective_converged").unwrap_or(f64::NAN));
                c.chosen(
                    "test_acc_converged",
                    percent(fit.hits(&tested)?),
                    at("test_acc_converged"),
                );
            }
        }
        // As it is run: all at once.
        probe.fit(&given)?;
        let scores = probe.predictor()?.logits(&test.passes[0])?;
        c.accuracy("test_acc", &scores, &test.labels, at("test_acc"))?;
    }
    Ok(())
}

/// Coefficients, intercepts and, where recorded, test scores of a fit.
fn compare(r: &Recording, c: &mut Comparison, key: &str, fit: &Fit, tested: &Seen) -> Result<()> {
    let recorded = |what: &str| format!("{what}{key}");
    c.values("coef", &fit.coef, r.get(&recorded("coef"))?)?;
    c.values("intercept", &fit.intercept, r.get(&recorded("intercept"))?)?;
    if let Some(decision) = r.tensors.get(&recorded("decision")) {
        c.values("decision", &fit.scores(&tested.features)?, decision)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{base, clip};
    use candle_core::Device;

    fn seen(rows: &[[f64; 2]], labels: &[u32]) -> Seen {
        let features = Tensor::from_vec(rows.concat(), (rows.len(), 2), &Device::Cpu).unwrap();
        Seen {
            features,
            labels: labels.to_vec(),
        }
    }

    #[test]
    fn of_equal_ends_the_left_one_is_kept_and_of_equal_strengths_the_largest() {
        // Every fit has all validation pictures right.
        let seen = seen(&[[-1.0, 0.0], [1.0, 0.2], [0.1, 5.0]], &[0, 1, 2]);
        let problem = Problem {
            seen: &seen,
            classes: 3,
        };
        let config = ProbeConfig {
            rounds: 3,
            stop: Stop {
                iterations: 1000,
                gradient: 1e-4,
                decrease: DECREASE,
            },
        };
        let searched = search(&problem, &seen, &config).unwrap();
        assert_eq!(searched.grid[..3], [3, 3, 3]);
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        for (round, right) in searched.rounds.iter().zip([1e7, 1e6, 10f64.powf(5.5)]) {
            assert!(near(round.left, 1e5) && near(round.right, right));
            assert!(near(round.c, 1e5));
        }
    }

    #[test]
    fn one_class_is_refused() {
        let one = Classes::new(&base().names[..1], "eurosat", "{}");
        let config = ProbeConfig::read(&mut Settings::new(toml::Table::new()));
        let refused = Probe::new(&clip(), config, &one).err().unwrap();
        assert!(refused.to_string().contains("only one"), "{refused}");
    }
}
