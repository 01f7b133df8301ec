//! What a pickle describes: Python objects in one list, each known by its number.
//!
//! Objects name each other by number, so one that holds itself, or a thousand times the same, is no danger, and nothing recurses.
//! Read next: `unpickle.rs`, which makes them.

use std::sync::Arc;

/// An object's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(pub(super) u32);

/// An object.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `None`
    None,
    /// `True` or `False`
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A float.
    Float(f64),
    /// A string.
    Text(String),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list.
    List(Vec<Id>),
    /// A dict or `OrderedDict`; of equal keys the last counts.
    Dict(Vec<(Id, Id)>),
    /// A class or function by its full name.
    Global(Arc<str>),
    /// Numbers in a file beside the pickle: class, the file's key, how many.
    Storage(Storage),
    /// A view of a storage.
    Tensor(View),
    /// Anything else: of what class, or made by what.
    Opaque(Arc<str>),
}

/// Numbers in a file beside the pickle.
#[derive(Debug, Clone, PartialEq)]
pub struct Storage {
    /// Its class, as in `FloatStorage`.
    pub class: String,
    /// The file's name below `data/`.
    pub key: String,
}

/// A tensor as PyTorch describes it: element (i, j, ...) is number `offset + i·stride[0] + j·stride[1] + ...` of the storage.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Where its numbers are.
    pub storage: Storage,
    /// The place of the first element.
    pub offset: usize,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How far apart neighbours in each dimension are.
    pub stride: Vec<usize>,
}

/// What a pickle described.
#[derive(Debug)]
pub struct Pickle {
    pub(super) nodes: Vec<Node>,
    /// The whole.
    pub root: Id,
}

impl Pickle {
    /// The object of a number.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The items of a dict whose keys are strings; none if it is something else.
    pub fn items(&self, id: Id) -> impl Iterator<Item = (&str, Id)> {
        let items: &[(Id, Id)] = if let Node::Dict(items) = self.node(id) { items } else { &[] };
        items.iter().filter_map(|&(key, value)| if let Node::Text(key) = self.node(key) { Some((key.as_str(), value)) } else { None })
    }

    /// What an object is, for messages.
    pub fn kind(&self, id: Id) -> String {
        match self.node(id) {
            Node::None => "None".into(),
            Node::Bool(_) => "a bool".into(),
            Node::Int(_) => "an int".into(),
            Node::Float(_) => "a float".into(),
            Node::Text(_) => "a string".into(),
            Node::Tuple(_) => "a tuple".into(),
            Node::List(_) => "a list".into(),
            Node::Dict(_) => "a dict".into(),
            Node::Global(name) => format!("the class {name}"),
            Node::Storage(_) => "a storage".into(),
            Node::Tensor(_) => "a tensor".into(),
            Node::Opaque(name) => format!("an object of {name}"),
        }
    }
}
