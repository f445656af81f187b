//! Reading a suite: what to run. Every mistake in the file is reported at once, with its line, before any weight is read.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use clip::ops::Arithmetic;
use datasets::Sessions;
use methods::settings::nearest;
use methods::{Config, Entry, Training};

use crate::protocols::{Protocol, Wanted};

mod method;
mod read;
mod reader;

/// The suite language this program reads.
const VERSION: i64 = 1;

/// How training pictures are seen by methods whose image tower is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Views {
    /// A new random view each time, as published.
    Fresh,
    /// This many random views of each picture, encoded once and taken in turn.
    Cached(usize),
    /// The test view.
    None,
}

impl std::fmt::Display for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Fresh => write!(f, "fresh"),
            Self::Cached(n) => write!(f, "cached {n}"),
            Self::None => write!(f, "none"),
        }
    }
}

/// Where few-shot pictures come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PicksFrom {
    /// Drawn, as the published code draws them.
    Drawn,
    /// Read from this file: for suites of one dataset to train on, one number of shots and one seed.
    File(PathBuf),
    /// Read from a folder with a file for each dataset, shots and seed.
    Folder(PathBuf),
}

/// Numbers that are multiplied in towers: on the processor in frozen image towers alone, on a card in all. Everything else
/// is float32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As published.
    #[default]
    Float32,
    /// On the processor. Products of rounded values, sums in float32: faster, and other last digits. See
    /// [`clip::ops::bfloat`].
    Bfloat16,
    /// On the processor's matrix unit or its emulation: frozen blocks of both towers multiply inputs as two halves in
    /// bfloat16, three products each, with ten to thirty times float32's rounding; see [`clip::Clip::use_bfloat16x3`].
    Bfloat16x3,
    /// On a card: inputs of products rounded to 11 bits by its matrix units, sums in float32.
    Tf32,
    /// On a card: weights and inputs of products in half precision, sums in float32.
    Half,
}

impl Precision {
    /// As suites and records write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Bfloat16x3 => "bfloat16x3",
            Self::Tf32 => "tf32",
            Self::Half => "half",
        }
    }
}

/// A suite file.
pub struct Suite {
    /// File stem.
    pub name: String,
    /// The file as it is.
    pub text: String,
    /// SHA-256 of it, hex.
    pub hash: String,
    /// How accuracy is measured; more than one multiply, like every list.
    pub protocols: Vec<&'static Protocol>,
    /// Name of the backbone.
    pub backbone: String,
    /// Dataset ids; targets where there is a source.
    pub datasets: Vec<String>,
    /// Dataset trained on, for transfer protocols.
    pub source: Option<String>,
    /// Shifted datasets that domain generalization tests on; `datasets` where not given.
    pub variants: Option<Vec<String>>,
    /// Datasets that multi-task learning is tested on beside those it learns.
    pub unseen: Option<Vec<String>>,
    /// How class-incremental learning cuts a dataset's classes.
    pub sessions: Option<Sessions>,
    /// Shots, ascending.
    pub shots: Vec<usize>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Training views.
    pub views: Views,
    /// Few-shot pictures.
    pub picks: PicksFrom,
    /// Most bytes that the text tower's graph may take; `None`: as many as it needs. Changes no result.
    pub memory: Option<usize>,
    /// Of towers.
    pub precision: Precision,
    /// The line of the file that says it; 1 where none does.
    pub precision_line: usize,
    /// What processors multiply by; `None`: the portable arithmetic, unless a command line or environment says otherwise.
    pub arithmetic: Option<Arithmetic>,
    /// The line of the file that says it; 1 where none does.
    pub arithmetic_line: usize,
    /// Methods in file order.
    pub methods: Vec<Line>,
}

/// One `[[method]]`.
pub struct Line {
    /// Its algorithm.
    pub entry: &'static Entry,
    /// Its name in tables.
    pub label: String,
    /// Protocols it runs under; all of the suite's where not given.
    pub protocols: Option<Vec<&'static Protocol>>,
    /// What the paper reports, by column.
    pub paper: BTreeMap<String, f64>,
    /// A second backbone to learn from: a name or a path, as `backbone` has it.
    pub teacher: Option<String>,
    /// Prompts that the second backbone learned before: a file, or a folder with one for each dataset.
    pub teacher_prompts: Option<PathBuf>,
    /// Descriptions of classes: a JSON file, or a folder with `<dataset>.json`.
    pub descriptions: Option<PathBuf>,
    layers: Vec<Layer>,
}

/// Settings for all, or for some protocols, datasets and shots.
struct Layer {
    protocols: Option<Vec<&'static Protocol>>,
    datasets: Option<Vec<String>>,
    shots: Option<Vec<usize>>,
    training: toml::Table,
    config: toml::Table,
    lines: HashMap<String, usize>,
}

/// A method with the settings of one dataset and shot count.
pub struct Resolved {
    /// Its name in the registry.
    pub name: &'static str,
    /// Its prompts and losses.
    pub config: Box<dyn Config>,
    /// Its training, where it is trained.
    pub training: Option<Training>,
    /// Every setting by name.
    pub settings: BTreeMap<String, serde_json::Value>,
}

impl Resolved {
    /// Whether it learns from pictures before it is tested: by steps, or from the few shots as a whole.
    pub fn learns(&self) -> bool {
        self.training.is_some() || self.config.needs().support.is_some()
    }

    /// Whether it learns from labelled few shots.
    pub fn takes_shots(&self) -> bool {
        self.learns() && !self.config.needs().unlabelled
    }

    /// Whether seeds differ: it learns, or sees test pictures in views or an order that the seed draws.
    pub fn is_random(&self) -> bool {
        self.learns() || self.config.needs().one_at_a_time()
    }
}

/// Names of sets of datasets.
fn expand(name: &str) -> Option<Vec<String>> {
    let ids: Vec<&str> = match name {
        "all-11" => vec![
            "imagenet",
            "caltech101",
            "oxford-pets",
            "stanford-cars",
            "flowers102",
            "food101",
            "fgvc-aircraft",
            "sun397",
            "dtd",
            "eurosat",
            "ucf101",
        ],
        // The two orders in which ZSCL's MTIL learns eleven datasets. CIFAR-100 and MNIST need rows of the user's catalogue.
        "mtil-order-1" => vec![
            "fgvc-aircraft",
            "caltech101",
            "cifar100",
            "dtd",
            "eurosat",
            "flowers102",
            "food101",
            "mnist",
            "oxford-pets",
            "stanford-cars",
            "sun397",
        ],
        "mtil-order-2" => vec![
            "stanford-cars",
            "food101",
            "mnist",
            "oxford-pets",
            "flowers102",
            "sun397",
            "fgvc-aircraft",
            "caltech101",
            "dtd",
            "eurosat",
            "cifar100",
        ],
        "drawn-11" => datasets::drawn::datasets()
            .iter()
            .map(|d| d.id.as_str())
            .filter(|id| !is_shift(id))
            .collect(),
        "drawn-shifts" => datasets::drawn::datasets()
            .iter()
            .map(|d| d.id.as_str())
            .filter(|id| is_shift(id))
            .collect(),
        "drawn-applications" => datasets::drawn::stand_ins()
            .iter()
            .map(|s| s.drawn.id.as_str())
            .collect(),
        "biomed-11" => datasets::catalogue::BIOMED.to_vec(),
        "biomed-10" => datasets::catalogue::BIOMED
            .into_iter()
            .filter(|id| *id != "busi")
            .collect(),
        "remote-10" => vec![
            "aid",
            "rs-eurosat",
            "mlrsnet",
            "optimal31",
            "patternnet",
            "resisc45",
            "rsc11",
            "rsicb128",
            "rsicb256",
            "whurs19",
        ],
        _ => return None,
    };
    Some(ids.into_iter().map(str::to_owned).collect())
}

fn is_shift(id: &str) -> bool {
    id.starts_with("drawn-broad-")
}

impl Suite {
    /// Every dataset that it names, each once: trained on, or only tested on.
    pub fn all_datasets(&self) -> Vec<&String> {
        let named = self.datasets.iter().chain(&self.source);
        let mut all: Vec<&String> = Vec::new();
        let named = named.chain(self.variants.iter().flatten());
        for id in named.chain(self.unseen.iter().flatten()) {
            if !all.contains(&id) {
                all.push(id);
            }
        }
        all
    }

    /// What protocols may know of it.
    pub fn wanted(&self) -> Wanted<'_> {
        Wanted {
            datasets: &self.datasets,
            source: self.source.as_deref(),
            variants: self.variants.as_deref(),
            unseen: self.unseen.as_deref(),
            sessions: self.sessions,
        }
    }

    /// What each method will see of a picture anywhere in the suite, with its label; each kind once a method.
    pub fn sees(&self) -> Vec<(&str, methods::Sees)> {
        self.of_needs(|needs| needs.sees)
    }

    /// Labels of the methods that train a tower's own weights.
    pub fn trained_towers(&self) -> Vec<&str> {
        let all = self.of_needs(|needs| needs.trains_tower).into_iter();
        all.filter_map(|(label, trains)| trains.then_some(label))
            .collect()
    }

    /// Something that methods need, with their labels; each answer once a method.
    fn of_needs<T: PartialEq>(&self, what: fn(&methods::Needs) -> T) -> Vec<(&str, T)> {
        let mut all = Vec::new();
        for cell in crate::run::plan::cells(self) {
            let label = self.methods[cell.line].label.as_str();
            let one = (label, what(&cell.method.config.needs()));
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }
}

/// Bytes written as a number and `MB` or `GB` (powers of 1000).
///
/// # Errors
/// What would be right, for anything else.
pub fn bytes(text: &str) -> Result<usize, String> {
    let wrong =
        || format!("{text:?} is no amount of memory; write for example \"500MB\" or \"2GB\"");
    let (number, unit) = text
        .strip_suffix("GB")
        .map(|n| (n, 1e9))
        .or_else(|| text.strip_suffix("MB").map(|n| (n, 1e6)))
        .ok_or_else(wrong)?;
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    if !(number > 0.0 && number * unit < 1e15) {
        return Err(wrong());
    }
    Ok((number * unit) as usize)
}

fn unknown_dataset(id: &str, known: &[String]) -> String {
    match nearest(id, known.iter().map(String::as_str)) {
        Some(near) => format!("there is no dataset {id:?}; did you mean `{near}`?"),
        None => format!("there is no dataset {id:?}; there are {}", known.join(", ")),
    }
}
