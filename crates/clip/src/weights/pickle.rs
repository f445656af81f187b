//! PyTorch's pickles as data: zip archives (torch 1.6 and later, and TorchScript) and the older single-file layout.
//!
//! The layouts are those of `torch/serialization.py` at v2.0.0 (`_save`, `_legacy_save`) and
//! `torch/csrc/jit/serialization/pickler.cpp`.

mod graph;
mod machine;
mod writer;

pub(super) use machine::not_needed;
pub use writer::{Value, write};

use super::foreign;
use super::stored::{Kind, Mapped, Record, Stored};
use super::zip::Archive;
use crate::error::Error;
use graph::{Graph, Id, Node};
use machine::{Refusal, run};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// What begins every file of the older layout: pickled in protocol 2, the number 0x1950a86a20f9469cfc6c.
pub(super) const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Dictionaries in dictionaries; PyTorch's module trees are not deeper.
const DEEPEST: usize = 64;
/// Places visited while flattening; shared objects count every time.
const MOST_VISITS: usize = 1_000_000;
/// Bytes of a key; the longest in PyTorch's own checkpoints are about 100.
const LONGEST_KEY: usize = 512;

/// An object of a pickle, with everything below it. Cheap to clone; tensors stay in the file until asked for.
#[derive(Clone, Debug)]
pub struct Tree {
    pickle: Arc<Pickle>,
    id: Id,
}

#[derive(Debug)]
struct Pickle {
    file: Arc<Mapped>,
    graph: Graph,
    storages: BTreeMap<String, Arc<Record>>,
    /// Of `torch.jit.save`: what the program beside the numbers, a text that nothing runs, calls.
    program: Option<Program>,
}

/// What the program of a TorchScript archive calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    /// `torch.sigmoid`, of which QuickGELU is made.
    pub(super) sigmoid: bool,
    /// `torch.gelu`.
    pub(super) gelu: bool,
}

/// Type of a storage class or dtype by its name.
fn kind_of(name: &str) -> Option<Kind> {
    Some(match name.rsplit('.').next()? {
        "HalfStorage" | "float16" | "half" => Kind::F16,
        "BFloat16Storage" | "bfloat16" => Kind::BF16,
        "FloatStorage" | "float32" | "float" => Kind::F32,
        "DoubleStorage" | "float64" | "double" => Kind::F64,
        "LongStorage" | "int64" | "long" => Kind::I64,
        "IntStorage" | "int32" | "int" => Kind::I32,
        "ShortStorage" | "int16" | "short" => Kind::I16,
        "CharStorage" | "int8" => Kind::I8,
        "ByteStorage" | "uint8" => Kind::U8,
        "BoolStorage" | "bool" => Kind::Bool,
        _ => return None,
    })
}

/// Reads a checkpoint written by `torch.save` or `torch.jit.save`, executing nothing.
///
/// # Errors
/// When the file cannot be read, is neither layout, is damaged, or holds an opcode or global that weights do not
/// need; the message names it.
pub fn read(path: &Path) -> Result<Tree, Error> {
    read_mapped(Mapped::open(path)?)
}

/// Reads a file that holds one plain pickle (`pickle.dump`, protocols 0 to 5), executing nothing: lists, dictionaries,
/// texts and numbers, and objects of the classes that checkpoints may hold (`dassl...`) with their attributes as data.
///
/// # Errors
/// As [`read`], and when bytes follow the pickle.
pub fn read_plain(path: &Path) -> Result<Tree, Error> {
    let file = Mapped::open(path)?;
    let mut graph = Graph::default();
    let (id, length) = run(&mut graph, file.bytes()).map_err(|r| refuse(&file, "pickle", 0, &r))?;
    if length != file.bytes().len() {
        let problem = format!(
            "ends after {length} of {} bytes; only one pickle is expected",
            file.bytes().len()
        );
        return Err(Error::weights(&file.path, "pickle", problem));
    }
    Ok(Tree {
        pickle: Arc::new(Pickle {
            file,
            graph,
            storages: BTreeMap::new(),
            program: None,
        }),
        id,
    })
}

pub(super) fn read_mapped(file: Arc<Mapped>) -> Result<Tree, Error> {
    if file.bytes().starts_with(b"PK\x03\x04") {
        read_zip(file)
    } else if file.bytes().starts_with(LEGACY_MAGIC) {
        read_legacy(file)
    } else {
        let what = foreign::file(file.bytes()).map_or(String::new(), |what| format!("; it {what}"));
        let problem = format!(
            "is not a file of torch.save: neither a zip archive nor the pickles of torch before 1.6{what}"
        );
        Err(Error::weights(&file.path, "file", problem))
    }
}

fn refuse(file: &Mapped, record: &str, start: usize, refusal: &Refusal) -> Error {
    Error::weights(
        &file.path,
        format!("{record}, byte {}", start + refusal.at),
        refusal.problem.clone(),
    )
}

fn read_zip(file: Arc<Mapped>) -> Result<Tree, Error> {
    let archive = Archive::open(&file)?;
    let is_weight = |name: &&String| name.ends_with("data.pkl") || name.contains("/data/");
    if let Some(name) = archive.compressed.iter().find(is_weight) {
        let problem = "is compressed; torch stores weights as they are, so load the file with torch and save it again";
        return Err(Error::weights(&file.path, name, problem));
    }
    let Some(folder) = archive.folder() else {
        let some: Vec<&String> = archive
            .records
            .keys()
            .chain(&archive.compressed)
            .take(4)
            .collect();
        let names = archive.records.keys().chain(&archive.compressed);
        let what = foreign::archive(names).map_or(String::new(), |what| format!("; it is {what}"));
        let problem =
            format!("has no data.pkl, so torch did not write it; it holds {some:?}{what}");
        return Err(Error::weights(&file.path, "zip archive", problem));
    };
    if let Some(order) = archive.records.get(&format!("{folder}byteorder"))
        && order.bytes() != b"little"
    {
        let problem =
            "numbers are stored with the high byte first; save again on a little-endian machine";
        return Err(Error::weights(&file.path, "byteorder", problem));
    }
    let pickle = &archive.records[&format!("{folder}data.pkl")];
    pickle.verify("data.pkl")?;
    let mut graph = Graph::default();
    let (id, _) = run(&mut graph, pickle.bytes()).map_err(|r| refuse(&file, "data.pkl", 0, &r))?;
    let storages = archive
        .records
        .iter()
        .filter_map(|(name, record)| {
            let key = name.strip_prefix(folder)?.strip_prefix("data/")?;
            Some((key.to_owned(), record.clone()))
        })
        .collect();
    let constants = format!("{folder}constants.pkl");
    let program = archive.records.contains_key(&constants).then(|| {
        let [sigmoid, gelu] = archive.mentions(".py", ["torch.sigmoid(", "torch.gelu("]);
        Program { sigmoid, gelu }
    });
    Ok(Tree {
        pickle: Arc::new(Pickle {
            file,
            graph,
            storages,
            program,
        }),
        id,
    })
}

/// Magic, protocol and system pickles, the object, a list of storage keys, then every storage: its count and bytes.
fn read_legacy(file: Arc<Mapped>) -> Result<Tree, Error> {
    let mut graph = Graph::default();
    let mut at = 0;
    let mut tops = [0; 5];
    for (top, name) in
        tops.iter_mut()
            .zip(["magic", "protocol", "system", "object", "storage keys"])
    {
        let read = run(&mut graph, &file.bytes()[at..]).map_err(|r| refuse(&file, name, at, &r))?;
        *top = read.0;
        at += read.1;
    }
    let [_, protocol, system, id, keys] = tops;
    if *graph.node(protocol) != Node::Int(1001) {
        return Err(Error::weights(
            &file.path,
            "protocol",
            "is not 1001, the one version of this layout",
        ));
    }
    if let Node::Dict(entries) = graph.node(system) {
        let little = |&(k, v): &(Id, Id)| {
            graph.text(k) == Some("little_endian") && *graph.node(v) == Node::Bool(false)
        };
        if entries.iter().any(little) {
            let problem = "numbers are stored with the high byte first; save again on a little-endian machine";
            return Err(Error::weights(&file.path, "system", problem));
        }
    }
    let sizes = storage_sizes(&graph);
    let keys = graph.list(keys).unwrap_or_default();
    let mut storages = BTreeMap::new();
    for key in keys.iter().filter_map(|&k| graph.text(k)) {
        let field = || format!("storage {key}");
        let Some(&size) = sizes.get(key) else {
            return Err(Error::weights(
                &file.path,
                field(),
                "no tensor refers to it",
            ));
        };
        let counted = file
            .bytes()
            .get(at..at + 8)
            .map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes")));
        let length = counted.and_then(|n| usize::try_from(n).ok()?.checked_mul(size));
        let start = at + 8;
        match length.filter(|l| {
            start
                .checked_add(*l)
                .is_some_and(|end| end <= file.bytes().len())
        }) {
            Some(length) => {
                let is_intact = OnceLock::new();
                let record = Record {
                    file: file.clone(),
                    start,
                    length,
                    checksum: 0,
                    is_intact,
                };
                storages.insert(key.to_owned(), Arc::new(record));
                at = start + length;
            }
            None => {
                let problem = format!(
                    "does not lie inside the {} bytes of the file: it is cut short",
                    file.bytes().len()
                );
                return Err(Error::weights(&file.path, field(), problem));
            }
        }
    }
    Ok(Tree {
        pickle: Arc::new(Pickle {
            file,
            graph,
            storages,
            program: None,
        }),
        id,
    })
}

/// Bytes of a number in every storage that is referred to, by key.
fn storage_sizes(graph: &Graph) -> BTreeMap<&str, usize> {
    let storages = (0..graph.len()).filter_map(|id| match graph.node(id) {
        Node::Persistent(inner) => storage(graph, *inner),
        _ => None,
    });
    storages
        .map(|(kind, key)| (key, kind.map_or(1, Kind::size)))
        .collect()
}

/// Type (`None` when untyped) and key of `("storage", class, key, location, count, ...)`.
fn storage(graph: &Graph, id: Id) -> Option<(Option<Kind>, &str)> {
    let [tag, class, key, rest @ ..] = graph.list(id)? else {
        return None;
    };
    // Torch before 0.4 could store a view of a storage, with an offset of its own.
    let is_whole = rest
        .get(2)
        .is_none_or(|&view| *graph.node(view) == Node::Nothing);
    let Node::Global(class, _) = graph.node(*class) else {
        return None;
    };
    let kind = kind_of(class);
    let is_known = kind.is_some() || class == "torch.storage.UntypedStorage";
    (graph.text(*tag) == Some("storage") && is_known && is_whole)
        .then_some((kind, graph.text(*key)?))
}

impl Tree {
    fn node(&self) -> &Node {
        self.pickle.graph.node(self.id)
    }

    fn child(&self, id: Id) -> Self {
        Self {
            pickle: self.pickle.clone(),
            id,
        }
    }

    /// The file this came from.
    pub fn path(&self) -> &Path {
        &self.pickle.file.path
    }

    /// Written by `torch.jit.save`.
    pub(super) fn is_torchscript(&self) -> bool {
        self.pickle.program.is_some()
    }

    /// What the program of a file of `torch.jit.save` calls.
    pub(super) fn program(&self) -> Option<Program> {
        self.pickle.program
    }

    /// Classes that the pickle names and that weights do not need, in order: none was executed, and what they would have
    /// made is not read.
    pub fn skipped(&self) -> Vec<String> {
        self.pickle.graph.foreign().iter().cloned().collect()
    }

    /// Where such things stand, by their keys joined with dots, and of which class they would be.
    pub(super) fn strangers(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let mut open = vec![(String::new(), self.clone(), 0)];
        let mut visits = 0;
        while let Some((name, tree, depth)) = open.pop() {
            if let Node::Foreign(class) = tree.node() {
                out.insert(name, class.clone());
                continue;
            }
            let entries = tree.entries();
            visits += entries.len();
            if depth >= DEEPEST || visits > MOST_VISITS || out.len() > LONGEST_KEY {
                break;
            }
            for (key, value) in entries {
                let joined = if name.is_empty() {
                    key
                } else {
                    format!("{name}.{key}")
                };
                open.push((joined, value, depth + 1));
            }
        }
        out
    }

    /// Keys and values of a dictionary, or attributes of an object, in order. Keys that are neither texts of
    /// at most 512 bytes nor integers are left out. Empty for anything else.
    pub fn entries(&self) -> Vec<(String, Self)> {
        let entries = match self.node() {
            Node::Dict(entries) => entries.as_slice(),
            Node::Object {
                state: Some(state), ..
            } => match self.pickle.graph.node(*state) {
                Node::Dict(entries) => entries.as_slice(),
                _ => &[],
            },
            _ => &[],
        };
        let named = |&(key, value): &(Id, Id)| match self.pickle.graph.node(key) {
            Node::Text(text) if text.len() <= LONGEST_KEY => {
                Some((text.clone(), self.child(value)))
            }
            Node::Int(number) => Some((number.to_string(), self.child(value))),
            _ => None,
        };
        entries.iter().filter_map(named).collect()
    }

    /// The value of a key of a dictionary or of an attribute; the last one if there are several.
    pub fn get(&self, key: &str) -> Option<Self> {
        self.entries()
            .into_iter()
            .rev()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v)
    }

    /// Members of a list, tuple or set; empty for anything else.
    pub fn items(&self) -> Vec<Self> {
        let items = self.pickle.graph.list(self.id).unwrap_or_default();
        items.iter().map(|&id| self.child(id)).collect()
    }

    /// Class of an object (`torch.optim.sgd.SGD`), if it is one.
    pub fn class(&self) -> Option<&str> {
        match self.node() {
            Node::Object { class, .. } => Some(class),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        self.pickle.graph.text(self.id)
    }

    /// The integer, if it is one.
    pub fn integer(&self) -> Option<i64> {
        match self.node() {
            Node::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self.node() {
            Node::Int(number) => Some(*number as f64),
            Node::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn truth(&self) -> Option<bool> {
        match self.node() {
            Node::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// `None` of Python.
    pub fn is_nothing(&self) -> bool {
        *self.node() == Node::Nothing
    }

    /// The tensor, if it is one.
    ///
    /// # Errors
    /// When its storage is missing, too short, or of a type that is not numbers; `field` names it.
    pub fn tensor(&self, field: &str) -> Result<Option<Stored>, Error> {
        let graph = &self.pickle.graph;
        let Node::Tensor {
            storage: place,
            offset,
            shape,
            strides,
            kind,
        } = self.node()
        else {
            return Ok(None);
        };
        let fault = |problem: String| Error::weights(self.path(), field, problem);
        let found = match graph.node(*place) {
            Node::Persistent(inner) => storage(graph, *inner),
            _ => None,
        };
        let (class, key) =
            found.ok_or_else(|| fault("its storage is of no known type".to_owned()))?;
        let kind = match kind {
            Some(name) => kind_of(name),
            None => class,
        };
        let kind = kind.ok_or_else(|| fault("its numbers are of no known type".to_owned()))?;
        let record = self.pickle.storages.get(key);
        let record = record.ok_or_else(|| fault(format!("storage {key} is not in the file")))?;
        // Offsets of untyped storages count bytes of nothing, so they are numbers here too.
        let offset = offset
            .checked_mul(kind.size())
            .ok_or_else(|| fault(format!("offset {offset}")))?;
        let stored = Stored::new(
            record.clone(),
            offset,
            kind,
            shape.clone(),
            Some(strides.clone()),
        );
        stored.map(Some).map_err(fault)
    }

    /// Every tensor below, by its keys joined with dots. Modules saved whole are walked as `state_dict` would.
    ///
    /// # Errors
    /// Those of [`tensor`](Self::tensor), and when the tree is deeper or larger than any model.
    pub fn tensors(&self) -> Result<BTreeMap<String, Stored>, Error> {
        let mut out = BTreeMap::new();
        let mut open = vec![(String::new(), self.clone(), 0)];
        let mut visits = 0;
        while let Some((name, tree, depth)) = open.pop() {
            if depth > DEEPEST || visits > MOST_VISITS || name.len() > DEEPEST * LONGEST_KEY {
                let problem = format!("more than {DEEPEST} levels or {MOST_VISITS} objects");
                return Err(Error::weights(self.path(), name, problem));
            }
            if let Some(tensor) = tree.tensor(&name)? {
                // Later entries come off the stack first, and of two with the same key the later counts.
                out.entry(name).or_insert(tensor);
                continue;
            }
            let entries = tree.entries();
            visits += entries.len();
            for (key, value) in entries {
                let is_table = tree.class().is_some()
                    && matches!(key.as_str(), "_parameters" | "_buffers" | "_modules");
                let joined = match (name.as_str(), is_table) {
                    (_, true) => name.clone(),
                    ("", false) => key,
                    (_, false) => format!("{name}.{key}"),
                };
                open.push((joined, value, depth + 1));
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
