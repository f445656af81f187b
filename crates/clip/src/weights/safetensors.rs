//! Safetensors: a header of names, types and offsets, then the numbers.

use super::container::{Container, Held};
use super::stored::{Kind, Mapped, Record, Stored};
use super::{Format, foreign};
use crate::error::{Error, Fault};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Safetensors with any names; a text that happens to have a brace there is none.
pub(super) const CONTAINER: Container = Container {
    is_likely: |bytes| is_likely(bytes) && !foreign::is_text(bytes),
    read: |file| {
        Ok(Held {
            tensors: read(&file)?,
            ..Held::none(Format::Safetensors)
        })
    },
};

/// Whether this could be a safetensors file: a length and the brace of its header.
pub(super) fn is_likely(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{')
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F16 => Kind::F16,
        Dtype::BF16 => Kind::BF16,
        Dtype::F32 => Kind::F32,
        Dtype::F64 => Kind::F64,
        Dtype::I64 => Kind::I64,
        Dtype::I32 => Kind::I32,
        Dtype::I16 => Kind::I16,
        Dtype::I8 => Kind::I8,
        Dtype::U8 => Kind::U8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

/// Every tensor of the file, none of them read.
pub(super) fn read(file: &Arc<Mapped>) -> Result<BTreeMap<String, Stored>, Error> {
    let bytes = file.bytes();
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| {
        Error::weights(
            &file.path,
            "safetensors header",
            format!("{e}; the file has {} bytes", bytes.len()),
        )
    })?;
    let start = header + 8;
    let length = bytes.len() - start;
    let record = Record {
        file: file.clone(),
        start,
        length,
        checksum: 0,
        is_intact: OnceLock::new(),
    };
    let record = Arc::new(record);
    let mut tensors = BTreeMap::new();
    let mut faults = Vec::new();
    for (name, info) in metadata.tensors() {
        let stored = match kind_of(info.dtype) {
            Some(kind) => Stored::new(
                record.clone(),
                info.data_offsets.0,
                kind,
                info.shape.clone(),
                None,
            ),
            None => Err(format!(
                "is of type {:?}; half, bfloat16, single or double precision can be read",
                info.dtype
            )),
        };
        match stored {
            Ok(stored) => drop(tensors.insert(name, stored)),
            Err(problem) => faults.push(Fault::new(name, problem)),
        }
    }
    if faults.is_empty() {
        return Ok(tensors);
    }
    faults.sort_by(|a, b| a.field.cmp(&b.field));
    Err(Error::Weights {
        path: file.path.clone(),
        faults,
    })
}
