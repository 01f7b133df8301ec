//! Reads a pickle without running any of it: a stack machine that knows what state dicts are made of.
//!
//! Python's own reader imports and calls whatever a pickle names, so a file from elsewhere can do anything. Here a call makes a tensor, an
//! `OrderedDict` or a size; a call of anything else makes [`Node::Opaque`], an object of which nothing but the name is known. The opcodes
//! are documented in CPython's `Lib/pickletools.py`. Read next: `pth.rs`.

use super::objects::{Id, Node, Pickle, Storage, View};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// The most objects, and items of dicts made at once, that a pickle may have. A state dict has some twenty for each tensor.
const MOST: usize = 4_000_000;

impl Pickle {
    /// Reads a pickle. Fails when it is damaged, or of a protocol that `torch.save` does not write.
    pub fn read(bytes: &[u8]) -> Result<Pickle> {
        let mut machine =
            Machine { bytes, at: 0, nodes: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), copied: 0 };
        let root = machine.run().map_err(|why| {
            Error::run(format!("its pickle cannot be read: {why} (byte {})", machine.at)).hint("copy or download the file again")
        })?;
        Ok(Pickle { nodes: machine.nodes, root })
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Items of dicts that were made from lists.
    copied: usize,
}

type Step<T> = std::result::Result<T, String>;

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<Id> {
        loop {
            let op = self.take(1)?[0];
            if op == b'.' {
                return self.pop();
            }
            self.step(op)?;
            if self.nodes.len() + self.copied > MOST {
                return Err(format!("it has more than {MOST} objects"));
            }
        }
    }

    fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        let part = self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end)).ok_or("it is cut short")?;
        self.at += n;
        Ok(part)
    }

    /// A little-endian number of so many bytes.
    fn number(&mut self, n: usize) -> Step<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    /// Bytes behind their length, a number of `n` bytes.
    fn counted(&mut self, n: usize) -> Step<&'a [u8]> {
        let length = usize::try_from(self.number(n)?).map_err(|_| "it is cut short")?;
        self.take(length)
    }

    fn push(&mut self, node: Node) {
        self.stack.push(Id(self.nodes.len() as u32));
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Step<Id> {
        // What lies below a mark belongs to something under way.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() > floor { self.stack.pop() } else { None }.ok_or_else(|| "its stack is empty".into())
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().copied().ok_or_else(|| "its stack is empty".into())
    }

    /// Everything above the last mark.
    fn marked(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn line(&mut self) -> Step<String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&b| b == b'\n').ok_or("it is cut short")?;
        self.at += length + 1;
        String::from_utf8(rest[..length].to_vec()).map_err(|_| "a name is not UTF-8".into())
    }

    fn text(&mut self, bytes: &[u8]) -> Step<()> {
        let text = std::str::from_utf8(bytes).map_err(|_| "a string is not UTF-8")?;
        self.push(Node::Text(text.into()));
        Ok(())
    }

    fn step(&mut self, op: u8) -> Step<()> {
        match op {
            // Protocol; frame
            0x80 => match self.number(1)? {
                2..=5 => {}
                other => return Err(format!("its protocol is {other}; torch.save writes 2")),
            },
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.marked()?),
            // Numbers and texts
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'J' => {
                let n = self.number(4)? as u32 as i32;
                self.push(Node::Int(n.into()));
            }
            b'K' | b'M' => {
                let n = self.number(if op == b'K' { 1 } else { 2 })?;
                self.push(Node::Int(n as i64));
            }
            0x8a | 0x8b => {
                let bytes = self.counted(if op == 0x8a { 1 } else { 4 })?;
                self.push(integer(bytes));
            }
            b'G' => {
                let bits = self.take(8)?.iter().fold(0, |n, &b| n << 8 | u64::from(b));
                self.push(Node::Float(f64::from_bits(bits)));
            }
            b'X' | 0x8c | 0x8d => {
                let bytes = self.counted(match op {
                    b'X' => 4,
                    0x8c => 1,
                    _ => 8,
                })?;
                self.text(bytes)?;
            }
            b'T' | b'U' | b'B' | b'C' | 0x8e => {
                self.counted(match op {
                    b'T' | b'B' => 4,
                    0x8e => 8,
                    _ => 1,
                })?;
                self.push(Node::Opaque("bytes".into()));
            }
            // Containers
            b'}' => self.push(Node::Dict(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b')' => self.push(Node::Tuple(Vec::new())),
            b't' => {
                let items = self.marked()?;
                self.push(Node::Tuple(items));
            }
            0x85..=0x87 => {
                let mut items = (0x85..=op).map(|_| self.pop()).collect::<Step<Vec<Id>>>()?;
                items.reverse();
                self.push(Node::Tuple(items));
            }
            0x8f => self.push(Node::Opaque("set".into())),
            0x91 => {
                self.marked()?;
                self.push(Node::Opaque("frozenset".into()));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item], false)?;
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.extend(&items, false)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend(&[key, value], true)?;
            }
            b'u' => {
                let items = self.marked()?;
                self.extend(&items, true)?;
            }
            // The memo
            b'q' | b'r' => {
                let key = self.number(if op == b'q' { 1 } else { 4 })?;
                self.memo.insert(key as u32, self.top()?);
            }
            0x94 => {
                self.memo.insert(self.memo.len() as u32, self.top()?);
            }
            b'h' | b'j' => {
                let key = self.number(if op == b'h' { 1 } else { 4 })?;
                let id = self.memo.get(&(key as u32)).ok_or("it names an object that it has not made")?;
                self.stack.push(*id);
            }
            // Names and calls
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                self.push(Node::Global(name.into()));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.nodes[module.0 as usize], &self.nodes[name.0 as usize]) {
                    (Node::Text(module), Node::Text(name)) => {
                        let name = format!("{module}.{name}").into();
                        self.push(Node::Global(name));
                    }
                    _ => return Err("a name is no string".into()),
                }
            }
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.call(callee, arguments)?;
            }
            0x92 => {
                let (_, arguments, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callee, arguments)?;
            }
            // The state of an object, which for a dict are attributes such as a state dict's `_metadata`.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id)?;
            }
            other => return Err(format!("the opcode {other:#04x} does not occur in what torch.save writes")),
        }
        Ok(())
    }

    /// Adds items to the list or dict on top; what is added to an unknown object is as unknown.
    fn extend(&mut self, items: &[Id], pairs: bool) -> Step<()> {
        let top = self.top()?.0 as usize;
        match &mut self.nodes[top] {
            Node::List(list) if !pairs => list.extend(items),
            Node::Dict(dict) if pairs && items.len().is_multiple_of(2) => {
                dict.extend(items.as_chunks().0.iter().map(|&[key, value]| (key, value)))
            }
            Node::Opaque(_) => {}
            _ => return Err("items are added to what cannot hold them".into()),
        }
        Ok(())
    }

    /// `callee(*arguments)`, for the few names that are known.
    fn call(&mut self, callee: Id, arguments: Id) -> Step<()> {
        let name = match &self.nodes[callee.0 as usize] {
            Node::Global(name) | Node::Opaque(name) => name.clone(),
            _ => return Err("it calls what is no function".into()),
        };
        let Node::Tuple(arguments) = &self.nodes[arguments.0 as usize] else { return Err("arguments are no tuple".into()) };
        // No call that is known reads more.
        let arguments: Vec<Id> = arguments.iter().take(4).copied().collect();
        match (&*name, arguments.as_slice()) {
            ("collections.OrderedDict", []) => self.push(Node::Dict(Vec::new())),
            ("collections.OrderedDict", [pairs]) => {
                let dict = self.pairs(*pairs).ok_or("an OrderedDict is not made of pairs")?;
                self.copied += dict.len();
                self.push(Node::Dict(dict));
            }
            ("torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor", [storage, offset, shape, stride, ..]) => {
                let view = self.view(*storage, *offset, *shape, *stride).ok_or("a tensor is described wrongly")?;
                self.push(Node::Tensor(view));
            }
            ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", [data, ..]) => self.stack.push(*data),
            ("torch.Size", [size]) => self.stack.push(*size),
            _ => self.push(Node::Opaque(name)),
        }
        Ok(())
    }

    fn pairs(&self, list: Id) -> Option<Vec<(Id, Id)>> {
        let Node::List(list) = &self.nodes[list.0 as usize] else { return None };
        let pair = |id: &Id| match &self.nodes[id.0 as usize] {
            Node::Tuple(pair) | Node::List(pair) => pair.as_slice().try_into().ok().map(|[key, value]: [Id; 2]| (key, value)),
            _ => None,
        };
        list.iter().map(pair).collect()
    }

    fn view(&self, storage: Id, offset: Id, shape: Id, stride: Id) -> Option<View> {
        let Node::Storage(storage) = &self.nodes[storage.0 as usize] else { return None };
        let (shape, stride) = (self.sides(shape)?, self.sides(stride)?);
        (shape.len() == stride.len()).then_some(())?;
        Some(View { storage: storage.clone(), offset: self.side(offset)?, shape, stride })
    }

    fn side(&self, id: Id) -> Option<usize> {
        if let Node::Int(n) = self.nodes[id.0 as usize] { usize::try_from(n).ok() } else { None }
    }

    fn sides(&self, id: Id) -> Option<Vec<usize>> {
        // No tensor has more dimensions than this; a longer one would only cost memory.
        let Node::Tuple(sides) = &self.nodes[id.0 as usize] else { return None };
        (sides.len() <= 8).then(|| sides.iter().map(|&side| self.side(side)).collect())?
    }

    /// What `torch.load` does with a persistent id: `("storage", class, key, place, count)` names a file.
    fn persistent(&mut self, id: Id) -> Step<()> {
        let Node::Tuple(parts) = &self.nodes[id.0 as usize] else { return Err("a persistent id is no tuple".into()) };
        let [kind, class, key, ..] = parts.as_slice() else { return Err("a persistent id is too short".into()) };
        match [kind, class, key].map(|id| &self.nodes[id.0 as usize]) {
            [Node::Text(kind), Node::Global(class), Node::Text(key)] if kind == "storage" && class.len().max(key.len()) <= 64 => {
                let class = class.rsplit('.').next().unwrap_or_default().to_string();
                self.push(Node::Storage(Storage { class, key: key.clone() }));
                Ok(())
            }
            _ => Err("a persistent id names no storage".into()),
        }
    }
}

/// Little-endian, two's complement, of any length.
fn integer(bytes: &[u8]) -> Node {
    if bytes.len() > 8 {
        return Node::Opaque("int".into());
    }
    let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xFF } else { 0 };
    let mut all = [fill; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(all))
}
