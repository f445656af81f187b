//! Published numbers: what a paper, a repository or an issue reports, each with where it stands and who ran it.
//!
//! They are data, one TOML file a source in `results/published`, embedded in the program. Sources that disagree
//! stay apart: [`Published::lookup`] returns every value it finds. Nothing here feeds a result of ours.
//!
//! Reading is strict: every H must be `2bn / (b + n)` of its own row and every average the mean of its own columns,
//! within [`TOLERANCE`], unless the file lists the cell as an exception with a reason; an exception that is not
//! needed is an error too.

use std::{collections::BTreeSet, fmt, path::Path, path::PathBuf};

use serde::Deserialize;

use crate::protocols::Protocol;

mod check;
#[cfg(test)]
mod tests;

/// Largest distance in percentage points between a printed H or average and the one computed from its row or columns:
/// two decimals each, rounded on both sides. A table of one decimal has ten times as much.
pub const TOLERANCE: f64 = 0.02;

/// Why published numbers could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder or a file in it cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The files were read, and some do not hold. All of them are listed.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
}

/// One thing that is wrong in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File, as it was named or found.
    pub file: PathBuf,
    /// Line, where the file is not TOML of the right shape.
    pub line: Option<usize>,
    /// Field inside the file, e.g. `table[0].row[2].harmonic[5]`; empty where the line says it.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// What sort of place a number stands in. Also the order in which [`Published::lookup`] returns its findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A table of the paper.
    Paper,
    /// A document, figure or data file of the authors' repository.
    Repository,
    /// A log of a run in the authors' repository.
    Log,
    /// A table of a paper about other methods, whose rows are reprinted or run again; each row says which.
    OtherPaper,
    /// A thread in the repository's tracker: a statement, not a published table.
    Issue,
    /// A list that reprints others' numbers.
    Secondary,
}

/// How the number got into the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// Read as text where it stands.
    Read,
    /// Typed off a picture.
    Transcribed,
    /// Written down from knowledge of the paper, without the paper at hand; `checked` says what supports it.
    Recalled,
}

/// Where a group of numbers comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Short name; the file's stem.
    pub id: String,
    /// What sort of place it is.
    pub kind: Kind,
    /// Title of the paper, repository or thread.
    pub title: String,
    /// arXiv number.
    pub arxiv: Option<String>,
    /// Where the paper came out, e.g. `AAAI 2026`.
    pub venue: Option<String>,
    /// `owner/name` on GitHub.
    pub repository: Option<String>,
    /// Commit the repository was read at.
    pub commit: Option<String>,
    /// File, table or address inside it.
    pub file: String,
    /// Who ran the experiments, unless a row says otherwise.
    pub ran_by: String,
    /// How the numbers got here.
    pub evidence: Evidence,
    /// What was checked, in words.
    pub checked: String,
    /// Facts that are not numbers of a table.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Correct pictures over all pictures of the test set, percent.
    #[serde(rename = "top-1")]
    Top1,
    /// Expected calibration error, percent.
    CalibrationError,
    /// Time a training picture takes, milliseconds, on the authors' machine.
    MillisecondsPerTrainingImage,
}

/// Which classes were told apart, or what was made of two such accuracies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// All classes of the dataset.
    All,
    /// The base classes among themselves.
    Base,
    /// The novel classes among themselves.
    Novel,
    /// `2bn / (b + n)`; in the `average` column, of the averaged base and novel columns.
    Harmonic,
}

impl Measure {
    /// Every measure, in the order of the files' keys.
    pub const ALL: [Self; 4] = [Self::All, Self::Base, Self::Novel, Self::Harmonic];

    /// Key in the files; `base` and `novel` are the halves that the table's protocol shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Base => "base",
            Self::Novel => "novel",
            Self::Harmonic => "harmonic",
        }
    }

    /// The measure of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }
}

/// What an average column runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Members {
    /// The eleven datasets.
    #[serde(rename = "all-11")]
    All11,
    /// The eleven without ImageNet.
    #[serde(rename = "all-10")]
    All10,
    /// ImageNet's four variants.
    #[serde(rename = "shifted-4")]
    Shifted4,
    /// ImageNet and its four variants.
    #[serde(rename = "imagenet-and-4")]
    ImagenetAnd4,
    /// BiomedCoOp's eleven datasets.
    #[serde(rename = "biomed-11")]
    Biomed11,
    /// BiomedCoOp's eleven without BUSI.
    #[serde(rename = "biomed-10")]
    Biomed10,
    /// The source does not say.
    Unstated,
}

/// The averages a table prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Averages {
    average: Option<Members>,
    average_shifted: Option<Members>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    protocol: &'static Protocol,
    backbone: String,
    /// Dataset trained on, where it is not the one tested on.
    trained_on: Option<String>,
    /// For rows that do not say.
    shots: Option<usize>,
    /// Seeds averaged over, where known.
    #[serde(default)]
    seeds: Vec<u64>,
    metric: Metric,
    /// Digits printed after the point; two unless said.
    decimals: Option<i32>,
    /// Columns: dataset ids, `average`, `average-shifted`.
    datasets: Vec<String>,
    #[serde(default)]
    averages: Averages,
    /// Columns computed here rather than printed there.
    #[serde(default)]
    derived: Vec<String>,
    #[serde(rename = "row", default)]
    rows: Vec<Row>,
    #[serde(rename = "exception", default)]
    exceptions: Vec<Exception>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    method: String,
    /// Tells rows of one method apart (other settings, a single seed).
    variant: Option<String>,
    ran_by: Option<String>,
    note: Option<String>,
    shots: Option<usize>,
    epochs: Option<usize>,
    all: Option<Vec<f64>>,
    base: Option<Vec<f64>>,
    novel: Option<Vec<f64>>,
    harmonic: Option<Vec<f64>>,
}

impl Row {
    fn values(&self, measure: Measure) -> Option<&[f64]> {
        match measure {
            Measure::All => self.all.as_deref(),
            Measure::Base => self.base.as_deref(),
            Measure::Novel => self.novel.as_deref(),
            Measure::Harmonic => self.harmonic.as_deref(),
        }
    }
}

/// A printed value that contradicts its own row or columns, kept as printed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    method: String,
    variant: Option<String>,
    dataset: String,
    measure: String,
    reason: String,
    /// What the printed value is instead, where arithmetic can tell.
    is: Option<Instead>,
}

/// What a printed average was computed as, where it should have been something else. Checked like any other value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Instead {
    /// The mean of the targets and the source; rows beside it average the targets alone.
    MeanWithSource,
    /// The mean of the datasets' H; rows beside it print the H of the averages.
    MeanOfHarmonics,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    source: Source,
    #[serde(rename = "table")]
    tables: Vec<Table>,
}

/// One published value.
#[derive(Clone, Debug)]
pub struct Number<'a> {
    /// As printed: percent, or the unit of its [`Metric`].
    pub value: f64,
    /// Datasets that an average runs over, in the order of the papers; empty where it is none, or nobody says.
    pub over: Vec<&'static str>,
    /// Computed from the source's other values rather than printed in it.
    pub derived: bool,
    /// What tells it from the source's other rows of the method, if there are any.
    pub variant: Option<&'a str>,
    /// Training epochs, where stated.
    pub epochs: Option<usize>,
    /// Seeds averaged over; empty where not stated.
    pub seeds: &'a [u64],
    /// Who ran it.
    pub ran_by: &'a str,
    /// What to know about the row.
    pub note: Option<&'a str>,
    /// Why it contradicts its own row or columns, if it does.
    pub exception: Option<&'a str>,
    /// Where it stands.
    pub source: &'a Source,
}

/// (file name, text) of the files of `results/published`, by name; the build lists the folder.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/published.rs"));

/// Every published number that was read.
#[derive(Clone, Debug, Default)]
pub struct Published {
    files: Vec<File>,
}

impl Published {
    /// The numbers that ship in the program.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a shipped file does not hold (a test keeps it from happening).
    pub fn built_in() -> Result<Self, Error> {
        Self::parse(
            FILES
                .iter()
                .map(|&(name, text)| (PathBuf::from(name), text.to_owned()))
                .collect(),
        )
    }

    /// Every `*.toml` of a folder.
    ///
    /// # Errors
    /// [`Error::Read`] for a folder or file that cannot be read, [`Error::Invalid`] with everything wrong in any file.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let read = |path: &Path, source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(|e| read(dir, e))? {
            let path = entry.map_err(|e| read(dir, e))?.path();
            if path.extension().is_some_and(|e| e == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        let text = |path: PathBuf| match std::fs::read_to_string(&path) {
            Ok(text) => Ok((path, text)),
            Err(e) => Err(read(&path, e)),
        };
        Self::parse(paths.into_iter().map(text).collect::<Result<_, _>>()?)
    }

    fn parse(texts: Vec<(PathBuf, String)>) -> Result<Self, Error> {
        let mut files = Vec::new();
        let mut problems = Vec::new();
        let mut ids = BTreeSet::new();
        for (path, text) in texts {
            let mut note = |line, field: &str, message: String| {
                problems.push(Problem {
                    file: path.clone(),
                    line,
                    field: field.to_owned(),
                    message,
                });
            };
            match toml::from_str::<File>(&text) {
                Ok(file) => {
                    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                    if file.source.id != stem {
                        note(
                            None,
                            "source.id",
                            format!("{:?} is not the file's name, {stem:?}", file.source.id),
                        );
                    }
                    if !ids.insert(file.source.id.clone()) {
                        note(
                            None,
                            "source.id",
                            format!("{:?} is the id of another file too", file.source.id),
                        );
                    }
                    for (field, message) in check::problems(&file) {
                        note(None, &field, message);
                    }
                    files.push(file);
                }
                Err(e) => {
                    let line = e.span().map(|s| text[..s.start].matches('\n').count() + 1);
                    note(line, "", e.message().trim().to_owned());
                }
            }
        }
        if !problems.is_empty() {
            return Err(Error::Invalid(problems));
        }
        files.sort_by(|a, b| (a.source.kind, &a.source.id).cmp(&(b.source.kind, &b.source.id)));
        Ok(Self { files })
    }

    /// Every source, papers first.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.files.iter().map(|f| &f.source)
    }

    /// Every published top-1 accuracy (or H) of that cell, papers first; empty where nobody published one.
    ///
    /// `method` is a registry name (or `tip-adapter`, `coop+dept` ... for methods promptbed does not have), `dataset`
    /// a catalogue id, `average` or `average-shifted`. `shots` is ignored for `zero-shot`; and as nothing is trained
    /// there, its accuracy on all classes is the same cell under every protocol.
    pub fn lookup(
        &self,
        protocol: &Protocol,
        method: &str,
        dataset: &str,
        backbone: &str,
        shots: usize,
        measure: Measure,
    ) -> Vec<Number<'_>> {
        let untrained = method == check::UNTRAINED;
        // An average is over the protocol's own columns: only a single dataset may cross protocols.
        let any_protocol = untrained && measure == Measure::All && !check::is_average(dataset);
        let mut found = Vec::new();
        for file in &self.files {
            for table in &file.tables {
                let fits = table.metric == Metric::Top1
                    && table.backbone == backbone
                    && (table.protocol == protocol || any_protocol);
                let Some(column) = table
                    .datasets
                    .iter()
                    .position(|d| d == dataset)
                    .filter(|_| fits)
                else {
                    continue;
                };
                for row in table.rows.iter().filter(|r| r.method == method) {
                    if !untrained && row.shots.or(table.shots) != Some(shots) {
                        continue;
                    }
                    let Some(values) = row.values(measure) else {
                        continue;
                    };
                    let exception = table.exceptions.iter().find(|e| {
                        (
                            &e.method,
                            &e.variant,
                            e.dataset.as_str(),
                            e.measure.as_str(),
                        ) == (&row.method, &row.variant, dataset, measure.name())
                    });
                    found.push(Number {
                        value: values[column],
                        over: table
                            .averages
                            .of(dataset)
                            .map(Members::datasets)
                            .unwrap_or_default(),
                        derived: table.derived.iter().any(|d| d == dataset),
                        variant: row.variant.as_deref(),
                        epochs: row.epochs,
                        seeds: &table.seeds,
                        ran_by: row.ran_by.as_deref().unwrap_or(&file.source.ran_by),
                        note: row.note.as_deref(),
                        exception: exception.map(|e| e.reason.as_str()),
                        source: &file.source,
                    });
                }
            }
        }
        found
    }
}
