//! What a suite is run with: where its data and weights are. Kept in the results folder, so that any worker can go on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clip::ops::Arithmetic;
use datasets::Catalogue;
use serde::{Deserialize, Serialize};

use crate::backbone;
use crate::device::{Device, Place};
use crate::run::cache::Cache;
use crate::run::feed;
use crate::run::suite::{Precision, Suite};
use crate::run::sweep::Sweep;
use crate::store::Store;

/// Version of what is kept.
const VERSION: u32 = 1;

/// Where data and weights are.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub struct Places {
    /// Folder that holds the datasets.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// More dataset rows, a TOML file.
    #[arg(long)]
    pub catalogue: Option<PathBuf>,
    /// CLIP weights: a file or folder of any known format, or a name of `model list` [default: the suite's backbone].
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Weights of the suite's teacher, as --model [default: the backbone that the suite's `teacher` names].
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// Folder that keeps features of frozen image towers and decoded test pictures between runs [default: none]. Changes no result.
    #[arg(long)]
    pub cache: Option<PathBuf>,
}

/// What a suite is run with.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub struct Setup {
    #[command(flatten)]
    pub places: Places,
    #[command(flatten)]
    pub told: backbone::Told,
    #[command(flatten)]
    pub kept: backbone::Kept,
}

/// `run.json`: how a suite of a results folder is run.
#[derive(Debug, Serialize, Deserialize)]
struct Run {
    version: u32,
    /// The suite's file, whence the paths in it start.
    suite: PathBuf,
    setup: Setup,
}

/// A sweep, ready to run.
pub struct Opened {
    /// The sweep.
    pub sweep: Sweep,
    /// Numbers of its backbone.
    pub numbers: usize,
}

/// The catalogue, with the user's rows.
pub fn catalogue(more: Option<&Path>) -> Result<Catalogue> {
    let mut catalogue = Catalogue::built_in();
    if let Some(path) = more {
        catalogue.merge(Catalogue::load(path)?, path)?;
    }
    Ok(catalogue)
}

/// The device with the precision and the arithmetic that a suite, the file `path`, asks for.
///
/// # Errors
/// What the device has not, and an arithmetic that contradicts the command line, each with its line.
pub fn place(suite: &Suite, path: &Path, device: &Device) -> Result<Place> {
    let at = |line, field| format!("{}:{line}: {field}", path.display());
    let precision = at(suite.precision_line, "precision");
    let arithmetic = at(suite.arithmetic_line, "arithmetic");
    let asked = suite.arithmetic.map(|a| (a, arithmetic.as_str()));
    device.with((suite.precision, &precision), asked)
}

impl Setup {
    /// Reads weights and data of a suite, and brings the weights to `place`.
    ///
    /// # Errors
    /// What is wrong with any of them.
    pub fn open(
        &self,
        suite: Suite,
        path: &Path,
        catalogue: &Catalogue,
        place: &Place,
    ) -> Result<Opened> {
        let named: BTreeSet<&String> = suite
            .methods
            .iter()
            .filter_map(|l| l.teacher.as_ref())
            .collect();
        if let (Some(given), true) = (&self.places.teacher, named.len() != 1) {
            bail!(
                "--teacher {}: {} names {} teachers; there must be one, whose weights these are",
                given.display(),
                path.display(),
                named.len()
            );
        }
        let weights = backbone::weights(&suite.backbone, self.places.model.as_deref(), &self.told)?;
        backbone::takes(&weights, suite.sees())?;
        let architecture = weights.architecture.clone();
        let mut clip = self.kept.load(&weights)?;
        Arc::make_mut(&mut clip).text.memory = suite.memory;
        let least = clip.text.least_memory();
        if suite.memory.is_some_and(|most| most < least) {
            crate::say!(
                "note: memory: the text tower holds one piece of classes at a time, {:.1} MB with this backbone; less is \
                 not possible",
                least as f64 / 1e6
            );
        }
        place.take(Arc::make_mut(&mut clip))?;
        if suite.precision == Precision::Bfloat16 && !place.is_elsewhere() {
            backbone::use_bfloat16(Arc::make_mut(&mut clip))
                .with_context(|| format!("{}: precision", path.display()))?;
            // Nobody asks for the emulation to save time.
            let gain = match clip.arithmetic() {
                Arithmetic::Emulated => f64::INFINITY,
                arithmetic => clip::ops::bfloat::gain(arithmetic),
            };
            if gain < 1.2 {
                crate::say!(
                    "note: precision: on this processor bfloat16 multiplies {gain:.1} times as fast as float32, so \
                     \"float32\" costs no time and rounds nothing"
                );
            }
        }
        if place.is_card() {
            for method in suite.trained_towers() {
                crate::say!(
                    "note: {method}: trains a tower's own weights; that tower runs on the processor"
                );
            }
        }
        let mut teachers = BTreeMap::new();
        for name in suite.methods.iter().filter_map(|l| l.teacher.as_ref()) {
            if !teachers.contains_key(name) {
                let given = self.places.teacher.as_deref();
                let mut teacher = backbone::weights(name, given, &backbone::Told::default())
                    .and_then(|weights| self.kept.load(&weights))
                    .with_context(|| format!("{}: teacher (--teacher FILE)", path.display()))?;
                place.take(Arc::make_mut(&mut teacher))?;
                teachers.insert(name.clone(), teacher);
            }
        }
        let cache = self.places.cache.as_deref().map(Cache::open).transpose()?;
        let mut sweep = Sweep::new(
            suite,
            clip.clone(),
            architecture,
            catalogue,
            self.places.data.as_deref(),
            cache.as_ref(),
            teachers,
        )?;
        sweep.ran = place.ran();
        for dataset in sweep.datasets() {
            for note in &dataset.notes {
                crate::say!("note: {}: {note}", dataset.id);
            }
        }
        Ok(Opened {
            sweep,
            numbers: clip.parameters(),
        })
    }

    /// Keeps the text of a suite and how it is run in the results folder, with paths that hold from anywhere.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn keep(&self, store: &Store, suite: &Suite, path: &Path) -> Result<()> {
        let whole = |path: &PathBuf| {
            std::path::absolute(path).with_context(|| format!("{}: has no place", path.display()))
        };
        let all = |path: &Option<PathBuf>| path.as_ref().map(whole).transpose();
        let places = &self.places;
        // Where there is no such file, it is a name.
        let weights = |path: &Option<PathBuf>| match path {
            Some(name) if !name.exists() => Ok(Some(name.clone())),
            path => all(path),
        };
        let places = Places {
            data: all(&places.data)?,
            catalogue: all(&places.catalogue)?,
            model: weights(&places.model)?,
            teacher: weights(&places.teacher)?,
            cache: all(&places.cache)?,
        };
        let run = Run {
            version: VERSION,
            suite: whole(&path.to_owned())?,
            setup: Self {
                places,
                ..self.clone()
            },
        };
        Ok(store.write_suite(&suite.name, &suite.text, &run)?)
    }
}

impl Places {
    /// Opens a suite of a results folder as it was run before, but for the places given here.
    ///
    /// # Errors
    /// What is missing or wrong, in the folder or with data and weights.
    pub fn reopen(&self, store: &Store, name: &str, device: &Device) -> Result<Opened> {
        let folder = store.suite_folder(name);
        let text = store.suite_text(Some(name))?;
        let (Some(text), Some(run)) = (text, store.suite_run::<Run>(name)?) else {
            bail!(
                "{}: does not say how suite {name} is run; `promptbed run` it there once",
                folder.display()
            );
        };
        if run.version > VERSION {
            bail!(
                "{}: version: {} is newer than {VERSION}, the newest this program reads; update it",
                folder.join("run.json").display(),
                run.version
            );
        }
        let (here, mut setup) = (self.clone(), run.setup);
        let there = setup.places;
        setup.places = Self {
            data: here.data.or(there.data),
            catalogue: here.catalogue.or(there.catalogue),
            model: here.model.or(there.model),
            teacher: here.teacher.or(there.teacher),
            cache: here.cache.or(there.cache),
        };
        let catalogue = catalogue(setup.places.catalogue.as_deref())?;
        let suite = Suite::of_text(text, &run.suite, &feed::known(&catalogue))?;
        if suite.name != name {
            bail!(
                "{}: is of suite {}; folders of suites are not to be renamed",
                folder.display(),
                suite.name
            );
        }
        let place = place(&suite, &run.suite, device)?;
        setup.open(suite, &run.suite, &catalogue, &place)
    }
}
