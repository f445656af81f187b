//! `promptbed eval`: saved prompts on any dataset and class set.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use methods::{Batch, Classes, Images, Loss, Method, Predict};

use super::Done;
use super::data::Half;
use super::run::catalogue;
use crate::backbone;
use crate::cache::Cache;
use crate::data::{Feed, open};
use crate::prompts::{Given, Saved};
use crate::store::Prediction;
use crate::trial::{Target, classes_of, test};

/// Evaluate saved prompts on a dataset: prints accuracy.
///
/// Prompts are those of a results folder (prompts/*.safetensors), or a checkpoint of the published code
/// (prompt_learner/model.pth.tar-50 ...), for which --method says what it is.
///
/// Example: promptbed eval --prompts results/quick/prompts/coop-drawn-pets-16shot-seed1-....safetensors --dataset drawn-cars
#[derive(clap::Args)]
pub struct Eval {
    /// Prompts.
    #[arg(long)]
    prompts: PathBuf,
    /// Dataset to test on.
    #[arg(long)]
    dataset: String,
    /// Which of its classes.
    #[arg(long, value_enum, default_value = "all")]
    split: Half,
    /// Folder that holds the datasets.
    #[arg(long)]
    data: Option<PathBuf>,
    /// More dataset rows, a TOML file.
    #[arg(long)]
    catalogue: Option<PathBuf>,
    /// CLIP weights: a file, a folder or a name of `model list` [default: the CLIP that ships].
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder that keeps features and decoded test pictures between runs [default: none]. Changes no result.
    #[arg(long)]
    cache: Option<PathBuf>,
    #[command(flatten)]
    told: backbone::Told,
    #[command(flatten)]
    kept: backbone::Kept,
    #[command(flatten)]
    given: Given,
    /// Write `logits` f32 [n, K] and `labels` i64 [n] of all pictures, too: a safetensors file, pictures and class
    /// names in its metadata.
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    /// Print accuracy of each class and the calibration error too, as JSON.
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub fn run(self) -> Result<Done> {
        let catalogue = catalogue(self.catalogue.as_deref())?;
        let saved = Saved::read(&self.prompts, &self.given)?;
        let dataset = open(&self.dataset, &catalogue, self.data.as_deref())?;
        let weights = backbone::weights(backbone::SHIPPED, self.model.as_deref(), &self.told)?;
        backbone::takes(&weights, [(saved.algorithm.as_str(), saved.config.sees())])?;
        let clip = self.kept.load(&weights)?;
        saved.check_backbone(&clip.identity())?;
        let cache = self.cache.as_deref().map(Cache::open).transpose()?;
        let feed = Arc::new(Feed::new(dataset, clip.clone()).with_cache(cache));
        let target = Target {
            feed: feed.clone(),
            set: self.split.set(),
        };
        let classes = classes_of(&feed, target.set)?;
        let bound = Recording {
            method: saved
                .method(&clip, &classes)
                .with_context(|| format!("{}", self.prompts.display()))?,
            logits: self.logits.is_some().then(Mutex::default),
        };
        let never = AtomicBool::new(false);
        let (result, predictions) = test(
            &bound,
            saved.config.sees(),
            &target,
            &classes,
            0,
            saved.seed,
            &never,
        )?;
        if result.total == 0 {
            bail!("dataset {}: nothing to test", self.dataset);
        }
        if let (Some(path), Some(logits)) = (&self.logits, bound.logits) {
            let logits = logits.into_inner().expect("no panic while held");
            write_logits(path, &logits, &predictions, &classes)?;
        }
        if self.json {
            crate::out!("{}", serde_json::to_string_pretty(&result)?);
        } else {
            crate::out!(
                "{} on {} ({} classes, {}): {:.2} % of {} pictures, calibration error {:.2} %",
                saved.algorithm,
                self.dataset,
                result.classes.len(),
                result.class_set,
                result.accuracy(),
                result.total,
                result.ece
            );
        }
        Ok(Done::All)
    }
}

/// A method whose predictor's answers are kept, when they are wanted.
struct Recording {
    method: Box<dyn Method>,
    logits: Option<Mutex<Vec<Tensor>>>,
}

struct Recorder<'a> {
    predict: Box<dyn Predict + 'a>,
    logits: Option<&'a Mutex<Vec<Tensor>>>,
}

impl Method for Recording {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.method.parameters()
    }

    fn loss(&mut self, batch: &Batch) -> candle_core::Result<Loss> {
        self.method.loss(batch)
    }

    fn bind(&mut self, classes: &Classes) -> candle_core::Result<()> {
        self.method.bind(classes)
    }

    fn predictor(&self) -> candle_core::Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Recorder {
            predict: self.method.predictor()?,
            logits: self.logits.as_ref(),
        }))
    }
}

impl Predict for Recorder<'_> {
    fn logits(&self, images: &Images) -> candle_core::Result<Tensor> {
        let logits = self.predict.logits(images)?;
        if let Some(kept) = self.logits {
            let one = logits.to_dtype(DType::F32)?.detach();
            kept.lock().expect("no panic while held").push(one);
        }
        Ok(logits)
    }
}

fn write_logits(
    path: &Path,
    logits: &[Tensor],
    predictions: &[Prediction],
    classes: &Classes,
) -> Result<()> {
    let labels: Vec<i64> = predictions.iter().map(|p| i64::from(p.label)).collect();
    let images: Vec<&str> = predictions.iter().map(|p| p.image.as_str()).collect();
    let tensors = [
        ("logits", Tensor::cat(logits, 0)?),
        ("labels", Tensor::new(labels, &Device::Cpu)?),
    ];
    let metadata = HashMap::from([
        ("images".to_owned(), serde_json::to_string(&images)?),
        ("classes".to_owned(), serde_json::to_string(&classes.names)?),
    ]);
    let bytes = safetensors::serialize(tensors, Some(metadata))?;
    Ok(crate::store::replace(path, &bytes)?)
}
