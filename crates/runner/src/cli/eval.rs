//! `promptbed eval`: saved prompts on any dataset and class set.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use methods::{Classes, Images, Predict};

use super::Done;
use super::data::Half;
use super::setup::catalogue;
use crate::backbone;
use crate::device::InPrecision;
use crate::record::TestSet;
use crate::run::cache::Cache;
use crate::run::feed::{Feed, open};
use crate::run::prompts::{Given, Saved};
use crate::run::testing::{Answers, Exam};
use crate::run::trial::{Target, classes_of};
use crate::store::Prediction;

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
    on: InPrecision,
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
        let needs = saved.config.needs();
        saved.check_alone()?;
        let place = self.on.open()?;
        let weights = backbone::weights(backbone::SHIPPED, self.model.as_deref(), &self.told)?;
        backbone::takes(&weights, [(saved.algorithm.as_str(), needs.sees)])?;
        let clip = self.kept.load_at(&weights, &place)?;
        saved.check_backbone(&clip.identity())?;
        let cache = self.cache.as_deref().map(Cache::open).transpose()?;
        let feed = Arc::new(Feed::new(dataset, clip.clone()).with_cache(cache));
        let target = Target {
            feed: feed.clone(),
            set: TestSet::of(self.split.set()),
            descriptions: None,
        };
        let classes = classes_of(&feed, target.set.among, None)?;
        let method = saved
            .method(&clip, &classes)
            .with_context(|| format!("{}", self.prompts.display()))?;
        let recorder = Recorder {
            predict: method.predictor()?,
            logits: self.logits.is_some().then(RefCell::default),
        };
        let never = AtomicBool::new(false);
        let exam = Exam::new(&needs, &target, &classes, 0, saved.seed)?;
        let (result, predictions) =
            exam.sit(&recorder, &never, Answers::default(), |_, _| Ok(()))?;
        if result.total == 0 {
            bail!("dataset {}: nothing to test", self.dataset);
        }
        if let (Some(path), Some(logits)) = (&self.logits, recorder.logits) {
            write_logits(path, &logits.into_inner(), &predictions, &classes)?;
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

/// A predictor whose answers are kept, when they are wanted.
struct Recorder<'a> {
    predict: Box<dyn Predict + 'a>,
    logits: Option<RefCell<Vec<Tensor>>>,
}

impl Predict for Recorder<'_> {
    fn logits(&self, images: &Images) -> candle_core::Result<Tensor> {
        let logits = self.predict.logits(images)?;
        if let Some(kept) = &self.logits {
            kept.borrow_mut()
                .push(logits.to_dtype(DType::F32)?.detach());
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
