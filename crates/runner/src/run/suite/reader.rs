//! Fields of a TOML file, and everything that is wrong with them, with lines.

use std::path::Path;

use methods::settings::nearest;
use toml_edit::{Item, TableLike, Value};

use crate::protocols::{self, Protocol};

pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
    pub(super) problems: Vec<(usize, String)>,
}

impl Reader<'_> {
    pub(super) fn line(&self, offset: usize) -> usize {
        1 + self.text[..offset.min(self.text.len())]
            .matches('\n')
            .count()
    }

    pub(super) fn at(&mut self, item: Option<&Item>, field: &str, message: impl std::fmt::Display) {
        let line = item.and_then(Item::span).map_or(1, |s| self.line(s.start));
        self.on(line, field, message);
    }

    pub(super) fn on(&mut self, line: usize, field: &str, message: impl std::fmt::Display) {
        self.problems.push((
            line,
            format!("{}:{line}: {field}: {message}", self.path.display()),
        ));
    }

    /// Reports keys of `table` that are not `known`.
    pub(super) fn only(&mut self, table: &dyn TableLike, prefix: &str, known: &[&str]) {
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

    pub(super) fn string(
        &mut self,
        table: &dyn TableLike,
        prefix: &str,
        key: &str,
    ) -> Option<String> {
        let item = table.get(key)?;
        if item.as_str().is_none() {
            self.at(Some(item), &format!("{prefix}{key}"), "must be text");
        }
        item.as_str().map(str::to_owned)
    }

    /// A list of whole numbers of at least `least`.
    pub(super) fn numbers(
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

    pub(super) fn names(
        &mut self,
        table: &dyn TableLike,
        prefix: &str,
        key: &str,
    ) -> Option<Vec<String>> {
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

impl Reader<'_> {
    pub(super) fn protocols(
        &mut self,
        table: &dyn TableLike,
        prefix: &str,
        key: &str,
    ) -> Option<Vec<&'static Protocol>> {
        let names = self.names(table, prefix, key)?;
        let mut out = Vec::new();
        for name in names {
            match protocols::find(&name) {
                Some(p) if !out.contains(&p) => out.push(p),
                Some(_) => self.at(
                    table.get(key),
                    &format!("{prefix}{key}"),
                    format!("{name} is listed twice"),
                ),
                None => {
                    let known = protocols::names(|_| true, ", ");
                    let message = format!("{name:?} is not one of {known}");
                    self.at(table.get(key), &format!("{prefix}{key}"), message);
                }
            }
        }
        Some(out)
    }
}

pub(super) fn plain(value: &Value) -> Option<toml::Value> {
    Some(match value {
        Value::String(s) => toml::Value::String(s.value().clone()),
        Value::Integer(i) => toml::Value::Integer(*i.value()),
        Value::Float(f) => toml::Value::Float(*f.value()),
        Value::Boolean(b) => toml::Value::Boolean(*b.value()),
        Value::Array(a) => toml::Value::Array(a.iter().map(plain).collect::<Option<_>>()?),
        Value::InlineTable(_) | Value::Datetime(_) => return None,
    })
}
