//! Reading a suite: what to run. Every mistake in the file is reported at once, with its line, before any weight is read.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use methods::settings::nearest;
use methods::{Config, Entry, METHODS, Settings, Training};
use toml_edit::{Document, Item, TableLike, Value};

use crate::record::Protocol;

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

/// Numbers in which pictures go through frozen image towers; everything else is float32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As published.
    #[default]
    Float32,
    /// Products of rounded values, sums in float32: faster, and other last digits. See [`clip::ops::bfloat`].
    Bfloat16,
}

impl Precision {
    /// As suites and records write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
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
    pub protocols: Vec<Protocol>,
    /// Name of the backbone.
    pub backbone: String,
    /// Dataset ids; targets where there is a source.
    pub datasets: Vec<String>,
    /// Dataset trained on, for transfer protocols.
    pub source: Option<String>,
    /// Shifted datasets that domain generalization tests on; `datasets` where not given.
    pub variants: Option<Vec<String>>,
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
    /// Of frozen image towers.
    pub precision: Precision,
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
    pub protocols: Option<Vec<Protocol>>,
    /// What the paper reports, by column.
    pub paper: BTreeMap<String, f64>,
    layers: Vec<Layer>,
}

/// Settings for all, or for some protocols, datasets and shots.
struct Layer {
    protocols: Option<Vec<Protocol>>,
    datasets: Option<Vec<String>>,
    shots: Option<Vec<usize>>,
    training: toml::Table,
    config: toml::Table,
    lines: HashMap<String, usize>,
}

/// A method with the settings of one dataset and shot count.
pub struct Resolved {
    /// Its prompts and losses.
    pub config: Box<dyn Config>,
    /// Its training, where it is trained.
    pub training: Option<Training>,
    /// Every setting by name.
    pub settings: BTreeMap<String, serde_json::Value>,
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    problems: Vec<(usize, String)>,
}

impl Reader<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text[..offset.min(self.text.len())]
            .matches('\n')
            .count()
    }

    fn at(&mut self, item: Option<&Item>, field: &str, message: impl std::fmt::Display) {
        let line = item.and_then(Item::span).map_or(1, |s| self.line(s.start));
        self.on(line, field, message);
    }

    fn on(&mut self, line: usize, field: &str, message: impl std::fmt::Display) {
        self.problems.push((
            line,
            format!("{}:{line}: {field}: {message}", self.path.display()),
        ));
    }

    /// Reports keys of `table` that are not `known`.
    fn only(&mut self, table: &dyn TableLike, prefix: &str, known: &[&str]) {
        for (key, item) in table.iter() {
            if known.contains(&key) {
                continue;
            }
            let line = table
                .key(key)
                .and_then(toml_edit::Key::span)
                .or(item.span())
                .map_or(1, |s| self.line(s.start));
            let message = match nearest(key, known.iter().copied()) {
                Some(near) => format!("there is no such key; did you mean `{near}`?"),
                None => format!("there is no such key; there are {}", known.join(", ")),
            };
            self.on(line, &format!("{prefix}{key}"), message);
        }
    }

    fn string(&mut self, table: &dyn TableLike, prefix: &str, key: &str) -> Option<String> {
        let item = table.get(key)?;
        if item.as_str().is_none() {
            self.at(Some(item), &format!("{prefix}{key}"), "must be text");
        }
        item.as_str().map(str::to_owned)
    }

    /// A list of whole numbers of at least `least`.
    fn numbers(
        &mut self,
        table: &dyn TableLike,
        prefix: &str,
        key: &str,
        least: i64,
    ) -> Option<Vec<i64>> {
        let item = table.get(key)?;
        let field = format!("{prefix}{key}");
        let Some(array) = item.as_array() else {
            self.at(Some(item), &field, "must be a list of whole numbers");
            return None;
        };
        let mut out = Vec::new();
        for value in array {
            let line = value.span().map_or(1, |s| self.line(s.start));
            match value.as_integer() {
                Some(n) if n < least => {
                    self.on(line, &field, format!("{n} must be {least} or more"))
                }
                Some(n) if out.contains(&n) => {
                    self.on(line, &field, format!("{n} is listed twice"))
                }
                Some(n) => out.push(n),
                None => self.on(line, &field, "must be a list of whole numbers"),
            }
        }
        if array.is_empty() {
            self.at(Some(item), &field, "is empty");
        }
        Some(out)
    }

    fn names(&mut self, table: &dyn TableLike, prefix: &str, key: &str) -> Option<Vec<String>> {
        let item = table.get(key)?;
        let field = format!("{prefix}{key}");
        if let Some(name) = item.as_str() {
            return Some(vec![name.to_owned()]);
        }
        let names = item.as_array().map(|a| {
            a.iter()
                .map(|v| v.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        });
        match names {
            Some(Some(names)) if !names.is_empty() => Some(names),
            _ => {
                self.at(Some(item), &field, "must be a name or a list of names");
                None
            }
        }
    }
}

const PROTOCOLS: [(&str, Protocol); 5] = [
    ("few-shot", Protocol::FewShot),
    ("base-to-novel", Protocol::BaseToNovel),
    ("cross-dataset", Protocol::CrossDataset),
    ("domain-generalization", Protocol::DomainGeneralization),
    ("test-time", Protocol::TestTime),
];

impl Reader<'_> {
    fn protocols(
        &mut self,
        table: &dyn TableLike,
        prefix: &str,
        key: &str,
    ) -> Option<Vec<Protocol>> {
        let names = self.names(table, prefix, key)?;
        let mut out = Vec::new();
        for name in names {
            match PROTOCOLS.iter().find(|(n, _)| *n == name) {
                Some((_, p)) if !out.contains(p) => out.push(*p),
                Some(_) => self.at(
                    table.get(key),
                    &format!("{prefix}{key}"),
                    format!("{name} is listed twice"),
                ),
                None => {
                    let known: Vec<&str> = PROTOCOLS.iter().map(|p| p.0).collect();
                    let message = format!("{name:?} is not one of {}", known.join(", "));
                    self.at(table.get(key), &format!("{prefix}{key}"), message);
                }
            }
        }
        Some(out)
    }
}

fn plain(value: &Value) -> Option<toml::Value> {
    Some(match value {
        Value::String(s) => toml::Value::String(s.value().clone()),
        Value::Integer(i) => toml::Value::Integer(*i.value()),
        Value::Float(f) => toml::Value::Float(*f.value()),
        Value::Boolean(b) => toml::Value::Boolean(*b.value()),
        Value::Array(a) => toml::Value::Array(a.iter().map(plain).collect::<Option<_>>()?),
        Value::InlineTable(_) | Value::Datetime(_) => return None,
    })
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
        _ => return None,
    };
    Some(ids.into_iter().map(str::to_owned).collect())
}

fn is_shift(id: &str) -> bool {
    id.starts_with("drawn-broad-")
}

impl Suite {
    /// What each method will need of a picture, by its label.
    pub fn sees(&self) -> impl Iterator<Item = (&str, methods::Sees)> {
        // Whether prompts enter the image tower differs neither between datasets nor between shots.
        let (dataset, shots) = (self.datasets.first(), self.shots.first());
        let dataset = self.source.as_ref().or(dataset);
        self.methods.iter().flat_map(move |line| {
            let resolved = line.resolve(
                *self.protocols.first()?,
                dataset?,
                shots.copied().unwrap_or(0),
            );
            Some((line.label.as_str(), resolved.config.sees()))
        })
    }

    /// Reads and checks `path`. `known` tells whether a dataset id exists.
    ///
    /// # Errors
    /// Every mistake of the file, one a line: file, line, field, what is wrong and what would be right.
    pub fn read(path: &Path, known: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot be read", path.display()))?;
        let document = Document::parse(text.as_str()).map_err(|e| {
            let line = 1 + text[..e.span().map_or(0, |s| s.start.min(text.len()))]
                .matches('\n')
                .count();
            anyhow::anyhow!("{}:{line}: {}", path.display(), e.message())
        })?;
        let mut r = Reader {
            path,
            text: &text,
            problems: Vec::new(),
        };
        let root = document.as_table();
        let keys = [
            "version",
            "protocol",
            "backbone",
            "datasets",
            "source",
            "variants",
            "shots",
            "seeds",
            "views",
            "picks",
            "memory",
            "precision",
            "method",
        ];
        r.only(root, "", &keys);
        match root.get("version").map(|i| (i.as_integer(), i)) {
            Some((Some(VERSION), _)) => {}
            Some((_, item)) => r.at(Some(item), "version", format!("must be {VERSION}")),
            None => r.on(
                1,
                "version",
                format!("is missing; write `version = {VERSION}`"),
            ),
        }
        let protocols = r.protocols(root, "", "protocol").unwrap_or_else(|| {
            if root.get("protocol").is_none() {
                let known: Vec<&str> = PROTOCOLS.iter().map(|p| p.0).collect();
                r.on(
                    1,
                    "protocol",
                    format!("is missing; one or more of {}", known.join(", ")),
                );
            }
            Vec::new()
        });
        let backbone = r
            .string(root, "", "backbone")
            .unwrap_or_else(|| "drawn".to_owned());
        let datasets = Self::datasets(&mut r, root, "datasets", known);
        if datasets.is_empty() && root.get("datasets").is_none() {
            r.on(
                1,
                "datasets",
                "is missing; for example `datasets = \"drawn-11\"`",
            );
        }
        let variants = root
            .get("variants")
            .map(|_| Self::datasets(&mut r, root, "variants", known));
        if variants.is_some() && !protocols.contains(&Protocol::DomainGeneralization) {
            r.at(
                root.get("variants"),
                "variants",
                "belongs to domain-generalization only",
            );
        }
        let transfer = protocols.iter().any(|p| is_transfer(*p));
        let source = r.string(root, "", "source");
        match (&source, transfer) {
            (None, true) => r.on(
                1,
                "source",
                "is missing: this protocol trains on one dataset",
            ),
            (Some(_), false) => r.at(
                root.get("source"),
                "source",
                "belongs to cross-dataset and domain-generalization only",
            ),
            (Some(id), true) if !known.contains(id) => {
                r.at(root.get("source"), "source", unknown_dataset(id, known))
            }
            _ => {}
        }
        let mut shots: Vec<usize> = r
            .numbers(root, "", "shots", 1)
            .unwrap_or_default()
            .into_iter()
            .map(|n| n as usize)
            .collect();
        shots.sort_unstable();
        if shots.is_empty()
            && root.get("shots").is_none()
            && protocols.iter().any(|p| *p != Protocol::TestTime)
        {
            r.on(1, "shots", "is missing; for example `shots = [16]`");
        }
        let seeds: Vec<u64> = match r.numbers(root, "", "seeds", 0) {
            Some(seeds) => seeds.into_iter().map(|n| n as u64).collect(),
            None => vec![1, 2, 3],
        };
        let views = Self::views(&mut r, root.get("views"));
        let picks = Self::picks(&mut r, root.get("picks"));
        if let PicksFrom::File(_) = &picks {
            let trained_on = if transfer && protocols.iter().all(|p| is_transfer(*p)) {
                source.iter().count()
            } else {
                datasets.len()
            };
            if trained_on > 1 || shots.len() > 1 || seeds.len() > 1 {
                r.at(
                    root.get("picks"),
                    "picks",
                    "one file is for one dataset, one number of shots and one seed; write { folder = \"...\" }",
                );
            }
        }
        let memory = r.string(root, "", "memory").and_then(|text| {
            let read = bytes(&text);
            if let Err(message) = &read {
                r.at(root.get("memory"), "memory", message);
            }
            read.ok()
        });
        let precision = Self::precision(&mut r, root.get("precision"));
        let mut methods: Vec<(usize, Line)> = Vec::new();
        match root.get("method").and_then(Item::as_array_of_tables) {
            None => r.at(
                root.get("method"),
                "method",
                "is missing; write at least one `[[method]]`",
            ),
            Some(tables) => {
                for (i, table) in tables.iter().enumerate() {
                    let line = Self::method(&mut r, table, &format!("method[{i}]."), known);
                    let Some(line) = line else { continue };
                    if line.entry.training.is_some()
                        && !protocols.is_empty()
                        && protocols.iter().all(|p| *p == Protocol::TestTime)
                    {
                        let message = format!(
                            "{} needs a training set, test-time has none",
                            line.entry.name
                        );
                        r.at(table.get("name"), &format!("method[{i}].name"), message);
                    }
                    if methods.iter().any(|(_, m)| m.label == line.label) {
                        let message = format!("{:?} is taken; give this one a `label`", line.label);
                        r.at(table.get("name"), &format!("method[{i}].label"), message);
                    }
                    methods.push((i, line));
                }
            }
        }
        for (i, line) in &methods {
            let mut seen = Vec::new();
            for protocol in &protocols {
                let own = if is_transfer(*protocol) {
                    source.iter().cloned().collect()
                } else {
                    datasets.clone()
                };
                for dataset in &own {
                    for shots in shots.iter().copied().chain(shots.is_empty().then_some(0)) {
                        for (number, message) in
                            line.problems(*protocol, dataset, shots, &format!("method[{i}]."))
                        {
                            if !seen.contains(&message) {
                                seen.push(message.clone());
                                let number = number.max(1);
                                r.problems.push((
                                    number,
                                    format!("{}:{number}: {message}", path.display()),
                                ));
                            }
                        }
                    }
                }
            }
        }
        r.problems.sort();
        r.problems.dedup();
        if !r.problems.is_empty() {
            let all: Vec<String> = r.problems.into_iter().map(|(_, p)| p).collect();
            anyhow::bail!(all.join("\n"));
        }
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let hash = crate::hash::hex(text.as_bytes());
        drop(document);
        let methods = methods.into_iter().map(|(_, line)| line).collect();
        Ok(Self {
            name,
            hash,
            protocols,
            backbone,
            datasets,
            source,
            variants,
            shots,
            seeds,
            views,
            picks,
            memory,
            precision,
            methods,
            text,
        })
    }

    fn datasets(r: &mut Reader, root: &dyn TableLike, key: &str, known: &[String]) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for name in r.names(root, "", key).unwrap_or_default() {
            let ids = expand(&name).unwrap_or_else(|| vec![name.clone()]);
            for id in ids {
                if !known.contains(&id) {
                    r.at(root.get(key), key, unknown_dataset(&id, known));
                } else if out.contains(&id) {
                    r.at(root.get(key), key, format!("{id} is listed twice"));
                } else {
                    out.push(id);
                }
            }
        }
        out
    }

    fn views(r: &mut Reader, item: Option<&Item>) -> Views {
        let Some(item) = item else {
            return Views::Fresh;
        };
        match item.as_str() {
            Some("fresh") => return Views::Fresh,
            Some("none") => return Views::None,
            _ => {}
        }
        let cached = item
            .as_inline_table()
            .filter(|t| t.len() == 1)
            .and_then(|t| t.get("cached")?.as_integer());
        match cached {
            Some(n) if n > 0 => Views::Cached(n as usize),
            _ => {
                r.at(
                    Some(item),
                    "views",
                    "must be \"fresh\", \"none\" or { cached = K } with K of 1 or more",
                );
                Views::Fresh
            }
        }
    }

    /// `"drawn"`, `{ file = "..." }` or `{ folder = "..." }`; paths start at the suite's folder.
    fn picks(r: &mut Reader, item: Option<&Item>) -> PicksFrom {
        let Some(item) = item else {
            return PicksFrom::Drawn;
        };
        if item.as_str() == Some("drawn") {
            return PicksFrom::Drawn;
        }
        let named = |key: &str| {
            let table = item.as_inline_table().filter(|t| t.len() == 1)?;
            let path = table.get(key)?.as_str()?;
            let folder = r.path.parent().unwrap_or(Path::new(""));
            (!path.is_empty()).then(|| folder.join(path))
        };
        match (named("file"), named("folder")) {
            (Some(file), _) => PicksFrom::File(file),
            (None, Some(folder)) => PicksFrom::Folder(folder),
            (None, None) => {
                r.at(
                    Some(item),
                    "picks",
                    "must be \"drawn\", { file = \"...\" } or { folder = \"...\" }",
                );
                PicksFrom::Drawn
            }
        }
    }

    fn precision(r: &mut Reader, item: Option<&Item>) -> Precision {
        match item.map(|i| i.as_str()) {
            None | Some(Some("float32")) => Precision::Float32,
            Some(Some("bfloat16")) => {
                if !clip::ops::bfloat::is_supported() {
                    let message = "\"bfloat16\" needs a processor with AVX512-BF16, which this one has not; \
                                   write \"float32\"";
                    r.at(item, "precision", message);
                }
                Precision::Bfloat16
            }
            _ => {
                r.at(item, "precision", "must be \"float32\" or \"bfloat16\"");
                Precision::Float32
            }
        }
    }

    fn method(
        r: &mut Reader,
        table: &dyn TableLike,
        prefix: &str,
        known: &[String],
    ) -> Option<Line> {
        let mut keys = vec!["name", "label", "protocols", "config", "paper", "where"];
        keys.extend(Training::KEYS);
        r.only(table, prefix, &keys);
        let names: Vec<&str> = METHODS.iter().map(|e| e.name).collect();
        let field = format!("{prefix}name");
        let name = r.string(table, prefix, "name");
        let entry = name.as_deref().and_then(methods::find);
        match (&name, entry) {
            (None, _) => r.at(
                table
                    .get("name")
                    .or_else(|| table.iter().next().map(|p| p.1)),
                &field,
                "is missing",
            ),
            (Some(name), None) => {
                let hint = match nearest(name, names.iter().copied()) {
                    Some(near) => format!("there is no method {name:?}; did you mean `{near}`?"),
                    None => format!(
                        "there is no method {name:?}; there are {}",
                        names.join(", ")
                    ),
                };
                r.at(table.get("name"), &field, hint);
            }
            _ => {}
        }
        let label = r.string(table, prefix, "label").or(name);
        // Labels begin the names of files.
        if label
            .as_ref()
            .is_some_and(|l| l.is_empty() || l.starts_with('.') || l.contains(['/', '\\']))
        {
            let message = "must be neither empty nor hold `/` or `\\` nor begin with `.`: it begins the names of files";
            r.at(
                table.get("label").or(table.get("name")),
                &format!("{prefix}label"),
                message,
            );
        }
        let mut layers = vec![Self::layer(r, table, prefix)];
        if let Some(item) = table.get("where") {
            match item.as_array_of_tables() {
                None => r.at(
                    Some(item),
                    &format!("{prefix}where"),
                    "must be `[[method.where]]` tables",
                ),
                Some(tables) => {
                    for (i, t) in tables.iter().enumerate() {
                        let prefix = format!("{prefix}where[{i}].");
                        let mut keys = vec!["protocols", "datasets", "shots", "config"];
                        keys.extend(Training::KEYS);
                        r.only(t, &prefix, &keys);
                        let mut layer = Self::layer(r, t, &prefix);
                        layer.protocols = r.protocols(t, &prefix, "protocols");
                        layer.datasets = r.names(t, &prefix, "datasets");
                        for id in layer
                            .datasets
                            .iter()
                            .flatten()
                            .filter(|id| !known.contains(id))
                        {
                            r.at(
                                t.get("datasets"),
                                &format!("{prefix}datasets"),
                                unknown_dataset(id, known),
                            );
                        }
                        let shots = r.numbers(t, &prefix, "shots", 1);
                        layer.shots = shots.map(|s| s.into_iter().map(|n| n as usize).collect());
                        layers.push(layer);
                    }
                }
            }
        }
        let protocols = r.protocols(table, prefix, "protocols");
        let mut paper = BTreeMap::new();
        if let Some(item) = table.get("paper") {
            match item.as_table_like() {
                None => r.at(
                    Some(item),
                    &format!("{prefix}paper"),
                    "must be a table of percentages",
                ),
                Some(t) => {
                    for (key, value) in t.iter() {
                        match value
                            .as_float()
                            .or_else(|| value.as_integer().map(|i| i as f64))
                        {
                            Some(v) if (0.0..=100.0).contains(&v) => {
                                paper.insert(key.to_owned(), v);
                            }
                            _ => r.at(
                                Some(value),
                                &format!("{prefix}paper.{key}"),
                                "must be a percentage",
                            ),
                        }
                    }
                }
            }
        }
        Some(Line {
            entry: entry?,
            label: label?,
            protocols,
            paper,
            layers,
        })
    }

    fn layer(r: &mut Reader, table: &dyn TableLike, prefix: &str) -> Layer {
        let mut layer = Layer {
            protocols: None,
            datasets: None,
            shots: None,
            training: toml::Table::new(),
            config: toml::Table::new(),
            lines: HashMap::new(),
        };
        for key in Training::KEYS {
            let Some(item) = table.get(key) else { continue };
            layer
                .lines
                .insert(key.to_owned(), item.span().map_or(1, |s| r.line(s.start)));
            match item.as_value().and_then(plain) {
                Some(v) => {
                    layer.training.insert(key.to_owned(), v);
                }
                None => r.at(
                    Some(item),
                    &format!("{prefix}{key}"),
                    "must be a plain value",
                ),
            }
        }
        if let Some(item) = table.get("config") {
            match item.as_table_like() {
                None => r.at(Some(item), &format!("{prefix}config"), "must be a table"),
                Some(config) => {
                    for (key, value) in config.iter() {
                        layer.lines.insert(
                            format!("config.{key}"),
                            value.span().map_or(1, |s| r.line(s.start)),
                        );
                        match value.as_value().and_then(plain) {
                            Some(v) => {
                                layer.config.insert(key.to_owned(), v);
                            }
                            None => r.at(
                                Some(value),
                                &format!("{prefix}config.{key}"),
                                "must be a plain value",
                            ),
                        }
                    }
                }
            }
        }
        layer
    }
}

/// Bytes written as a number and `MB` or `GB` (powers of 1000).
///
/// # Errors
/// What would be right, for anything else.
pub fn bytes(text: &str) -> std::result::Result<usize, String> {
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

/// Whether a protocol trains on one dataset and tests on others.
pub fn is_transfer(protocol: Protocol) -> bool {
    matches!(
        protocol,
        Protocol::CrossDataset | Protocol::DomainGeneralization
    )
}

fn unknown_dataset(id: &str, known: &[String]) -> String {
    match nearest(id, known.iter().map(String::as_str)) {
        Some(near) => format!("there is no dataset {id:?}; did you mean `{near}`?"),
        None => format!("there is no dataset {id:?}; there are {}", known.join(", ")),
    }
}

impl Line {
    /// Settings for a protocol, dataset and shot count, and where each was written.
    fn merged(
        &self,
        protocol: Protocol,
        dataset: &str,
        shots: usize,
    ) -> (toml::Table, toml::Table, HashMap<String, usize>) {
        let (mut training, mut config, mut lines) =
            (toml::Table::new(), toml::Table::new(), HashMap::new());
        for layer in &self.layers {
            let here = layer
                .protocols
                .as_ref()
                .is_none_or(|p| p.contains(&protocol))
                && layer
                    .datasets
                    .as_ref()
                    .is_none_or(|d| d.iter().any(|d| d == dataset))
                && layer.shots.as_ref().is_none_or(|s| s.contains(&shots));
            if here {
                training.extend(layer.training.clone());
                config.extend(layer.config.clone());
                lines.extend(layer.lines.clone());
            }
        }
        (training, config, lines)
    }

    fn read(
        &self,
        protocol: Protocol,
        dataset: &str,
        shots: usize,
    ) -> (Resolved, Vec<(usize, String)>) {
        let (training, config, lines) = self.merged(protocol, dataset, shots);
        let mut problems = Vec::new();
        let mut note = |field: String, message: String| {
            problems.push((
                *lines.get(&field).unwrap_or(&0),
                format!("{field}: {message}"),
            ))
        };
        let mut s = Settings::new(config);
        let config = (self.entry.read)(&mut s);
        let read = s.finish();
        read.problems
            .into_iter()
            .for_each(|p| note(format!("config.{}", p.field), p.message));
        let mut settings = read.resolved;
        let resolved = match &self.entry.training {
            Some(defaults) => {
                let mut s = Settings::new(training);
                let resolved = defaults.read(&mut s);
                let read = s.finish();
                read.problems
                    .into_iter()
                    .for_each(|p| note(p.field, p.message));
                settings.extend(resolved.resolved());
                Some(resolved)
            }
            None => {
                for key in training.keys() {
                    note(
                        key.clone(),
                        format!("{} is not trained; it has no such setting", self.entry.name),
                    );
                }
                None
            }
        };
        (
            Resolved {
                config,
                training: resolved,
                settings,
            },
            problems,
        )
    }

    fn problems(
        &self,
        protocol: Protocol,
        dataset: &str,
        shots: usize,
        prefix: &str,
    ) -> Vec<(usize, String)> {
        self.read(protocol, dataset, shots)
            .1
            .into_iter()
            .map(|(line, m)| (line, format!("{prefix}{m}")))
            .collect()
    }

    /// Whether it runs under `protocol`.
    pub fn runs_under(&self, protocol: Protocol) -> bool {
        let able = self.entry.training.is_none() || protocol != Protocol::TestTime;
        able && self
            .protocols
            .as_ref()
            .is_none_or(|p| p.contains(&protocol))
    }

    /// The method as it is for a protocol, dataset and shot count; checked when the suite was read.
    pub fn resolve(&self, protocol: Protocol, dataset: &str, shots: usize) -> Resolved {
        self.read(protocol, dataset, shots).0
    }
}
