//! DePT: a linear head for the trained classes, decoupled from a host's prompts by a map of its own on the features.
//!
//! Zhang et al., *DePT: Decoupled Prompt Tuning*, <https://arxiv.org/abs/2309.07439>. Follows the authors' code
//! (Koorye/DePT) at d4ff416, which has CoOp, CoCoOp, KgCoOp and MaPLe as hosts.
//!
//! `B` images, `K` trained classes, `E` joint width.
//!
//! On the classes it was trained on it scores with the host's similarities and the head together; on any others, on
//! other datasets, and where trained classes and others are asked together, with the similarities alone, as the head
//! knows no other class.
//!
//! Differs: the authors also use the head on the variants of ImageNet, whose classes are rows of it; and they warm the
//! head up at the rate of the prompts, where here it has its factor from the first step on.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};

use crate::parts::hosts::{Fixed, Host, HostConfig};
use crate::parts::layout::variable;
use crate::parts::losses::cross_entropy;
use crate::replay::{Comparison, Stage, follow};
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, Images, Init, Loss, Method,
    Needs, Predict, Relation, Replay, Settings, Training, load_parameters,
};

/// Registry entry. With CoCoOp as host: learning rate 0.002, batch 1.
pub const ENTRY: Entry = Entry {
    name: "dept",
    title: "DePT",
    source: "https://arxiv.org/abs/2309.07439",
    group: Group::TextPrompts,
    training: Some(Training::sgd(10, 4, 0.0035)),
    read: |s| Box::new(DeptConfig::read(s)),
    checkpoint: Some(Checkpoint {
        folder: "PromptLearner",
        module: None,
    }),
    replay: Replay::Own(&["dept"], compare),
};

struct DeptConfig {
    host: HostConfig,
    share: f64,
    rate: f64,
}

impl DeptConfig {
    fn read(s: &mut Settings) -> Self {
        Self {
            host: HostConfig::read(s),
            share: s.number(
                "head_share",
                0.7,
                0.0..=1.0,
                "of the head in loss and scores; the similarities have the rest",
            ),
            rate: s.number(
                "head_rate",
                6.5,
                0.0..=1e4,
                "factor on the learning rate of the head and its maps",
            ),
        }
    }
}

impl Config for DeptConfig {
    fn needs(&self) -> Needs {
        Needs {
            knows_split: true,
            ..self.host.needs()
        }
    }

    fn cost(&self) -> Cost {
        self.host.cost()
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let host = self.host.make(&on.clip, classes, init)?;
        let e = on.clip.embedding_size();
        let film = || {
            let like = Tensor::ones(e, candle_core::DType::F32, on.clip.device())?;
            Ok::<_, candle_core::Error>((variable(&like)?, variable(&like.zeros_like()?)?))
        };
        let (weight, bias) = init.linear(classes.len(), e)?;
        Ok(Box::new(Dept {
            host,
            film_image: film()?,
            film_text: film()?,
            head: (variable(&weight)?, variable(&bias)?),
            share: self.share,
            rate: self.rate,
            trained: Arc::new(classes.clone()),
            is_trained: true,
        }))
    }
}

struct Dept {
    host: Host,
    /// Scale and bias `[E]` on image features.
    film_image: (Var, Var),
    /// The same on text features.
    film_text: (Var, Var),
    /// Weight `[K, E]` and bias.
    head: (Var, Var),
    share: f64,
    rate: f64,
    /// The classes of the head's rows.
    trained: Arc<Classes>,
    /// Whether it is bound to these.
    is_trained: bool,
}

/// `x scale + bias`, row by row.
fn film(x: &Tensor, scale: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.broadcast_mul(scale)?.broadcast_add(bias)
}

impl Method for Dept {
    fn parameters(&self) -> Vec<(String, Var)> {
        let pairs = [
            ("film_lp_img", ["scale", "bias"], &self.film_image),
            ("film_lp_text", ["scale", "bias"], &self.film_text),
            ("linear_probe_proj", ["weight", "bias"], &self.head),
        ];
        let own = pairs.into_iter().flat_map(|(module, [a, b], (x, y))| {
            [(a, x), (b, y)].map(|(name, v)| (format!("{module}.{name}"), v.clone()))
        });
        self.host.parameters().into_iter().chain(own).collect()
    }

    fn rate(&self, parameter: &str) -> f64 {
        let is_head = ["film_", "linear_probe"];
        if is_head.iter().any(|p| parameter.starts_with(p)) {
            self.rate
        } else {
            1.0
        }
    }

    /// The head sees the features of each label's text, then those of the pictures.
    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        if !self.is_trained {
            bail!("a head of the classes it was built with cannot be trained on others");
        }
        let forward = self.host.forward(batch)?;
        let of = |(a, b): &(Var, Var)| (a.as_tensor().clone(), b.as_tensor().clone());
        let ((ts, tb), (is, ib)) = (of(&self.film_text), of(&self.film_image));
        let texts = film(&forward.labelled, &ts, &tb)?;
        let rows = Tensor::cat(&[texts, film(&forward.images, &is, &ib)?], 0)?; // [2 B, E]
        let (weight, bias) = of(&self.head);
        let head = rows.matmul(&weight.t()?)?.broadcast_add(&bias)?; // [2 B, K]
        let labels = Tensor::cat(&[&batch.labels, &batch.labels], 0)?;
        let similar = cross_entropy(&forward.logits, &batch.labels)?;
        let mut parts = vec![
            ("similarity", (similar * (1.0 - self.share))?),
            ("head", (cross_entropy(&head, &labels)? * self.share)?),
        ];
        parts.extend(forward.besides);
        Loss::sum(parts)
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.host.bind(classes)?;
        self.is_trained = classes.relation(&self.trained) == Relation::Same;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        let host = self.host.fixed()?;
        let head = self.is_trained.then_some(self);
        Ok(Box::new(Fused { host, head }))
    }
}

struct Fused<'a> {
    host: Fixed<'a>,
    /// Where its classes are asked.
    head: Option<&'a Dept>,
}

impl Predict for Fused<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let features = self.host.features(images)?; // [B, E]
        let similar = self.host.similarities(&features)?; // [B, K]
        let Some(own) = self.head else {
            return Ok(similar);
        };
        let of = Var::as_detached_tensor;
        let mapped = film(&features, &of(&own.film_image.0), &of(&own.film_image.1))?;
        let head = mapped
            .matmul(&of(&own.head.0).t()?)?
            .broadcast_add(&of(&own.head.1))?;
        (similar * (1.0 - own.share))? + (head * own.share)?
    }
}

/// Replays a recorded run: training steps, then the two terms of the scores apart.
fn compare(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let mut table = r.settings(&[
        ("host", "host"),
        ("n_ctx", "n_ctx"),
        ("depth", "depth"),
        ("w", "weight"),
        ("lp_weight", "head_share"),
        ("lr_mult", "head_rate"),
    ])?;
    table.insert("init".into(), r.words("ctx_init").into());
    let classes = r.classes()?;
    let mut method = stage.start(table.clone(), &classes)?;
    if let Some(teacher) = r.tensors.get("teacher.text") {
        c.values(
            "teacher.text",
            &crate::parts::hosts::guide(&stage.clip, &classes)?,
            teacher,
        )?;
    }
    follow(stage, method.as_mut(), &mut r.optimizer()?, c)?;
    let learned = method.parameters().into_iter();
    let learned = learned.map(|(n, v)| (n, v.as_detached_tensor())).collect();
    let test = Images::Pixels(r.get("test_images")?.clone());
    for (share, term) in [
        (0.0, "logits.similarity.after"),
        (1.0, "logits.linear.after"),
    ] {
        table.insert("head_share".into(), share.into());
        let apart = stage.start(table.clone(), &classes)?;
        load_parameters(apart.as_ref(), &learned)?;
        c.logits(&apart.predictor()?.logits(&test)?, r.get(term)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::tests::{base, batch, build, clip, logits, novel};

    #[test]
    fn the_head_speaks_only_where_its_classes_are_asked() {
        let clip = clip();
        let images = batch().images;
        let words = "n_ctx = 4\ninit = \"a photo of a\"";
        let mut with = build("dept", words, &clip);
        let mut host = build("coop", words, &clip);
        assert_ne!(
            logits(with.as_ref(), &images),
            logits(host.as_ref(), &images)
        );
        let mut mixed = base();
        mixed.names.truncate(1);
        mixed.names.extend(novel().names);
        for others in [novel(), mixed] {
            with.bind(&others).unwrap();
            host.bind(&others).unwrap();
            assert_eq!(
                logits(with.as_ref(), &images),
                logits(host.as_ref(), &images)
            );
        }
        let message = with.loss(&batch()).unwrap_err().to_string();
        assert!(message.contains("cannot be trained on others"), "{message}");
        with.bind(&base()).unwrap();
        assert!(with.loss(&batch()).is_ok());
    }

    #[test]
    fn a_head_of_zeros_scores_with_three_tenths_of_the_similarities() {
        let clip = clip();
        let images = batch().images;
        let words = "init = \"a photo of a\"";
        let with = build("dept", words, &clip);
        for (name, var) in with.parameters() {
            if name.starts_with("linear_probe_proj") {
                var.set(&var.as_tensor().zeros_like().unwrap()).unwrap();
            }
        }
        let host = build("coop", words, &clip);
        let want = logits(host.as_ref(), &images);
        for (got, want) in logits(with.as_ref(), &images).iter().zip(want) {
            assert!((got - 0.3 * want).abs() < 1e-4, "{got} {want}");
        }
    }

    #[test]
    fn only_the_head_and_its_maps_have_a_rate_of_their_own() {
        let with = build("dept", "", &clip());
        for (name, _) in with.parameters() {
            let of_host = name.starts_with("prompt_learner.");
            assert_eq!(with.rate(&name), if of_host { 1.0 } else { 6.5 }, "{name}");
        }
    }

    #[test]
    fn a_map_scales_and_shifts_each_feature() {
        let of = |x: &[f32]| Tensor::new(x, &Device::Cpu).unwrap();
        let x = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let got = film(&x, &of(&[2.0, -1.0]), &of(&[0.5, 0.0])).unwrap();
        let want = [[2.5f32, -2.0], [6.5, -4.0]];
        assert_eq!(got.to_vec2::<f32>().unwrap(), want.map(|r| r.to_vec()));
    }
}
