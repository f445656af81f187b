//! What a pickle makes: objects that refer to each other, and the list of globals it may name.

use std::collections::BTreeSet;

/// Index of a node in its graph.
pub(super) type Id = usize;

/// Objects and members of lists. More than any checkpoint of CLIP has; a few bytes can ask for a copy of a long
/// list, so this is what bounds memory.
const MOST_MEMBERS: usize = 8_000_000;
/// Classes beside the weights that are remembered by name.
const MOST_FOREIGN: usize = 64;

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Nothing,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits, little-endian two's complement.
    Long(Vec<u8>),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// A list, tuple or set.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// `module.name` and what it may be used for.
    Global(String, Role),
    /// An instance of a class, as inert data.
    Object {
        class: String,
        state: Option<Id>,
    },
    /// What a global that weights do not need would have made: nothing but its name is known, whatever is done to it.
    Foreign(String),
    /// What a persistent id points to; the reader of the file knows.
    Persistent(Id),
    /// A view of a storage.
    Tensor {
        storage: Id,
        offset: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
        kind: Option<String>,
    },
}

/// What a global does when it is "called".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `_rebuild_tensor`, `_v2` and `_v3`: storage, offset, shape, strides.
    Tensor,
    /// `_rebuild_parameter`: its first argument is the tensor.
    First,
    /// `_rebuild_from_type_v2(function, type, arguments, state)`.
    FromType,
    /// A dictionary of pairs.
    Dict,
    /// `defaultdict(factory)`.
    DefaultDict,
    /// A list, tuple, set or `torch.Size` of its argument.
    List,
    /// `_codecs.encode(text, "latin1")`: bytes, as protocol 2 spells them.
    Encode,
    /// A storage class, a dtype: only its name matters.
    Name,
    /// A class whose instances are kept as inert data.
    Class,
    /// Not on the list: what it makes is a [`Node::Foreign`].
    Foreign,
}

/// Whether a global is one that pickles name to do harm: a file that asks for it is refused whole, though nothing
/// would be executed.
pub(super) fn is_harmful(module: &str, name: &str) -> bool {
    let root = module.split('.').next().unwrap_or(module);
    let functions = [
        "eval",
        "exec",
        "execfile",
        "compile",
        "open",
        "__import__",
        "breakpoint",
        "input",
    ];
    match root {
        "os" | "posix" | "nt" | "subprocess" | "commands" | "pty" | "sys" | "runpy"
        | "importlib" | "ctypes" | "socket" | "shutil" | "webbrowser" | "pickle" | "_pickle"
        | "marshal" | "pip" | "urllib" | "requests" | "code" | "bdb" | "pdb" => true,
        "builtins" | "__builtin__" => functions.contains(&name),
        _ => false,
    }
}

impl Role {
    /// The allow-list.
    pub(super) fn of(module: &str, name: &str) -> Option<Self> {
        let is_dtype = |name: &str| super::kind_of(name).is_some();
        Some(match (module, name) {
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => {
                Self::Tensor
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Self::First,
            ("torch._tensor", "_rebuild_from_type_v2") => Self::FromType,
            (
                "torch.jit._pickle",
                "build_intlist" | "build_doublelist" | "build_boollist" | "build_tensorlist",
            )
            | ("torch.jit._pickle", "restore_type_tag") => Self::First,
            ("collections", "OrderedDict") => Self::Dict,
            ("collections", "defaultdict") => Self::DefaultDict,
            ("builtins" | "__builtin__", "dict") => Self::Dict,
            ("builtins" | "__builtin__", "list" | "tuple" | "set" | "frozenset") => Self::List,
            ("builtins" | "__builtin__", "object" | "int" | "float" | "bool" | "str") => Self::Name,
            ("torch", "Size") => Self::List,
            ("_codecs", "encode") => Self::Encode,
            ("torch" | "torch.cuda" | "torch.storage", n) if n.ends_with("Storage") => Self::Name,
            ("torch", n) if is_dtype(n) => Self::Name,
            ("torch", "Tensor" | "device") | ("torch.nn.parameter", "Parameter" | "Buffer") => {
                Self::Class
            }
            ("copy_reg" | "copyreg", "_reconstructor") => Self::Class,
            // Scores that were left as numpy scalars beside the weights.
            ("numpy", "dtype" | "ndarray") => Self::Class,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct") => {
                Self::Class
            }
            // Modules, optimizers and schedulers saved whole: their attributes are data like any other.
            _ => {
                let packages = [
                    "__torch__",
                    "torch.nn.modules",
                    "torch.optim",
                    "clip",
                    "open_clip",
                    "dassl",
                    "trainers",
                ];
                let is_in = |package: &str| {
                    module == package
                        || module
                            .strip_prefix(package)
                            .is_some_and(|m| m.starts_with('.'))
                };
                return packages.into_iter().any(is_in).then_some(Self::Class);
            }
        })
    }
}

/// Everything one pickle made.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    members: usize,
    foreign: BTreeSet<String>,
}

impl Graph {
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Globals that weights do not need and that were named, up to a number.
    pub(super) fn foreign(&self) -> &BTreeSet<String> {
        &self.foreign
    }

    pub(super) fn remember_foreign(&mut self, name: &str) {
        if self.foreign.len() < MOST_FOREIGN {
            self.foreign.insert(name.to_owned());
        }
    }

    pub(super) fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id]
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    pub(super) fn add(&mut self, node: Node) -> Result<Id, String> {
        self.members += 1 + match &node {
            Node::List(items) => items.len(),
            Node::Dict(entries) => 2 * entries.len(),
            Node::Tensor { shape, strides, .. } => shape.len() + strides.len(),
            Node::Text(text)
            | Node::Global(text, _)
            | Node::Object { class: text, .. }
            | Node::Foreign(text) => text.len() / 8,
            Node::Bytes(bytes) | Node::Long(bytes) => bytes.len() / 8,
            _ => 0,
        };
        if self.members > MOST_MEMBERS {
            return Err(format!("more than {MOST_MEMBERS} objects"));
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    /// Members of a list or tuple.
    pub(super) fn list(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn size(&self, id: Id) -> Option<usize> {
        match self.node(id) {
            Node::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    pub(super) fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.list(id)?.iter().map(|&n| self.size(n)).collect()
    }
}
