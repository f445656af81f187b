//! What each method said of each picture: one parquet file a trial.

use std::fs::File;
use std::path::PathBuf;

use polars::prelude::*;

use super::{Store, StoreError, file};
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
        fn column<T>(rows: &[Prediction], field: impl Fn(&Prediction) -> T) -> Vec<T> {
            rows.iter().map(field).collect()
        }
        let rows = predictions;
        let path = self.predictions_path(key);
        let frame = df!(
            "test_index" => column(rows, |p| p.test_index),
            "dataset" => rows.iter().map(|p| p.dataset.as_str()).collect::<Vec<_>>(),
            "class_set" => column(rows, |p| p.class_set.to_string()),
            "image" => rows.iter().map(|p| p.image.as_str()).collect::<Vec<_>>(),
            "label" => column(rows, |p| p.label),
            "predicted" => column(rows, |p| p.predicted),
            "confidence" => column(rows, |p| p.confidence),
        )
        .map_err(|source| StoreError::Parquet {
            path: path.clone(),
            source,
        })?;
        write_parquet(path, frame)
    }

    /// Reads the predictions of one trial back; `None` when it kept none.
    ///
    /// # Errors
    /// When the file is there but cannot be read or lacks a column.
    pub fn read_predictions(&self, key: &str) -> Result<Option<Vec<Prediction>>, StoreError> {
        self.read_where(key, |_| Ok(None))
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
        let found = self.read_where(key, |frame| {
            let on = frame.column("dataset")?.str()?.equal(dataset);
            let among = frame
                .column("class_set")?
                .str()?
                .equal(class_set.to_string().as_str());
            Ok(Some(on & among))
        })?;
        Ok(found.map(|mut all| {
            let last = all.iter().map(|p| p.test_index).max();
            all.retain(|p| Some(p.test_index) == last);
            all
        }))
    }

    /// Reads the rows of a mask; every row where there is none. Text is only taken out of rows that are wanted.
    fn read_where(
        &self,
        key: &str,
        wanted: impl Fn(&DataFrame) -> PolarsResult<Option<BooleanChunked>>,
    ) -> Result<Option<Vec<Prediction>>, StoreError> {
        let path = self.predictions_path(key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        let read = || -> PolarsResult<Vec<Prediction>> {
            let mut frame = ParquetReader::new(file).finish()?;
            if let Some(mask) = wanted(&frame)? {
                frame = frame.filter(&mask)?;
            }
            rows(&frame)
        };
        read()
            .map(Some)
            .map_err(|source| StoreError::Parquet { path, source })
    }
}

/// Predictions from their frame.
fn rows(frame: &DataFrame) -> PolarsResult<Vec<Prediction>> {
    let test_index = frame.column("test_index")?.u32()?;
    let dataset = frame.column("dataset")?.str()?;
    let class_set = frame.column("class_set")?.str()?;
    let image = frame.column("image")?.str()?;
    let label = frame.column("label")?.u32()?;
    let predicted = frame.column("predicted")?.u32()?;
    let confidence = frame.column("confidence")?.f32()?;
    (0..frame.height())
        .map(|i| {
            let set: TestSet = class_set
                .get(i)
                .unwrap_or_default()
                .parse()
                .map_err(|e: String| polars_err!(ComputeError: "row {i}: class_set: {e}"))?;
            let row = || {
                Some(Prediction {
                    test_index: test_index.get(i)?,
                    dataset: dataset.get(i)?.to_owned(),
                    class_set: set,
                    image: image.get(i)?.to_owned(),
                    label: label.get(i)?,
                    predicted: predicted.get(i)?,
                    confidence: confidence.get(i)?,
                })
            };
            row().ok_or_else(|| polars_err!(ComputeError: "row {i}: a value is missing"))
        })
        .collect()
}

/// Puts a frame at `path` as parquet, whole or not at all.
pub(super) fn write_parquet(path: PathBuf, mut frame: DataFrame) -> Result<(), StoreError> {
    let aside = file::aside(&path);
    let written = File::create(&aside)
        .map_err(|source| StoreError::Io {
            path: aside.clone(),
            source,
        })
        .and_then(|mut target| {
            ParquetWriter::new(&mut target)
                .finish(&mut frame)
                .map_err(|source| StoreError::Parquet {
                    path: path.clone(),
                    source,
                })?;
            target.sync_all().map_err(|source| StoreError::Io {
                path: aside.clone(),
                source,
            })
        });
    if let Err(error) = written {
        // Best effort: the error that matters is the first one.
        let _ = std::fs::remove_file(&aside);
        return Err(error);
    }
    file::settle(&aside, &path)
}
