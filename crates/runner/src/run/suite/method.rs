//! The `[[method]]` tables of a suite file, and what they come to for a protocol, dataset and shot count.

use std::collections::{BTreeMap, HashMap};

use methods::settings::nearest;
use methods::{METHODS, Settings, Training};
use toml_edit::TableLike;

use super::reader::{Reader, plain};
use super::{Layer, Line, Resolved, Suite, unknown_dataset};
use crate::protocols::Protocol;
use crate::start;

impl Suite {
    pub(super) fn method(
        r: &mut Reader,
        table: &dyn TableLike,
        prefix: &str,
        known: &[String],
    ) -> Option<Line> {
        let mut keys = vec![
            "name",
            "label",
            "protocols",
            "config",
            "paper",
            "teacher",
            "teacher_prompts",
            "descriptions",
            "where",
        ];
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
        for key in ["name", "teacher", "teacher_prompts", "descriptions"] {
            if let Some(span) = table.get(key).and_then(toml_edit::Item::span) {
                layers[0].lines.insert(key.to_owned(), r.line(span.start));
            }
        }
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
        let teacher = r.string(table, prefix, "teacher");
        let folder = r
            .path
            .parent()
            .unwrap_or(std::path::Path::new(""))
            .to_owned();
        let mut beside = |key| r.string(table, prefix, key).map(|path| folder.join(path));
        let teacher_prompts = beside("teacher_prompts");
        let descriptions = beside("descriptions");
        Some(Line {
            entry: entry?,
            label: label?,
            protocols,
            paper,
            teacher,
            teacher_prompts,
            descriptions,
            layers,
        })
    }

    pub(super) fn layer(r: &mut Reader, table: &dyn TableLike, prefix: &str) -> Layer {
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

impl Line {
    /// Settings for a protocol, dataset and shot count, and where each was written.
    fn merged(
        &self,
        protocol: &Protocol,
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
                    // Of a trial of several datasets: where it names them all.
                    .is_none_or(|d| start::datasets(dataset).all(|id| d.iter().any(|d| d == id)))
                && layer.shots.as_ref().is_none_or(|s| s.contains(&shots));
            if here {
                // Said in one way, it takes the place of what an earlier table says in the other.
                let [a, b] = ["epochs", "steps_per_shot"];
                for (said, other) in [(a, b), (b, a)] {
                    if layer.training.contains_key(said) {
                        training.remove(other);
                    }
                }
                training.extend(layer.training.clone());
                config.extend(layer.config.clone());
                lines.extend(layer.lines.clone());
            }
        }
        (training, config, lines)
    }

    fn read(
        &self,
        protocol: &Protocol,
        dataset: &str,
        shots: usize,
    ) -> (Resolved, Vec<(usize, String)>) {
        let (training, config, lines) = self.merged(protocol, dataset, shots);
        let mut problems = Vec::new();
        let mut note = |field: String, message: String| {
            problems.push((
                *lines.get(&field).or(lines.get("name")).unwrap_or(&0),
                format!("{field}: {message}"),
            ))
        };
        let read = self.entry.read(config);
        let config = read.config;
        read.problems
            .into_iter()
            .for_each(|p| note(format!("config.{}", p.field), p.message));
        let needs = config.needs();
        for (key, given, needed, what) in [
            (
                "teacher",
                self.teacher.is_some(),
                needs.teacher,
                "a second backbone, by name or path",
            ),
            (
                "teacher_prompts",
                self.teacher_prompts.is_some(),
                needs.teacher_prompts,
                "the prompts that the second backbone learned before: a file that promptsrc left, or a folder with \
                 <dataset>.safetensors",
            ),
            (
                "descriptions",
                self.descriptions.is_some(),
                needs.descriptions,
                "a JSON file of class descriptions, or a folder with <dataset>.json",
            ),
        ] {
            if needed && !given {
                note(
                    key.to_owned(),
                    format!("is missing: {} needs {what}", self.entry.name),
                );
            } else if given && !needed {
                note(key.to_owned(), format!("{} uses none", self.entry.name));
            }
        }
        let mut settings = read.resolved;
        let resolved = match &self.entry.training {
            Some(defaults) => {
                let mut s = Settings::new(training);
                let resolved = defaults.read(&mut s, shots);
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
                name: self.entry.name,
                config,
                training: resolved,
                settings,
            },
            problems,
        )
    }

    pub(super) fn problems(
        &self,
        protocol: &Protocol,
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

    /// Whether it learns from pictures before it is tested.
    pub(super) fn learns(&self) -> bool {
        self.entry.training.is_some() || self.entry.default_config().needs().support.is_some()
    }

    /// Whether it runs under `protocol`.
    pub fn runs_under(&self, protocol: &Protocol) -> bool {
        let able = !self.learns() || protocol.has_training;
        able && self
            .protocols
            .as_ref()
            .is_none_or(|p| p.contains(&protocol))
    }

    /// The method as it is for a protocol, dataset and shot count; checked when the suite was read.
    pub fn resolve(&self, protocol: &Protocol, dataset: &str, shots: usize) -> Resolved {
        self.read(protocol, dataset, shots).0
    }
}
