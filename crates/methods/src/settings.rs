//! Reading settings: one pass that checks, fills in defaults, documents, and reports every problem at once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use candle_core::{Result, bail};
use serde::Serialize;

/// A setting as a method declares it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Declared {
    /// Key in `config`.
    pub name: &'static str,
    /// Default, as it would be written in a suite.
    pub default: String,
    /// What values are right.
    pub range: String,
    /// What it is, with its source.
    pub help: &'static str,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Key in `config`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// How many layers are prompted, the input included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    name: &'static str,
    layers: usize,
    exact: bool,
}

impl Depth {
    /// Exactly so many layers, asked for by the setting `name`.
    pub(crate) fn exactly(name: &'static str, layers: usize) -> Self {
        Self {
            name,
            layers,
            exact: true,
        }
    }

    /// The number of layers in a tower that has as many.
    pub(crate) fn most(&self) -> usize {
        self.layers
    }

    /// The number of layers in a tower of `blocks`.
    ///
    /// # Errors
    /// When a suite asks for more layers than there are.
    pub fn within(&self, blocks: usize) -> Result<usize> {
        let Self {
            name,
            layers,
            exact,
        } = self;
        if *exact && *layers > blocks {
            bail!(
                "{name}: {layers} layers cannot be prompted, the tower has {blocks}; use 1..={blocks} or \"up to {layers}\""
            );
        }
        Ok(blocks.min(*layers))
    }
}

/// Reads a method's `config` table.
#[derive(Debug, Default)]
pub struct Settings {
    given: toml::Table,
    declared: Vec<Declared>,
    resolved: BTreeMap<String, serde_json::Value>,
    problems: Vec<Problem>,
}

/// What came out of reading.
#[derive(Debug)]
pub struct Read {
    /// Every setting with its value, defaults included.
    pub resolved: BTreeMap<String, serde_json::Value>,
    /// Every problem.
    pub problems: Vec<Problem>,
    /// Every setting that exists.
    pub declared: Vec<Declared>,
}

/// The name in `names` that is nearest to `wrong`, when it is near enough to be meant.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|n| (strsim::levenshtein(wrong, n), n))
        .min()
        .filter(|(d, n)| *d <= 1 + n.len().min(wrong.len()) / 3)
        .map(|(_, n)| n)
}

impl Settings {
    /// Reads `given`.
    pub fn new(given: toml::Table) -> Self {
        Self {
            given,
            ..Self::default()
        }
    }

    /// Whether a value of this name is given and not read yet.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    fn take(&mut self, declared: Declared) -> Option<toml::Value> {
        let value = self.given.remove(declared.name);
        self.declared.push(declared);
        value
    }

    fn wrong(&mut self, field: &str, value: &toml::Value, right: &str) {
        self.problems.push(Problem {
            field: field.to_owned(),
            message: format!("{value} is not {right}"),
        });
    }

    fn keep<T: Serialize>(&mut self, name: &str, value: T) -> T {
        let json = serde_json::to_value(&value).expect("plain values serialise");
        self.resolved.insert(name.to_owned(), json);
        value
    }

    /// A whole number within `range`.
    pub fn count(
        &mut self,
        name: &'static str,
        default: usize,
        range: RangeInclusive<usize>,
        help: &'static str,
    ) -> usize {
        let right = format!("a whole number within {}..={}", range.start(), range.end());
        let given = self.take(Declared {
            name,
            default: default.to_string(),
            range: right.clone(),
            help,
        });
        let value = match given {
            None => default,
            Some(toml::Value::Integer(i))
                if usize::try_from(i).is_ok_and(|i| range.contains(&i)) =>
            {
                i as usize
            }
            Some(other) => {
                self.wrong(name, &other, &right);
                default
            }
        };
        self.keep(name, value)
    }

    /// A finite number within `range`.
    pub fn number(
        &mut self,
        name: &'static str,
        default: f64,
        range: RangeInclusive<f64>,
        help: &'static str,
    ) -> f64 {
        let right = format!("a number within {}..={}", range.start(), range.end());
        let given = self.take(Declared {
            name,
            default: default.to_string(),
            range: right.clone(),
            help,
        });
        let value = match given {
            None => default,
            Some(toml::Value::Float(f)) if range.contains(&f) => f,
            Some(toml::Value::Integer(i)) if range.contains(&(i as f64)) => i as f64,
            Some(other) => {
                self.wrong(name, &other, &right);
                default
            }
        };
        self.keep(name, value)
    }

    /// Yes or no.
    pub fn flag(&mut self, name: &'static str, default: bool, help: &'static str) -> bool {
        let right = "true or false".to_owned();
        let given = self.take(Declared {
            name,
            default: default.to_string(),
            range: right.clone(),
            help,
        });
        let value = match given {
            None => default,
            Some(toml::Value::Boolean(b)) => b,
            Some(other) => {
                self.wrong(name, &other, &right);
                default
            }
        };
        self.keep(name, value)
    }

    /// Words of a prompt; `_` stands for a space, as in every published implementation; the empty string means none.
    pub fn words(
        &mut self,
        name: &'static str,
        default: &str,
        help: &'static str,
    ) -> Option<String> {
        let range = "text, `_` for a space, \"\" for none".into();
        let given = self.take(Declared {
            name,
            default: format!("{default:?}"),
            range,
            help,
        });
        let value = match given {
            None => default.to_owned(),
            Some(toml::Value::String(s)) => s,
            Some(other) => {
                self.wrong(name, &other, "text");
                default.to_owned()
            }
        };
        let value = self.keep(name, value).replace('_', " ");
        (!value.is_empty()).then_some(value)
    }

    /// How many layers of a tower are prompted: a whole number that the tower must have, or "up to N", which a shallower
    /// tower cuts. The default is the published number in the second form, so that what is recorded stays true there.
    pub fn depth(&mut self, name: &'static str, published: usize, help: &'static str) -> Depth {
        let up_to = |layers: usize| format!("up to {layers}");
        let right =
            "a whole number within 1..=128, or \"up to N\" for as many of N as the tower has"
                .to_owned();
        let default = format!("{:?}", up_to(published));
        let given = self.take(Declared {
            name,
            default,
            range: right.clone(),
            help,
        });
        let fits = |layers: usize| (1..=128).contains(&layers).then_some(layers);
        let read = match &given {
            None => Some((published, false)),
            Some(toml::Value::Integer(i)) => usize::try_from(*i)
                .ok()
                .and_then(fits)
                .map(|layers| (layers, true)),
            Some(toml::Value::String(s)) => s
                .strip_prefix("up to ")
                .and_then(|n| n.parse().ok())
                .and_then(fits)
                .map(|layers| (layers, false)),
            Some(_) => None,
        };
        let (layers, exact) = read.unwrap_or_else(|| {
            self.wrong(name, &given.expect("the default can be read"), &right);
            (published, false)
        });
        if exact {
            self.keep(name, layers);
        } else {
            self.keep(name, up_to(layers));
        }
        Depth {
            name,
            layers,
            exact,
        }
    }

    /// One of `choices`; the first is the default.
    pub fn choice(
        &mut self,
        name: &'static str,
        choices: &[&'static str],
        help: &'static str,
    ) -> &'static str {
        let right = choices.join(" | ");
        let given = self.take(Declared {
            name,
            default: format!("{:?}", choices[0]),
            range: right.clone(),
            help,
        });
        let value = match given {
            None => choices[0],
            Some(toml::Value::String(s)) if choices.contains(&s.as_str()) => choices
                .iter()
                .find(|c| **c == s)
                .copied()
                .unwrap_or(choices[0]),
            Some(other) => {
                self.wrong(name, &other, &format!("one of {right}"));
                choices[0]
            }
        };
        self.keep(name, value)
    }

    /// A list of numbers; empty by default.
    pub fn numbers(&mut self, name: &'static str, help: &'static str) -> Vec<f64> {
        let right = "a list of numbers".to_owned();
        let given = self.take(Declared {
            name,
            default: "[]".into(),
            range: right.clone(),
            help,
        });
        let read = |v: &toml::Value| v.as_float().or_else(|| v.as_integer().map(|i| i as f64));
        let value = match given {
            None => Vec::new(),
            Some(toml::Value::Array(a)) if a.iter().all(|v| read(v).is_some()) => {
                a.iter().filter_map(read).collect()
            }
            Some(other) => {
                self.wrong(name, &other, &right);
                Vec::new()
            }
        };
        self.keep(name, value)
    }

    /// A list of texts; empty by default.
    pub fn texts(&mut self, name: &'static str, help: &'static str) -> Vec<String> {
        let right = "a list of texts".to_owned();
        let given = self.take(Declared {
            name,
            default: "[]".into(),
            range: right.clone(),
            help,
        });
        let value = match given {
            None => Vec::new(),
            Some(toml::Value::Array(a)) if a.iter().all(toml::Value::is_str) => a
                .iter()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect(),
            Some(other) => {
                self.wrong(name, &other, &right);
                Vec::new()
            }
        };
        self.keep(name, value)
    }

    /// Says nothing of the setting `name`, just read, where it has its default: trials of before it was there keep their keys.
    pub fn leave_out_default(&mut self, name: &'static str) {
        let declared = self.declared.iter().rev().find(|d| d.name == name);
        let value = self.resolved.get(name).map(ToString::to_string);
        if declared.map(|d| &d.default) == value.as_ref() {
            self.resolved.remove(name);
        }
    }

    /// Reports that a combination of settings cannot be.
    pub fn refuse(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            field: field.to_owned(),
            message: message.into(),
        });
    }

    /// Ends reading: whatever is left over is a misspelt or unknown key.
    pub fn finish(mut self) -> Read {
        for key in self.given.keys() {
            let known = self.declared.iter().map(|d| d.name);
            let message = match nearest(key, known.clone()) {
                Some(near) => format!("there is no such setting; did you mean `{near}`?"),
                None => format!(
                    "there is no such setting; there are {}",
                    known.collect::<Vec<_>>().join(", ")
                ),
            };
            self.problems.push(Problem {
                field: key.clone(),
                message,
            });
        }
        Read {
            resolved: self.resolved,
            problems: self.problems,
            declared: self.declared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        let table = "n_ctx = 96\nposition = \"ende\"\nper_clas = true"
            .parse()
            .unwrap();
        let mut s = Settings::new(table);
        s.count("n_ctx", 16, 1..=75, "");
        s.choice("position", &["end", "middle", "front"], "");
        s.flag("per_class", false, "");
        let problems = s.finish().problems;
        assert_eq!(problems.len(), 3);
        assert_eq!(
            problems[0].message,
            "96 is not a whole number within 1..=75"
        );
        assert!(problems[2].message.contains("did you mean `per_class`"));
    }

    #[test]
    fn a_depth_that_is_asked_for_is_never_cut() {
        let read = |table: &str| {
            let mut s = Settings::new(table.parse().unwrap());
            let depth = s.depth("depth", 9, "");
            (depth, s.finish())
        };
        let (depth, out) = read("");
        assert_eq!(
            (depth.within(3).unwrap(), depth.within(12).unwrap()),
            (3, 9)
        );
        assert_eq!(out.resolved["depth"], "up to 9");
        let (again, _) = read("depth = \"up to 9\"");
        assert_eq!(again, depth, "what is recorded can be written into a suite");
        let (depth, out) = read("depth = 9");
        assert_eq!(out.resolved["depth"], 9);
        assert_eq!(depth.within(12).unwrap(), 9);
        let message = depth.within(3).unwrap_err().to_string();
        assert!(
            message.contains("depth: 9 layers") && message.contains("the tower has 3"),
            "{message}"
        );
        for bad in [
            "depth = 0",
            "depth = 129",
            "depth = \"9\"",
            "depth = \"up to 0\"",
            "depth = true",
        ] {
            assert_eq!(read(bad).1.problems.len(), 1, "{bad}");
        }
    }

    #[test]
    fn an_underscore_in_words_is_a_space() {
        let mut s = Settings::new("init = \"a_photo of_a\"".parse().unwrap());
        assert_eq!(s.words("init", "", "").as_deref(), Some("a photo of a"));
    }

    #[test]
    fn nearest_is_silent_when_nothing_is_near() {
        assert_eq!(nearest("cop", ["coop", "maple"]), Some("coop"));
        assert_eq!(nearest("zzzzzz", ["coop", "maple"]), None);
    }
}
