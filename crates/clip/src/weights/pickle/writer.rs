//! Checkpoints that `torch.load` reads, with `weights_only` or without.

use super::super::stored::{Kind, packed};
use super::super::zip::ArchiveWriter;
use crate::error::Error;
use candle_core::{DType, Tensor};
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

/// What a checkpoint is made of.
#[derive(Clone, Debug)]
pub enum Value {
    /// `None`.
    Nothing,
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A dictionary with texts for keys.
    Dict(Vec<(String, Value)>),
    /// A `state_dict`: an `OrderedDict` of tensors.
    State(Vec<(String, Tensor)>),
    /// A tensor of f16, bf16, f32, f64, i64 or u8.
    Tensor(Tensor),
}

/// Writes `value` as `torch.save` of torch 1.6 and later does: a zip archive with a pickle of protocol 2 and one
/// record per tensor. The same value gives the same bytes.
///
/// # Errors
/// When the file cannot be written, a tensor is of a type torch has no storage for, or all is larger than 4 GiB.
pub fn write(path: &Path, value: &Value) -> Result<(), Error> {
    let mut pickler = Pickler {
        out: b"\x80\x02".to_vec(),
        tensors: Vec::new(),
    };
    pickler.value(value).map_err(Error::file(path))?;
    pickler.out.push(b'.');
    let file = File::create(path).map_err(Error::file(path))?;
    let mut archive = ArchiveWriter::new(BufWriter::new(file));
    let mut record = |name: &str, bytes: &[u8]| {
        archive
            .record(&format!("archive/{name}"), bytes)
            .map_err(Error::file(path))
    };
    record("data.pkl", &pickler.out)?;
    record("byteorder", b"little")?;
    for (key, tensor) in pickler.tensors.iter().enumerate() {
        record(&format!("data/{key}"), &bytes(tensor)?)?;
    }
    record("version", b"3\n")?;
    archive.finish().map_err(Error::file(path))
}

/// Little-endian numbers, row-major.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>, Error> {
    fn each<T: candle_core::WithDType, const N: usize>(
        tensor: &Tensor,
        write: fn(T) -> [u8; N],
    ) -> Result<Vec<u8>, Error> {
        Ok(tensor
            .flatten_all()?
            .to_vec1::<T>()?
            .into_iter()
            .flat_map(write)
            .collect())
    }
    match tensor.dtype() {
        DType::F16 => each(tensor, half::f16::to_le_bytes),
        DType::BF16 => each(tensor, half::bf16::to_le_bytes),
        DType::F32 => each(tensor, f32::to_le_bytes),
        DType::F64 => each(tensor, f64::to_le_bytes),
        DType::I64 => each(tensor, i64::to_le_bytes),
        _ => each(tensor, u8::to_le_bytes),
    }
}

struct Pickler {
    out: Vec<u8>,
    /// By storage key.
    tensors: Vec<Tensor>,
}

impl Pickler {
    fn text(&mut self, text: &str) -> io::Result<()> {
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        self.out.push(b'X');
        self.out.extend(length.to_le_bytes());
        self.out.extend(text.as_bytes());
        Ok(())
    }

    fn integer(&mut self, number: i64) {
        match i32::try_from(number) {
            Ok(number) => {
                self.out.push(b'J');
                self.out.extend(number.to_le_bytes());
            }
            Err(_) => {
                self.out.extend([0x8a, 8]);
                self.out.extend(number.to_le_bytes());
            }
        }
    }

    fn sizes(&mut self, sizes: &[usize]) {
        self.out.push(b'(');
        for &size in sizes {
            self.integer(
                size.try_into()
                    .expect("no tensor is larger than i64 counts"),
            );
        }
        self.out.push(b't');
    }

    fn value(&mut self, value: &Value) -> io::Result<()> {
        match value {
            Value::Nothing => self.out.push(b'N'),
            Value::Bool(truth) => self.out.push(if *truth { 0x88 } else { 0x89 }),
            Value::Int(number) => self.integer(*number),
            Value::Float(number) => {
                self.out.push(b'G');
                self.out.extend(number.to_be_bytes());
            }
            Value::Text(text) => self.text(text)?,
            Value::List(items) => {
                self.out.extend(b"](");
                for item in items {
                    self.value(item)?;
                }
                self.out.push(b'e');
            }
            Value::Dict(entries) => {
                self.out.extend(b"}(");
                for (key, value) in entries {
                    self.text(key)?;
                    self.value(value)?;
                }
                self.out.push(b'u');
            }
            Value::State(entries) => {
                self.out.extend(b"ccollections\nOrderedDict\n)R(");
                for (key, tensor) in entries {
                    self.text(key)?;
                    self.tensor(tensor)?;
                }
                self.out.push(b'u');
            }
            Value::Tensor(tensor) => self.tensor(tensor)?,
        }
        Ok(())
    }

    /// `_rebuild_tensor_v2(("storage", class, key, "cpu", count), 0, shape, strides, False, OrderedDict())`
    fn tensor(&mut self, tensor: &Tensor) -> io::Result<()> {
        let class = match tensor.dtype() {
            DType::F16 => "HalfStorage",
            DType::BF16 => "BFloat16Storage",
            DType::F32 => "FloatStorage",
            DType::F64 => "DoubleStorage",
            DType::I64 => "LongStorage",
            DType::U8 => "ByteStorage",
            other => {
                return Err(io::Error::other(format!(
                    "a tensor of {other:?} has no storage class of torch"
                )));
            }
        };
        debug_assert!(
            super::kind_of(class).is_some_and(|k: Kind| k.size() == tensor.dtype().size_in_bytes())
        );
        self.out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage")?;
        self.out.extend(format!("ctorch\n{class}\n").as_bytes());
        self.text(&self.tensors.len().to_string())?;
        self.text("cpu")?;
        self.integer(tensor.elem_count().try_into().map_err(io::Error::other)?);
        self.out.extend(b"tQK\x00");
        self.sizes(tensor.dims());
        self.sizes(&packed(tensor.dims()));
        self.out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        self.tensors.push(tensor.clone());
        Ok(())
    }
}
