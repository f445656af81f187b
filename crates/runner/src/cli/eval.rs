//! `promptbed eval`: saved prompts on any dataset and class set.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};

use super::Done;
use super::data::Half;
use super::run::catalogue;
use crate::backbone;
use crate::cache::Cache;
use crate::data::{Feed, open};
use crate::prompts::{Given, Saved};
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
    /// CLIP weights [default: the CLIP that ships].
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder that keeps features and decoded test pictures between runs [default: none]. Changes no result.
    #[arg(long)]
    cache: Option<PathBuf>,
    #[command(flatten)]
    given: Given,
    /// Print accuracy of each class and the calibration error too, as JSON.
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub fn run(self) -> Result<Done> {
        let catalogue = catalogue(self.catalogue.as_deref())?;
        let saved = Saved::read(&self.prompts, &self.given)?;
        let dataset = open(&self.dataset, &catalogue, self.data.as_deref())?;
        let clip = backbone::load("drawn", self.model.as_deref())?;
        saved.check_backbone(clip.fingerprint())?;
        let cache = self.cache.as_deref().map(Cache::open).transpose()?;
        let feed = Arc::new(Feed::new(dataset, clip.clone()).with_cache(cache));
        let target = Target {
            feed: feed.clone(),
            set: self.split.set(),
        };
        let classes = classes_of(&feed, target.set)?;
        let bound = saved
            .method(&clip, &classes)
            .with_context(|| format!("{}", self.prompts.display()))?;
        let never = AtomicBool::new(false);
        let (result, _) = test(
            bound.as_ref(),
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
