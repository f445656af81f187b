//! What each method said of each picture: one parquet file a trial.

use std::path::PathBuf;

use parquet::errors::{ParquetError, Result as ParquetResult};

use super::columns::{self, Columns, Values, text};
use super::{Store, StoreError};
use crate::record::TestSet;

/// One test picture's prediction.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Place of the test in the record's `tests`.
    pub test_index: u32,
    /// Dataset tested on.
    pub dataset: String,
    /// Which pictures, told apart among which classes.
    pub class_set: TestSet,
    /// Path of the picture inside its dataset.
    pub image: String,
    /// True label within the class set.
    pub label: u32,
    /// Label with the highest logit.
    pub predicted: u32,
    /// Softmax probability of `predicted`, in [0, 1].
    pub confidence: f32,
}

impl Store {
    /// Where the predictions of the trial with this key are or would be.
    pub fn predictions_path(&self, key: &str) -> PathBuf {
        self.dir.join("predictions").join(format!("{key}.parquet"))
    }

    /// Writes the predictions of one trial, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_predictions(
        &self,
        key: &str,
        predictions: &[Prediction],
    ) -> Result<(), StoreError> {
        let small = |field: fn(&Prediction) -> u32| {
            Values::Small(predictions.iter().map(|p| Some(field(p))).collect())
        };
        let text = |field: fn(&Prediction) -> &String| {
            let rows = predictions.iter().map(|p| Some(field(p).as_str().into()));
            Values::Text(rows.collect())
        };
        let sets = predictions
            .iter()
            .map(|p| Some(p.class_set.to_string().into()));
        let sets = Values::Text(sets.collect());
        let confidence = predictions.iter().map(|p| Some(p.confidence)).collect();
        let table = [
            ("test_index", small(|p| p.test_index)),
            ("dataset", text(|p| &p.dataset)),
            ("class_set", sets),
            ("image", text(|p| &p.image)),
            ("label", small(|p| p.label)),
            ("predicted", small(|p| p.predicted)),
            ("confidence", Values::Single(confidence)),
        ];
        columns::write(self.predictions_path(key), &table)
    }

    /// Reads the predictions of one trial back; `None` when it kept none.
    ///
    /// # Errors
    /// When the file is there but cannot be read or lacks a column.
    pub fn read_predictions(&self, key: &str) -> Result<Option<Vec<Prediction>>, StoreError> {
        self.read_where(key, |_, _| true)
    }

    /// Reads the predictions of one trial on one class set of one dataset, as of the last stage that tested it; `None`
    /// when the trial kept none at all.
    ///
    /// # Errors
    /// When the file is there but cannot be read or lacks a column.
    pub fn read_predictions_on(
        &self,
        key: &str,
        dataset: &str,
        class_set: TestSet,
    ) -> Result<Option<Vec<Prediction>>, StoreError> {
        let class_set = class_set.to_string();
        let found = self.read_where(key, |tested_on, among| {
            tested_on == dataset && among == class_set
        })?;
        Ok(found.map(|mut all| {
            let last = all.iter().map(|p| p.test_index).max();
            all.retain(|p| Some(p.test_index) == last);
            all
        }))
    }

    /// Reads the rows whose dataset and class set are wanted. Text is only taken out of those.
    fn read_where(
        &self,
        key: &str,
        is_wanted: impl Fn(&str, &str) -> bool,
    ) -> Result<Option<Vec<Prediction>>, StoreError> {
        let path = self.predictions_path(key);
        let Some(table) = Columns::open(&path)? else {
            return Ok(None);
        };
        rows(&table, is_wanted)
            .map(Some)
            .map_err(|source| StoreError::Parquet { path, source })
    }
}

/// The wanted predictions of a table.
fn rows(table: &Columns, is_wanted: impl Fn(&str, &str) -> bool) -> ParquetResult<Vec<Prediction>> {
    let test_index = table.small("test_index")?;
    let dataset = table.texts("dataset")?;
    let class_set = table.texts("class_set")?;
    let image = table.texts("image")?;
    let label = table.small("label")?;
    let predicted = table.small("predicted")?;
    let confidence = table.singles("confidence")?;
    let mut rows = Vec::new();
    for i in 0..test_index.len() {
        let (dataset, class_set) = (text(&dataset[i])?, text(&class_set[i])?);
        if is_wanted(dataset, class_set) {
            let set = class_set
                .parse()
                .map_err(|e| ParquetError::General(format!("row {i}: class_set: {e}")))?;
            rows.push(Prediction {
                test_index: test_index[i],
                dataset: dataset.to_owned(),
                class_set: set,
                image: text(&image[i])?.to_owned(),
                label: label[i],
                predicted: predicted[i],
                confidence: confidence[i],
            });
        }
    }
    Ok(rows)
}
