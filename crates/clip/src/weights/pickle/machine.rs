//! A pickle machine that builds data and nothing else.
//!
//! Opcodes as in Python's `pickletools`, protocols 0 to 5. No name in a pickle is ever looked up, let alone called:
//! a global is a piece of text, and "calling" one on the list of [`Role::of`] rearranges its arguments. Any other gives
//! a [`Node::Foreign`], of which nothing but the name is known: checkpoints carry the settings of their run beside the
//! weights. Where such a thing stands in the place of what is read, that is an error.

use super::graph::{Graph, Id, Node, Role, is_harmful};
use std::collections::HashMap;

/// Longest name of a global, and most arguments of one.
const LONGEST_NAME: usize = 256;
const MOST_ARGUMENTS: usize = 64;

/// A pickle that could not be read: where, and why.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Bytes from the start of the pickle.
    pub(super) at: usize,
    pub(super) problem: String,
}

/// Runs one pickle at the head of `bytes`; gives the top object and the number of bytes it took.
pub(super) fn run(graph: &mut Graph, bytes: &[u8]) -> Result<(Id, usize), Refusal> {
    let mut machine = Machine {
        graph,
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let at = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(top)) => match machine.graph.node(top) {
                Node::Foreign(name) | Node::Global(name, Role::Foreign) => {
                    let problem = not_needed(name);
                    return Err(Refusal { at, problem });
                }
                _ => return Ok((top, machine.at)),
            },
            Err(problem) => return Err(Refusal { at, problem }),
        }
    }
}

struct Machine<'a> {
    graph: &'a mut Graph,
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let left = &self.bytes[self.at..];
        let short = || {
            format!(
                "{count} bytes are announced and {} are left: the file is cut short",
                left.len()
            )
        };
        let count = usize::try_from(count).map_err(|_| short())?;
        let taken = left.get(..count).ok_or_else(short)?;
        self.at += count;
        Ok(taken)
    }

    fn number(&mut self, bytes: u64) -> Result<u64, String> {
        let little_endian = |n, b: &u8| n << 8 | u64::from(*b);
        Ok(self.take(bytes)?.iter().rev().fold(0, little_endian))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let left = &self.bytes[self.at..];
        let end = left
            .iter()
            .position(|&b| b == b'\n')
            .ok_or("a line has no end: the file is cut short")?;
        self.at += end + 1;
        std::str::from_utf8(&left[..end]).map_err(|_| "a line is not UTF-8".to_owned())
    }

    fn sized(&mut self, bytes: u64) -> Result<&'a [u8], String> {
        let length = self.number(bytes)?;
        self.take(length)
    }

    fn push(&mut self, node: Node) -> Result<(), String> {
        let id = self.graph.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    /// The stack above the last mark belongs to what that mark opened.
    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the stack is empty".to_owned());
        }
        Ok(self.stack.pop().expect("not empty"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id, String> {
        self.stack
            .last()
            .copied()
            .ok_or_else(|| "the stack is empty".to_owned())
    }

    fn text(&mut self, bytes: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "a text is not UTF-8")?;
        self.push(Node::Text(text.to_owned()))
    }

    /// A Python 2 string: text where it can be.
    fn old_text(&mut self, bytes: &[u8]) -> Result<(), String> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(Node::Text(text.to_owned())),
            Err(_) => self.push(Node::Bytes(bytes.to_vec())),
        }
    }

    fn long(&mut self, bytes: &[u8]) -> Result<(), String> {
        let is_negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if is_negative { 0xff } else { 0 }; 8];
        match wide.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(bytes);
                self.push(Node::Int(i64::from_le_bytes(wide)))
            }
            None => self.push(Node::Long(bytes.to_vec())),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        if module.len() + name.len() > LONGEST_NAME {
            return Err(format!(
                "global \"{}...\" has a name of {} bytes",
                shown(module),
                module.len() + name.len()
            ));
        }
        let full = format!("{module}.{name}");
        match Role::of(module, name) {
            Some(role) => self.push(Node::Global(full, role)),
            None if is_harmful(module, name) => Err(not_needed(&full)),
            None => {
                self.graph.remember_foreign(&full);
                self.push(Node::Global(full, Role::Foreign))
            }
        }
    }

    fn get(&mut self, key: u64) -> Result<(), String> {
        let id = *self
            .memo
            .get(&key)
            .ok_or_else(|| format!("memo {key} was never set"))?;
        self.stack.push(id);
        Ok(())
    }

    fn extend_dict(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        let pairs = items.chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err("a key has no value".to_owned());
        }
        match self.graph.node_mut(top) {
            Node::Dict(entries) => entries.extend(pairs.map(|p| (p[0], p[1]))),
            Node::Foreign(_) => {}
            other => return Err(format!("items are set on {}", describe(other))),
        }
        Ok(())
    }

    fn extend_list(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        match self.graph.node_mut(top) {
            Node::List(members) => members.extend(items),
            Node::Foreign(_) => {}
            other => return Err(format!("members are appended to {}", describe(other))),
        }
        Ok(())
    }

    fn arguments(&self, id: Id) -> Result<Vec<Id>, String> {
        match self.graph.list(id) {
            Some(given) if given.len() <= MOST_ARGUMENTS => Ok(given.to_vec()),
            Some(given) => Err(format!("{} arguments", given.len())),
            None => Err("arguments are not a tuple".to_owned()),
        }
    }

    /// The name of what weights do not need: a class, or what came of one.
    fn foreign(&self, id: Id) -> Option<String> {
        match self.graph.node(id) {
            Node::Foreign(name) | Node::Global(name, Role::Foreign) => Some(name.clone()),
            _ => None,
        }
    }

    /// "Calls" a global.
    fn reduce(&mut self, function: Id, arguments: Id) -> Result<(), String> {
        if let Some(name) = self.foreign(function) {
            return self.push(Node::Foreign(name));
        }
        let Node::Global(name, role) = self.graph.node(function).clone() else {
            return Err(format!("{} is called", describe(self.graph.node(function))));
        };
        let given = self.arguments(arguments)?;
        let wrong = || format!("{name} has {} arguments of the wrong kind", given.len());
        let node = match role {
            Role::Tensor => self.tensor(&name, &given).ok_or_else(wrong)?,
            Role::First => {
                self.stack.push(*given.first().ok_or_else(wrong)?);
                return Ok(());
            }
            Role::FromType => {
                let [inner, _class, arguments, ..] = given[..] else {
                    return Err(wrong());
                };
                if let Some(name) = self.foreign(inner) {
                    return self.push(Node::Foreign(name));
                }
                match self.graph.node(inner) {
                    Node::Global(_, Role::Tensor | Role::First) => {
                        return self.reduce(inner, arguments);
                    }
                    _ => return Err(wrong()),
                }
            }
            Role::Dict => Node::Dict(match given.first() {
                None => Vec::new(),
                Some(&pairs) => {
                    let pairs = self.graph.list(pairs).ok_or_else(wrong)?;
                    let pair = |&p| {
                        self.graph
                            .list(p)
                            .and_then(|p| Some((*p.first()?, *p.get(1)?)))
                    };
                    pairs
                        .iter()
                        .map(pair)
                        .collect::<Option<_>>()
                        .ok_or_else(wrong)?
                }
            }),
            Role::DefaultDict => Node::Dict(Vec::new()),
            Role::List => Node::List(match given.first() {
                None => Vec::new(),
                Some(&items) => self.graph.list(items).ok_or_else(wrong)?.to_vec(),
            }),
            Role::Encode => {
                let text = given
                    .first()
                    .and_then(|&t| self.graph.text(t))
                    .ok_or_else(wrong)?;
                let latin1 = |c: char| u8::try_from(u32::from(c)).ok();
                Node::Bytes(
                    text.chars()
                        .map(latin1)
                        .collect::<Option<_>>()
                        .ok_or_else(wrong)?,
                )
            }
            Role::Name => return Err(format!("{name} is called")),
            Role::Foreign => Node::Foreign(name),
            Role::Class => self.object(name, &given)?,
        };
        self.push(node)
    }

    /// An instance; `copyreg._reconstructor(class, ...)` is one of its first argument.
    fn object(&mut self, name: String, arguments: &[Id]) -> Result<Node, String> {
        let class = match arguments.first().map(|&c| self.graph.node(c)) {
            Some(Node::Global(class, _)) if name.ends_with("._reconstructor") => class.clone(),
            _ => name,
        };
        let state = match arguments {
            [] => None,
            _ => Some(self.graph.add(Node::List(arguments.to_vec()))?),
        };
        Ok(Node::Object { class, state })
    }

    fn tensor(&self, name: &str, given: &[Id]) -> Option<Node> {
        let [storage, offset, shape, strides, ..] = given[..] else {
            return None;
        };
        if !matches!(self.graph.node(storage), Node::Persistent(_)) {
            return None;
        }
        let kind = match name {
            "torch._utils._rebuild_tensor_v3" => match self.graph.node(*given.get(6)?) {
                Node::Global(kind, Role::Name) => Some(kind.clone()),
                _ => return None,
            },
            _ => None,
        };
        Some(Node::Tensor {
            storage,
            offset: self.graph.size(offset)?,
            shape: self.graph.sizes(shape)?,
            strides: self.graph.sizes(strides)?,
            kind,
        })
    }

    fn new_object(&mut self, class: Id, arguments: Id) -> Result<(), String> {
        if let Some(name) = self.foreign(class) {
            return self.push(Node::Foreign(name));
        }
        match self.graph.node(class).clone() {
            Node::Global(name, Role::Class) => {
                let arguments = self.arguments(arguments)?;
                let object = self.object(name, &arguments)?;
                self.push(object)
            }
            Node::Global(_, Role::Dict | Role::DefaultDict) => self.push(Node::Dict(Vec::new())),
            Node::Global(_, Role::List) => self.reduce(class, arguments),
            other => Err(format!("an object is made of {}", describe(&other))),
        }
    }

    fn build(&mut self, state: Id) -> Result<(), String> {
        let top = self.top()?;
        match self.graph.node_mut(top) {
            Node::Object { state: held, .. } => *held = Some(state),
            // Attributes of an OrderedDict (`_metadata`) or of a parameter say nothing about the weights.
            Node::Dict(_) | Node::Tensor { .. } => {}
            // Nor does the state of what is not needed.
            Node::Foreign(_) | Node::Global(_, Role::Foreign) => {}
            other => return Err(format!("a state is given to {}", describe(other))),
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Id>, String> {
        let opcode = self
            .take(1)
            .map_err(|_| "there is no end: the file is cut short")?[0];
        match opcode {
            0x80 => match self.take(1)?[0] {
                0..=5 => {}
                version => return Err(format!("protocol {version}; 0 to 5 are known")),
            },
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'N' => self.push(Node::Nothing)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'J' => {
                let number = self.number(4)? as u32;
                self.push(Node::Int(i64::from(number.cast_signed())))?;
            }
            b'K' => {
                let number = self.take(1)?[0];
                self.push(Node::Int(number.into()))?;
            }
            b'M' => {
                let number = self.number(2)?;
                self.push(Node::Int(number.cast_signed()))?;
            }
            b'I' | b'L' => {
                let line = self.line()?;
                let node = match (line, line.strip_suffix('L').unwrap_or(line).parse()) {
                    ("01", _) => Node::Bool(true),
                    ("00", _) => Node::Bool(false),
                    (_, Ok(number)) => Node::Int(number),
                    _ => return Err(format!("{:?} is not a 64-bit integer", shown(line))),
                };
                self.push(node)?;
            }
            0x8a => {
                let bytes = self.sized(1)?;
                self.long(bytes)?;
            }
            0x8b => {
                let bytes = self.sized(4)?;
                self.long(bytes)?;
            }
            b'F' => {
                let line = self.line()?;
                let number = line
                    .parse()
                    .map_err(|_| format!("{:?} is not a number", shown(line)))?;
                self.push(Node::Float(number))?;
            }
            b'G' => {
                let number = self.number(8)?.swap_bytes();
                self.push(Node::Float(f64::from_bits(number)))?;
            }
            b'S' => {
                let line = self.line()?;
                let quoted = |q| line.strip_prefix(q).and_then(|l| l.strip_suffix(q));
                match quoted('\'').or_else(|| quoted('"')) {
                    Some(text) if !text.contains('\\') => self.text(text.as_bytes())?,
                    _ => return Err(format!("{:?} is not a plain quoted string", shown(line))),
                }
            }
            b'V' => {
                let line = self.line()?;
                self.text(line.as_bytes())?;
            }
            b'X' | 0x8c | 0x8d => {
                let bytes = self.sized(match opcode {
                    b'X' => 4,
                    0x8c => 1,
                    _ => 8,
                })?;
                self.text(bytes)?;
            }
            b'T' | b'U' => {
                let bytes = self.sized(if opcode == b'T' { 4 } else { 1 })?;
                self.old_text(bytes)?;
            }
            b'B' | b'C' | 0x8e | 0x96 => {
                let bytes = self.sized(match opcode {
                    b'B' => 4,
                    b'C' => 1,
                    _ => 8,
                })?;
                self.push(Node::Bytes(bytes.to_vec()))?;
            }
            b']' | b')' | 0x8f => self.push(Node::List(Vec::new()))?,
            b'l' | b't' | 0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Node::List(items))?;
            }
            0x85..=0x87 => {
                let mut items = (0x85..=opcode)
                    .map(|_| self.pop())
                    .collect::<Result<Vec<_>, _>>()?;
                items.reverse();
                self.push(Node::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.extend_list(&items)?;
            }
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Dict(Vec::new()))?;
                self.extend_dict(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_dict(&items)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id| self.graph.text(id).map(str::to_owned);
                let (module, name) = text(module)
                    .zip(text(name))
                    .ok_or("a global is not named by texts")?;
                self.global(&module, &name)?;
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.reduce(function, arguments)?;
            }
            0x81 => {
                let (arguments, class) = (self.pop()?, self.pop()?);
                self.new_object(class, arguments)?;
            }
            0x92 => {
                let (_keywords, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.new_object(class, arguments)?;
            }
            b'b' => {
                let state = self.pop()?;
                self.build(state)?;
            }
            b'P' => {
                let line = self.line()?;
                let id = self.graph.add(Node::Text(line.to_owned()))?;
                self.push(Node::Persistent(id))?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            b'p' | b'g' => {
                let line = self.line()?;
                let key = line
                    .parse()
                    .map_err(|_| format!("{:?} is not a place in the memo", shown(line)))?;
                match opcode {
                    b'p' => drop(self.memo.insert(key, self.top()?)),
                    _ => self.get(key)?,
                }
            }
            b'q' | b'r' => {
                let key = self.number(if opcode == b'q' { 1 } else { 4 })?;
                self.memo.insert(key, self.top()?);
            }
            b'h' | b'j' => {
                let key = self.number(if opcode == b'h' { 1 } else { 4 })?;
                self.get(key)?;
            }
            0x94 => drop(self.memo.insert(self.memo.len() as u64, self.top()?)),
            _ => {
                let known = match opcode {
                    b'i' => " (INST)",
                    b'o' => " (OBJ)",
                    0x82..=0x84 => " (an extension code)",
                    0x97 | 0x98 => " (an out-of-band buffer)",
                    _ => "",
                };
                return Err(format!(
                    "opcode 0x{opcode:02x}{known} is not one that weights need"
                ));
            }
        }
        Ok(None)
    }
}

/// What is said of a global that is not on the list.
pub(in crate::weights) fn not_needed(name: &str) -> String {
    format!("global {name:?} is not one that weights need; nothing was executed")
}

/// The head of a text, for messages.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(60)]
}

fn describe(node: &Node) -> String {
    match node {
        Node::Nothing => "None".to_owned(),
        Node::Bool(_) => "a boolean".to_owned(),
        Node::Int(_) | Node::Long(_) | Node::Float(_) => "a number".to_owned(),
        Node::Text(_) | Node::Bytes(_) => "a text".to_owned(),
        Node::List(_) => "a list".to_owned(),
        Node::Dict(_) => "a dictionary".to_owned(),
        Node::Global(name, _) => name.clone(),
        Node::Object { class, .. } | Node::Foreign(class) => format!("an instance of {class}"),
        Node::Persistent(_) => "a storage".to_owned(),
        Node::Tensor { .. } => "a tensor".to_owned(),
    }
}

#[cfg(test)]
mod tests;
