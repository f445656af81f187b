//! What must hold inside one file of published numbers.

use std::collections::BTreeSet;

use datasets::catalogue::BIOMED;

use super::{
    Averages, Exception, File, Instead, Kind, Measure, Members, Metric, Row, TOLERANCE, Table,
};

/// The method that trains nothing.
pub(super) const UNTRAINED: &str = "zero-shot";

/// Columns that are means of others.
const AVERAGES: [&str; 2] = ["average", "average-shifted"];

/// The eleven datasets, ImageNet first, then ImageNet's four variants.
const DATASETS: [&str; 15] = [
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
    "imagenet-v2",
    "imagenet-sketch",
    "imagenet-a",
    "imagenet-r",
];

/// Whether a column is a mean of others.
pub(super) fn is_average(column: &str) -> bool {
    AVERAGES.contains(&column)
}

impl Members {
    /// Datasets the mean runs over; empty where the source does not say.
    pub(super) fn datasets(self) -> Vec<&'static str> {
        match self {
            Self::All11 => DATASETS[..11].to_vec(),
            Self::All10 => DATASETS[1..11].to_vec(),
            Self::Shifted4 => DATASETS[11..].to_vec(),
            Self::ImagenetAnd4 => [&DATASETS[..1], &DATASETS[11..]].concat(),
            Self::Biomed11 => BIOMED.to_vec(),
            Self::Biomed10 => BIOMED.into_iter().filter(|id| *id != "busi").collect(),
            Self::Unstated => Vec::new(),
        }
    }
}

impl Averages {
    pub(super) fn of(self, column: &str) -> Option<Members> {
        match column {
            "average" => self.average,
            "average-shifted" => self.average_shifted,
            _ => None,
        }
    }
}

/// Every (field, message) of a file that does not hold.
pub(super) fn problems(file: &File) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let source = &file.source;
    match source.kind {
        Kind::Paper if source.arxiv.is_none() && source.venue.is_none() => found.push((
            "source.arxiv".into(),
            "missing: a paper has one, or else a `venue`".into(),
        )),
        Kind::Repository | Kind::Log | Kind::Issue if source.repository.is_none() => {
            found.push((
                "source.repository".into(),
                "missing: this kind of source stands in one".into(),
            ));
        }
        _ => {}
    }
    if file.tables.is_empty() {
        found.push(("table".into(), "missing: a source has at least one".into()));
    }
    let mut cells = BTreeSet::new();
    for (t, table) in file.tables.iter().enumerate() {
        let at = format!("table[{t}]");
        columns(table, &at, &mut found);
        let mut off = BTreeSet::new();
        for (r, row) in table.rows.iter().enumerate() {
            let at = format!("{at}.row[{r}]");
            let shapes_hold = shape(table, row, &at, &mut found);
            for measure in Measure::ALL
                .into_iter()
                .filter(|&m| row.values(m).is_some())
            {
                for dataset in &table.datasets {
                    let shots = row.shots.or(table.shots);
                    let setting = (table.protocol, &table.backbone, table.metric, shots);
                    if !cells.insert((setting, &row.method, &row.variant, dataset, measure)) {
                        let message = format!(
                            "{dataset} is given twice for {}: name a variant",
                            row.method
                        );
                        found.push((format!("{at}.{}", measure.name()), message));
                    }
                }
            }
            if shapes_hold {
                arithmetic(table, row, &at, &mut off, &mut found);
            }
        }
        for (e, exception) in table.exceptions.iter().enumerate() {
            let key = (
                &*exception.method,
                exception.variant.as_deref(),
                &*exception.dataset,
                exception.measure.as_str(),
            );
            if !off.contains(&key) {
                let tolerance = tolerance(table);
                let message = format!("not needed: no such value is off by more than {tolerance}");
                found.push((format!("{at}.exception[{e}]"), message));
            } else if let Some(message) = is_not_what_it_says(table, exception) {
                found.push((format!("{at}.exception[{e}].is"), message));
            }
        }
    }
    found
}

/// Largest distance between a printed value and the computed one: two units of the last digit.
fn tolerance(table: &Table) -> f64 {
    match table.decimals {
        None | Some(2) => TOLERANCE,
        Some(decimals) => 2.0 * 0.1_f64.powi(decimals),
    }
}

/// Why an excepted value is not what the exception says it is instead; `None` where it is, or says nothing.
fn is_not_what_it_says(table: &Table, exception: &Exception) -> Option<String> {
    let instead = exception.is?;
    let measure = match instead {
        Instead::MeanWithSource => Measure::named(&exception.measure)?,
        Instead::MeanOfHarmonics => Measure::Harmonic,
    };
    if measure.name() != exception.measure {
        return Some("a mean of H can only be a harmonic".to_owned());
    }
    let row = table
        .rows
        .iter()
        .find(|r| (&r.method, &r.variant) == (&exception.method, &exception.variant));
    let values = row.and_then(|r| r.values(measure))?;
    let column = |name: &str| table.datasets.iter().position(|d| d == name);
    let printed = values[column(&exception.dataset)?];
    let mut members = table
        .averages
        .of(&exception.dataset)
        .map(Members::datasets)
        .unwrap_or_default();
    if instead == Instead::MeanWithSource {
        members.extend(table.trained_on.as_deref().and_then(|s| {
            DATASETS
                .into_iter()
                .find(|d| *d == s && !members.contains(d))
        }));
    }
    let parts: Option<Vec<f64>> = members.iter().map(|m| Some(values[column(m)?])).collect();
    let Some(parts) = parts.filter(|p| !p.is_empty()) else {
        return Some("cannot be checked: the table lacks a column of the mean".to_owned());
    };
    let mean = parts.iter().sum::<f64>() / parts.len() as f64;
    ((printed - mean).abs() > tolerance(table))
        .then(|| format!("{printed} is not that mean either, {mean:.2}"))
}

/// The table's own fields.
fn columns(table: &Table, at: &str, found: &mut Vec<(String, String)>) {
    if table.rows.is_empty() {
        found.push((
            format!("{at}.row"),
            "missing: a table has at least one".into(),
        ));
    }
    if table.datasets.is_empty() {
        found.push((format!("{at}.datasets"), "empty".into()));
    }
    for (i, column) in table.datasets.iter().enumerate() {
        let field = format!("{at}.datasets[{i}]");
        if is_average(column) {
            if table.averages.of(column).is_none() {
                found.push((
                    field,
                    format!("{column} needs an entry in `averages` that says over what"),
                ));
            }
        } else if !DATASETS.contains(&column.as_str()) {
            found.push((
                field.clone(),
                format!("{column:?} is none of {}", DATASETS.join(", ")),
            ));
        }
        if table.datasets[..i].contains(column) {
            found.push((
                format!("{at}.datasets[{i}]"),
                format!("{column} stands twice"),
            ));
        }
    }
    for column in AVERAGES {
        if table.averages.of(column).is_some() && !table.datasets.iter().any(|d| d == column) {
            found.push((
                format!("{at}.averages.{column}"),
                "is no column of the table".into(),
            ));
        }
    }
    for (i, column) in table.derived.iter().enumerate() {
        if !table.datasets.contains(column) {
            found.push((
                format!("{at}.derived[{i}]"),
                format!("{column:?} is no column of the table"),
            ));
        }
    }
    let elsewhere = table.protocol.has_source();
    if elsewhere != table.trained_on.is_some() {
        let message = if elsewhere {
            "missing under this protocol"
        } else {
            "has no place under this protocol"
        };
        found.push((format!("{at}.trained_on"), message.into()));
    }
}

/// Whether the row has the right measures, one value a column, in range.
fn shape(table: &Table, row: &Row, at: &str, found: &mut Vec<(String, String)>) -> bool {
    let before = found.len();
    match row.shots.or(table.shots) {
        None => found.push((
            format!("{at}.shots"),
            "missing in the row and in the table".into(),
        )),
        Some(n) if n > 0 && row.method == UNTRAINED => {
            found.push((
                format!("{at}.shots"),
                format!("{n}: {UNTRAINED} trains on none, so 0"),
            ));
        }
        Some(_) => {}
    }
    let halves = table.protocol.halves().is_some() && table.metric == Metric::Top1;
    for measure in Measure::ALL {
        let Some(values) = row.values(measure) else {
            continue;
        };
        let field = format!("{at}.{}", measure.name());
        if halves == (measure == Measure::All) {
            let wanted = if halves {
                "base, novel and harmonic"
            } else {
                "all"
            };
            found.push((field.clone(), format!("this table's rows hold {wanted}")));
        }
        if values.len() != table.datasets.len() {
            let message = format!(
                "{} values for {} columns",
                values.len(),
                table.datasets.len()
            );
            found.push((field.clone(), message));
        }
        let most = if table.metric == Metric::MillisecondsPerTrainingImage {
            f64::MAX
        } else {
            100.0
        };
        for (i, value) in values
            .iter()
            .enumerate()
            .filter(|(_, v)| !(0.0..=most).contains(*v))
        {
            found.push((
                format!("{field}[{i}]"),
                format!("{value} is outside 0..={most}"),
            ));
        }
    }
    if Measure::ALL.iter().all(|&m| row.values(m).is_none()) {
        found.push((at.to_owned(), "holds no values".into()));
    }
    found.len() == before
}

type Cell<'a> = (&'a str, Option<&'a str>, &'a str, &'a str);

/// H of each column and averages over columns. `off` collects the cells that are off, excepted or not.
fn arithmetic<'a>(
    table: &'a Table,
    row: &'a Row,
    at: &str,
    off: &mut BTreeSet<Cell<'a>>,
    found: &mut Vec<(String, String)>,
) {
    if table.metric != Metric::Top1 {
        return;
    }
    let mut hold = |column: usize, measure: Measure, printed: f64, computed: f64, how: &str| {
        if (printed - computed).abs() <= tolerance(table) {
            return;
        }
        let cell = (
            &*row.method,
            row.variant.as_deref(),
            &*table.datasets[column],
            measure.name(),
        );
        off.insert(cell);
        let excepted = table.exceptions.iter().any(|e| {
            (
                &*e.method,
                e.variant.as_deref(),
                &*e.dataset,
                e.measure.as_str(),
            ) == cell
                && !e.reason.trim().is_empty()
        });
        if !excepted {
            let message = format!(
                "{printed} for {} of {} is not {how}, {computed:.2}; correct it, or list it under `table.exception`",
                table.datasets[column], row.method,
            );
            found.push((format!("{at}.{}[{column}]", measure.name()), message));
        }
    };
    if let (Some(base), Some(novel), Some(harmonic)) = (&row.base, &row.novel, &row.harmonic) {
        for (i, ((b, n), &h)) in base.iter().zip(novel).zip(harmonic).enumerate() {
            hold(
                i,
                Measure::Harmonic,
                h,
                2.0 * b * n / (b + n),
                "2bn/(b+n) of its row",
            );
        }
    }
    // H of an average is of the averaged columns (above), so only the others are means.
    for measure in [Measure::All, Measure::Base, Measure::Novel] {
        let Some(values) = row.values(measure) else {
            continue;
        };
        for (column, members) in table
            .datasets
            .iter()
            .enumerate()
            .filter_map(|(i, d)| Some((i, table.averages.of(d)?.datasets())))
        {
            let parts: Option<Vec<f64>> = members
                .iter()
                .map(|m| Some(values[table.datasets.iter().position(|d| d == m)?]))
                .collect();
            if let Some(parts) = parts.filter(|p| !p.is_empty()) {
                let mean = parts.iter().sum::<f64>() / parts.len() as f64;
                hold(
                    column,
                    measure,
                    values[column],
                    mean,
                    "the mean of its columns",
                );
            }
        }
    }
}
