//! LP++: a linear head on features beside text scores that each class weighs for itself; step sizes follow from the data.
//!
//! Huang et al., *LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP*, <https://arxiv.org/abs/2404.02285>.
//! Follows the authors' `methods/linear_probe_p2.py` at f81054f.
//!
//! `N` shots, `K` classes, `E` joint width. Gradients are written out: every epoch is a full batch of fixed features.
//!
//! Differs: features are float32. The class scores are those of the epoch that the authors read the test accuracy at: the
//! last whose validation accuracy is not below the best.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, Var, bail};
use clip::Clip;

use crate::parts::cache::{CROP, Recorded};
use crate::parts::losses::log_softmax;
use crate::parts::rows::Rows;
use crate::parts::{shots, templates, texts};
use crate::replay::{Comparison, Stage};
use crate::{
    Backbones, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Method, Needs,
    Predict, Replay, Settings, Shots, Support, TextCost, Validation,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "lp-plus-plus",
    title: "LP++",
    source: "https://arxiv.org/abs/2404.02285",
    group: Group::Features,
    training: None,
    read: |s| Box::new(HeadConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["lp++"], replay),
};

#[derive(Clone, Copy, Debug)]
struct HeadConfig {
    epochs: usize,
    alpha_every: usize,
}

impl HeadConfig {
    fn read(s: &mut Settings) -> Self {
        let every = "epochs from one step of the text weights to the next";
        Self {
            epochs: s.count("epochs", 300, 1..=100_000, "full batches"),
            alpha_every: s.count("alpha_every", 10, 1..=100_000, every),
        }
    }
}

impl Config for HeadConfig {
    fn needs(&self) -> Needs {
        Needs {
            support: Some(Support::Passes(1)),
            validation: Validation::AsShots,
            crop: CROP,
            ..Needs::features()
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let used = templates::on_features(classes);
        Ok(Box::new(Head::new(&on.clip, *self, classes, &used, init)?))
    }
}

struct Head {
    clip: Arc<Clip>,
    config: HeadConfig,
    rows: Rows,
    /// `[K, E]`, unit length.
    texts: Tensor,
    /// `[K, E]`.
    weight: Var,
    /// `[K]`.
    bias: Var,
    /// `[1, K]`.
    alpha: Var,
}

/// The largest eigenvalue of `F^T F` for `F` `[N, E]` of float64, by iterating it on a vector.
fn largest_eigenvalue(features: &Tensor) -> Result<f64> {
    let transposed = features.t()?.contiguous()?;
    let length = |v: &Tensor| v.sqr()?.sum_all()?.to_scalar::<f64>().map(f64::sqrt);
    let mut v = features.sum_keepdim(0)?.t()?.contiguous()?; // [E, 1]
    if length(&v)? == 0.0 {
        v = features.narrow(0, 0, 1)?.t()?.contiguous()?;
    }
    let mut value = 0.0;
    for _ in 0..10_000 {
        let of = length(&v)?;
        if of == 0.0 {
            bail!("the features are all zero");
        }
        v = transposed.matmul(&features.matmul(&(v / of)?)?)?;
        let next = length(&v)?;
        if (next - value).abs() <= 1e-13 * next {
            return Ok(next);
        }
        value = next;
    }
    Ok(value)
}

/// The values of a linear head and of its text weights.
#[derive(Clone)]
struct Values {
    weight: Tensor,
    bias: Tensor,
    alpha: Tensor,
}

impl Values {
    /// `[n, K]` of features `[n, E]` and text scores `[n, K]`.
    fn scores(&self, features: &Tensor, text: &Tensor) -> Result<Tensor> {
        let linear = features.matmul(&self.weight.t()?)?;
        linear.broadcast_add(&self.bias)? + text.broadcast_mul(&self.alpha)?
    }
}

/// Full-batch descent on fixed features.
struct Descent {
    /// `[N, E]`, unit length.
    features: Tensor,
    /// `[N, K]`: cosines to the texts.
    text: Tensor,
    labels: Vec<u32>,
    /// `[N, K]`.
    one_hot: Tensor,
    now: Values,
    /// Momentum of weight and bias.
    speed: Option<(Tensor, Tensor)>,
    /// Gradient of alpha, summed over all epochs: the authors never clear it.
    gathered: Tensor,
    lr: f64,
    lr_alpha: f64,
}

/// An epoch's loss, gradients and training hits, before its update.
struct Epoch {
    loss: f64,
    hits: usize,
    gradients: Values,
}

impl Descent {
    /// Sums of each class's features as weights, one alpha for all, and the step sizes.
    fn start(features: Tensor, labels: &[u32], texts: &Tensor, bias: &Tensor) -> Result<Self> {
        let (n, classes) = (features.dim(0)? as f64, texts.dim(0)?);
        let one_hot = shots::one_hot(labels, classes, &features)?;
        let text = features.matmul(&texts.t()?)?;
        let own = (&text * &one_hot)?.sum(0)?; // [K]: of each class's pictures to its text
        let alpha = ((own / one_hot.sum(0)?)?.mean_all()? * 250.0)?;
        let strongest = text.sqr()?.sum(0)?.max(0)?.to_scalar::<f32>()?;
        let alpha = alpha.broadcast_as((1, classes))?.contiguous()?;
        Ok(Self {
            lr: 4.0 * n / largest_eigenvalue(&features.to_dtype(DType::F64)?)?,
            lr_alpha: n / (4.0 * f64::from(strongest)),
            gathered: alpha.zeros_like()?,
            now: Values {
                weight: one_hot.t()?.matmul(&features)?,
                bias: bias.clone(),
                alpha,
            },
            speed: None,
            labels: labels.to_vec(),
            features,
            text,
            one_hot,
        })
    }

    /// One full batch; `moves_alpha` after it.
    fn epoch(&mut self, moves_alpha: bool) -> Result<Epoch> {
        let n = self.labels.len() as f64;
        let scores = self.now.scores(&self.features, &self.text)?;
        let log_p = log_softmax(&scores)?;
        let loss = (&log_p * &self.one_hot)?.sum_all()?.to_scalar::<f32>()?;
        let slope = ((log_p.exp()? - &self.one_hot)? / n)?; // [N, K]
        let gradients = Values {
            weight: slope.t()?.matmul(&self.features)?,
            bias: slope.sum(0)?,
            alpha: (&slope * &self.text)?.sum_keepdim(0)?,
        };
        let (w, b) = match &self.speed {
            None => (gradients.weight.clone(), gradients.bias.clone()),
            Some((w, b)) => (
                ((w * 0.9)? + &gradients.weight)?,
                ((b * 0.9)? + &gradients.bias)?,
            ),
        };
        self.now.weight = (&self.now.weight - (&w * self.lr)?)?;
        self.now.bias = (&self.now.bias - (&b * self.lr)?)?;
        self.speed = Some((w, b));
        self.gathered = (&self.gathered + &gradients.alpha)?;
        if moves_alpha {
            self.now.alpha = (&self.now.alpha - (&self.gathered * self.lr_alpha)?)?;
        }
        Ok(Epoch {
            loss: -f64::from(loss) / n,
            hits: shots::hits(&scores, &self.labels)?,
            gradients,
        })
    }
}

impl Head {
    fn new(
        clip: &Arc<Clip>,
        config: HeadConfig,
        classes: &Classes,
        used: &[&str],
        init: &mut Init,
    ) -> Result<Self> {
        let rows = Rows::new(classes)?;
        let texts = texts::averaged(clip, &classes.names, used)?;
        // The weight is drawn, too, but replaced before the first epoch.
        let (weight, bias) = init.linear(classes.len(), clip.embedding_size())?;
        Ok(Self {
            clip: clip.clone(),
            config,
            rows,
            weight: Var::from_tensor(&weight.zeros_like()?)?,
            bias: Var::from_tensor(&bias)?,
            alpha: Var::from_tensor(&bias.zeros_like()?.unsqueeze(0)?)?,
            texts,
        })
    }

    fn descent(&self, given: &Shots) -> Result<Descent> {
        shots::of_each_class(&given.train.labels, self.rows.trained())?;
        let features = shots::unit_features(&self.clip, &given.train)?;
        let bias = self.bias.as_detached_tensor().copy()?;
        Descent::start(features, &given.train.labels, &self.texts, &bias)
    }

    fn moves_alpha(&self, epoch: usize) -> bool {
        (epoch + 1).is_multiple_of(self.config.alpha_every)
    }

    fn keep(&mut self, values: &Values) -> Result<()> {
        self.weight.set(&values.weight)?;
        self.bias.set(&values.bias)?;
        self.alpha.set(&values.alpha)?;
        Ok(())
    }

    fn values(&self) -> Values {
        Values {
            weight: self.weight.as_detached_tensor(),
            bias: self.bias.as_detached_tensor(),
            alpha: self.alpha.as_detached_tensor(),
        }
    }
}

impl Method for Head {
    fn parameters(&self) -> Vec<(String, Var)> {
        vec![
            ("classifier.weight".into(), self.weight.clone()),
            ("classifier.bias".into(), self.bias.clone()),
            ("alpha".into(), self.alpha.clone()),
        ]
    }

    fn fit(&mut self, given: &Shots) -> Result<()> {
        let pictures = shots::validation(given)?;
        let val = shots::unit_features(&self.clip, pictures)?;
        let val_text = val.matmul(&self.texts.t()?)?;
        let mut descent = self.descent(given)?;
        let (mut most, mut best) = (0, descent.now.clone());
        for epoch in 0..self.config.epochs {
            let done = descent.epoch(self.moves_alpha(epoch))?;
            if !done.loss.is_finite() {
                bail!("the loss became {} in epoch {epoch}", done.loss);
            }
            let hits = shots::hits(&descent.now.scores(&val, &val_text)?, &pictures.labels)?;
            if hits >= most {
                (most, best) = (hits, descent.now.clone());
            }
        }
        self.keep(&best)
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.rows.bind(classes)
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Trained {
            head: self,
            values: self.values(),
        }))
    }
}

struct Trained<'a> {
    head: &'a Head,
    values: Values,
}

impl Predict for Trained<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let features = images.unit_features(&self.head.clip)?;
        let text = features.matmul(&self.head.texts.t()?)?;
        self.head.rows.of(&self.values.scores(&features, &text)?)
    }
}

/// Step sizes, every epoch's loss, alpha and accuracies, first gradients, final values, and which epoch is read.
fn replay(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let config = HeadConfig {
        epochs: r.count("epochs")?,
        alpha_every: r.count("alpha_every")?,
    };
    let labelled = |which: &str| {
        let images = r.get(&format!("{which}_images"))?.clone();
        shots::labelled(vec![images], r.get(&format!("{which}_labels"))?)
    };
    let (train, val, test) = (labelled("train")?, labelled("val")?, labelled("test")?);
    let given = Shots {
        train,
        validation: Some(val.clone()),
        test: None,
        seed: 0,
    };
    let used = Recorded::texts(r)?;
    let used: Vec<&str> = used.iter().map(String::as_str).collect();
    let draw = &mut Init::seeded(0);
    let mut head = Head::new(&stage.clip, config, &r.classes()?, &used, draw)?;
    c.values("text_weights", &head.texts.t()?, r.get("text_weights")?)?;
    head.bias.set(r.get("init.classifier.bias")?)?;
    let mut descent = head.descent(&given)?;
    c.loss(descent.lr, r.number("lr_w")?);
    c.loss(descent.lr_alpha, r.number("lr_alpha")?);
    head.keep(&descent.now)?;
    c.parameters(&head, &r.named("init."))?;
    let at = |pictures: &crate::Labelled| -> Result<(Tensor, Tensor)> {
        let features = shots::unit_features(&stage.clip, pictures)?;
        let text = features.matmul(&head.texts.t()?)?;
        Ok((features, text))
    };
    let (of_val, of_test) = (at(&val)?, at(&test)?);
    c.logits(
        &descent.now.scores(&of_test.0, &of_test.1)?,
        r.get("logits.before")?,
    )?;
    let Some(losses) = r.numbers("loss")? else {
        bail!("tensor loss is missing");
    };
    let accuracies: Vec<Vec<f64>> = r.get("epoch.acc")?.to_vec2()?;
    let percent = |hits: usize, of: usize| 100.0 * hits as f64 / of as f64;
    let told = |accuracies: &[f64]| format!("{accuracies:.3?}");
    let (mut most, mut read) = (0, (0, 0.0));
    for (epoch, want) in losses.iter().enumerate() {
        c.values(
            "alpha",
            &descent.now.alpha.get(0)?,
            &r.get("alpha.step")?.get(epoch)?,
        )?;
        let done = descent.epoch(head.moves_alpha(epoch))?;
        c.loss(done.loss, *want);
        if epoch == 0 {
            let g = &done.gradients;
            c.gradient("weight", &g.weight, r.get("grad0.classifier.weight")?)?;
            c.gradient("bias", &g.bias, r.get("grad0.classifier.bias")?)?;
            c.gradient("alpha", &g.alpha, r.get("grad0.alpha")?)?;
        }
        let right = shots::hits(&descent.now.scores(&of_val.0, &of_val.1)?, &val.labels)?;
        let mut tested = -1.0;
        if right >= most {
            let hits = shots::hits(&descent.now.scores(&of_test.0, &of_test.1)?, &test.labels)?;
            tested = percent(hits, test.labels.len());
            (most, read) = (right, (epoch, tested));
        }
        let trained = percent(done.hits, given.train.labels.len());
        let ours = [trained, percent(right, val.labels.len()), tested];
        c.choice("accuracies", told(&ours), told(&accuracies[epoch]));
        c.steps += 1;
    }
    c.choice("best_epoch", Some(read.0 as f64), r.at("/best_epoch"));
    c.choice(
        "reported_test_acc",
        Some(read.1),
        r.at("/reported_test_acc"),
    );
    let best = percent(most, val.labels.len());
    c.choice("best_val_acc", Some(best), r.at("/best_val_acc"));
    c.logits(
        &descent.now.scores(&of_test.0, &of_test.1)?,
        r.get("logits.after")?,
    )?;
    head.keep(&descent.now)?;
    c.parameters(&head, &r.named("final."))?;
    // As it is run: the same, all at once.
    head.bias.set(r.get("init.classifier.bias")?)?;
    head.fit(&given)?;
    let scores = head.predictor()?.logits(&test.passes[0])?;
    c.accuracy(
        "reported_test_acc",
        &scores,
        &test.labels,
        r.at("/reported_test_acc"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::losses::cross_entropy;
    use candle_core::Device;

    fn tensor(v: &[[f32; 3]]) -> Tensor {
        Tensor::from_vec(v.concat(), (v.len(), 3), &Device::Cpu).unwrap()
    }

    #[test]
    fn written_gradients_are_those_of_the_graph_and_alpha_moves_by_the_sum_of_its_own() {
        let features = tensor(&[
            [0.8, 0.6, 0.0],
            [0.0, 0.6, 0.8],
            [0.6, 0.0, 0.8],
            [1.0, 0.0, 0.0],
        ]);
        let texts = tensor(&[[0.6, 0.8, 0.0], [0.0, 0.8, 0.6]]);
        let labels = [0u32, 1, 1, 0];
        let bias = Tensor::new(&[0.1f32, -0.2], &Device::Cpu).unwrap();
        let mut descent = Descent::start(features, &labels, &texts, &bias).unwrap();
        let var = |t: &Tensor| Var::from_tensor(&t.copy().unwrap()).unwrap();
        let mut gathered = vec![0f32; 2];
        for epoch in 0..4 {
            let now = descent.now.clone();
            let (w, b, a) = (var(&now.weight), var(&now.bias), var(&now.alpha));
            let values = Values {
                weight: w.as_tensor().clone(),
                bias: b.as_tensor().clone(),
                alpha: a.as_tensor().clone(),
            };
            let scores = values.scores(&descent.features, &descent.text).unwrap();
            let loss =
                cross_entropy(&scores, &Tensor::new(&labels, &Device::Cpu).unwrap()).unwrap();
            let graph = loss.backward().unwrap();
            let done = descent.epoch(epoch == 3).unwrap();
            assert!((done.loss - f64::from(loss.to_scalar::<f32>().unwrap())).abs() < 1e-6);
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (ours, theirs) in [
                (&done.gradients.weight, graph.get(&w)),
                (&done.gradients.bias, graph.get(&b)),
                (&done.gradients.alpha, graph.get(&a)),
            ] {
                for (x, y) in flat(ours).iter().zip(flat(theirs.unwrap())) {
                    assert!((x - y).abs() < 1e-6, "{x} {y}");
                }
            }
            for (sum, g) in gathered.iter_mut().zip(flat(&done.gradients.alpha)) {
                *sum += g;
            }
            if epoch == 3 {
                let moved = flat(&(&now.alpha - &descent.now.alpha).unwrap());
                for (moved, sum) in moved.iter().zip(&gathered) {
                    assert!((moved - sum * descent.lr_alpha as f32).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn step_sizes_follow_from_the_data() {
        // F^T F = diag(4, 1, 0): largest eigenvalue 4.
        let features = tensor(&[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);
        let got = largest_eigenvalue(&features.to_dtype(DType::F64).unwrap()).unwrap();
        assert!((got - 4.0).abs() < 1e-9, "{got}");
        let texts = tensor(&[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);
        let bias = Tensor::new(&[0f32, 0.0], &Device::Cpu).unwrap();
        let descent = Descent::start(features, &[0, 1], &texts, &bias).unwrap();
        assert!((descent.lr - 2.0).abs() < 1e-9);
        assert!((descent.lr_alpha - 2.0 / 16.0).abs() < 1e-9);
        // Mean of 2 and 1, times 250.
        let alpha: Vec<Vec<f32>> = descent.now.alpha.to_vec2().unwrap();
        assert_eq!(alpha, [[375.0, 375.0]]);
    }
}
