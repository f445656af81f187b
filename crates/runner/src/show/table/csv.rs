//! Tables as CSV: one row a method, every figure with its deviation and number of seeds, unrounded.

use polars::prelude::*;

use super::Table;
use crate::show::summary::{Entry, Figure};

/// The table as a frame. Gaps and blanks are null.
pub(super) fn frame(table: &Table) -> PolarsResult<DataFrame> {
    let rows: Vec<_> = table
        .groups
        .iter()
        .flat_map(|g| g.rows.iter().map(move |r| (&g.label, r)))
        .collect();
    let mut columns = Vec::new();
    if table.groups.len() > 1 {
        let labels: Vec<&str> = rows.iter().map(|(label, _)| label.as_str()).collect();
        columns.push(Column::new(table.group_head.to_lowercase().into(), labels));
    }
    let labels: Vec<&str> = rows.iter().map(|(_, row)| row.label.as_str()).collect();
    columns.push(Column::new(table.row_head.to_lowercase().into(), labels));
    for (i, name) in table.columns.iter().enumerate() {
        let figures: Vec<Option<Figure>> = rows
            .iter()
            .map(|(_, row)| Entry::figure(&row.entries[i]))
            .collect();
        let mean: Vec<Option<f64>> = figures.iter().map(|f| f.map(|f| f.mean)).collect();
        let deviation: Vec<Option<f64>> = figures
            .iter()
            .map(|f| f.and_then(|f| f.deviation))
            .collect();
        let seeds: Vec<Option<u32>> = figures.iter().map(|f| f.map(|f| f.seeds as u32)).collect();
        columns.push(Column::new(name.as_str().into(), mean));
        columns.push(Column::new(format!("{name} sd").into(), deviation));
        columns.push(Column::new(format!("{name} seeds").into(), seeds));
    }
    DataFrame::new(rows.len(), columns)
}

pub(super) fn render(table: &Table) -> PolarsResult<String> {
    let mut bytes = Vec::new();
    CsvWriter::new(&mut bytes)
        .with_float_precision(Some(4))
        .finish(&mut frame(table)?)?;
    Ok(String::from_utf8(bytes).expect("polars writes strings it was given"))
}
