//! Flat tables in parquet files, column by column: what `trials.parquet` and the predictions are made of.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType};
use parquet::data_type::{Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;

use super::{StoreError, file};

/// Zstandard's own default: higher levels gain a percent or two on such tables.
const LEVEL: i32 = 3;

/// The values of one column, a row each; `None` is null.
#[derive(Clone, Debug)]
pub(super) enum Values<'a> {
    /// UTF-8 text.
    Text(Vec<Option<Cow<'a, str>>>),
    /// Unsigned whole numbers of 32 bits.
    Small(Vec<Option<u32>>),
    /// Unsigned whole numbers of 64 bits.
    Whole(Vec<Option<u64>>),
    /// Floats of 32 bits.
    Single(Vec<Option<f32>>),
    /// Floats of 64 bits.
    Real(Vec<Option<f64>>),
}

impl Values<'_> {
    fn kind(&self) -> (Physical, Option<LogicalType>) {
        match self {
            Self::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Self::Small(_) => (Physical::INT32, Some(LogicalType::integer(32, false))),
            Self::Whole(_) => (Physical::INT64, Some(LogicalType::integer(64, false))),
            Self::Single(_) => (Physical::FLOAT, None),
            Self::Real(_) => (Physical::DOUBLE, None),
        }
    }

    /// Writes the next column of a row group. Parquet has no unsigned numbers of its own: their bits are stored, and
    /// the logical type says how to read them.
    fn write(&self, group: &mut SerializedRowGroupWriter<'_, &mut File>) -> Result<()> {
        match self {
            Self::Text(rows) => put::<ByteArrayType, _>(group, rows, |text| text.as_ref().into()),
            Self::Small(rows) => put::<Int32Type, _>(group, rows, |&n| n as i32),
            Self::Whole(rows) => put::<Int64Type, _>(group, rows, |&n| n as i64),
            Self::Single(rows) => put::<FloatType, _>(group, rows, |&x| x),
            Self::Real(rows) => put::<DoubleType, _>(group, rows, |&x| x),
        }
    }
}

fn put<T: DataType, V>(
    group: &mut SerializedRowGroupWriter<'_, &mut File>,
    rows: &[Option<V>],
    stored: impl Fn(&V) -> T::T,
) -> Result<()> {
    let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.is_some())).collect();
    let values: Vec<T::T> = rows.iter().flatten().map(stored).collect();
    let mut column = group
        .next_column()?
        .expect("the schema has a column for each that is written");
    column
        .typed::<T>()
        .write_batch(&values, Some(&levels), None)?;
    column.close()
}

/// Puts a table at `path`, whole or not at all. Every column has the same number of rows and may hold nulls.
pub(super) fn write(path: PathBuf, columns: &[(&str, Values<'_>)]) -> Result<(), StoreError> {
    let aside = file::aside(&path);
    let io = |source| StoreError::Io {
        path: aside.clone(),
        source,
    };
    let written = File::create(&aside).map_err(io).and_then(|mut target| {
        encode(&mut target, columns).map_err(|source| StoreError::Parquet {
            path: path.clone(),
            source,
        })?;
        target.sync_all().map_err(io)
    });
    if let Err(error) = written {
        // Best effort: the error that matters is the first one.
        let _ = std::fs::remove_file(&aside);
        return Err(error);
    }
    file::settle(&aside, &path)
}

fn encode(target: &mut File, columns: &[(&str, Values<'_>)]) -> Result<()> {
    let fields = columns.iter().map(|(name, values)| {
        let (physical, logical) = values.kind();
        Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(logical)
            .build()
            .map(Arc::new)
    });
    let schema = Type::group_type_builder("root")
        .with_fields(fields.collect::<Result<_>>()?)
        .build()?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(LEVEL)?))
        .build();
    let mut writer = SerializedFileWriter::new(target, Arc::new(schema), Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    for (_, values) in columns {
        values.write(&mut group)?;
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

/// A parquet file open for reading, without nulls where it is read.
pub(super) struct Columns {
    reader: SerializedFileReader<File>,
}

impl Columns {
    /// Opens the file at `path`; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be opened or is no parquet file.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, StoreError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(StoreError::Io {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        match SerializedFileReader::new(file) {
            Ok(reader) => Ok(Some(Self { reader })),
            Err(source) => Err(StoreError::Parquet {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// A column of text. The bytes are shared with the pages they came in; [`text`] looks at one.
    ///
    /// # Errors
    /// When there is no such column, it holds something else, or a value is missing.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<ByteArray>> {
        self.column::<ByteArrayType>(name)
    }

    /// A column of unsigned numbers of 32 bits.
    ///
    /// # Errors
    /// Those of [`Columns::texts`].
    pub(super) fn small(&self, name: &str) -> Result<Vec<u32>> {
        let stored = self.column::<Int32Type>(name)?;
        Ok(stored.into_iter().map(|n| n as u32).collect())
    }

    /// A column of floats of 32 bits.
    ///
    /// # Errors
    /// Those of [`Columns::texts`].
    pub(super) fn singles(&self, name: &str) -> Result<Vec<f32>> {
        self.column::<FloatType>(name)
    }

    fn column<T: DataType>(&self, name: &str) -> Result<Vec<T::T>> {
        let fail = |what: &str| ParquetError::General(format!("column {name}: {what}"));
        let schema = self.reader.metadata().file_metadata().schema_descr();
        let place = (0..schema.num_columns())
            .find(|&i| schema.column(i).path().parts() == [name])
            .ok_or_else(|| fail("is not there"))?;
        let about = schema.column(place);
        if about.physical_type() != T::get_physical_type() || about.max_rep_level() != 0 {
            return Err(fail("holds values of another type"));
        }
        let mut values = Vec::new();
        for i in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(i)?;
            let rows = usize::try_from(group.metadata().num_rows())
                .map_err(|_| fail("has a negative number of rows"))?;
            let before = values.len();
            let mut levels = Vec::new();
            let mut reader = get_typed_column_reader::<T>(group.get_column_reader(place)?);
            let mut read = 0;
            while read < rows {
                let (more, ..) =
                    reader.read_records(rows - read, Some(&mut levels), None, &mut values)?;
                if more == 0 {
                    return Err(fail("ends early"));
                }
                read += more;
            }
            if values.len() - before < rows {
                return Err(fail("a value is missing"));
            }
        }
        Ok(values)
    }
}

/// A value of [`Columns::texts`].
///
/// # Errors
/// When it is not UTF-8.
pub(super) fn text(value: &ByteArray) -> Result<&str> {
    std::str::from_utf8(value.data())
        .map_err(|error| ParquetError::General(format!("text that is not UTF-8: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_column_comes_back_and_nulls_and_strange_types_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        assert!(Columns::open(&path).unwrap().is_none());
        let columns = [
            (
                "text",
                Values::Text(vec![Some("é".into()), Some("".into())]),
            ),
            ("small", Values::Small(vec![Some(7), Some(u32::MAX)])),
            ("whole", Values::Whole(vec![Some(u64::MAX), None])),
            (
                "single",
                Values::Single(vec![Some(0.1), Some(f32::INFINITY)]),
            ),
            ("real", Values::Real(vec![None, Some(-0.1)])),
        ];
        write(path.clone(), &columns).unwrap();
        let read = Columns::open(&path).unwrap().unwrap();
        let texts = read.texts("text").unwrap();
        assert_eq!(
            texts.iter().map(|t| text(t).unwrap()).collect::<Vec<_>>(),
            ["é", ""]
        );
        assert_eq!(read.small("small").unwrap(), [7, u32::MAX]);
        assert_eq!(read.singles("single").unwrap(), [0.1, f32::INFINITY]);
        for (wrong, said) in [
            (
                read.column::<Int64Type>("whole").unwrap_err(),
                "a value is missing",
            ),
            (
                read.column::<DoubleType>("real").unwrap_err(),
                "a value is missing",
            ),
            (read.small("text").unwrap_err(), "another type"),
            (read.small("none").unwrap_err(), "is not there"),
        ] {
            let wrong = wrong.to_string();
            assert!(wrong.contains(said), "{wrong}\nnot: {said}");
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left over"
        );
    }
}
