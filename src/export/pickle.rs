//! Writes Python objects as a pickle, protocol 2: the little of it that PyTorch's state dicts need.
//!
//! A pickle is a program for a stack machine; `unpickle.rs` has the machine. Tensors are written as PyTorch does: a call of
//! `torch._utils._rebuild_tensor_v2` on a storage, which is a file of its own beside the pickle. Every name that is called here is one
//! that `torch.load(weights_only=True)` allows. Read next: `objects.rs`, `unpickle.rs`.

use crate::train::Array;

/// A Python object.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`
    None,
    /// `True` or `False`
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// A string.
    Text(String),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A list.
    List(Vec<Value>),
    /// A dict.
    Dict(Vec<(Value, Value)>),
    /// An `OrderedDict` with strings for keys: a state dict.
    Ordered(Vec<(String, Value)>),
    /// A tensor: shape and numbers.
    Tensor(Vec<usize>, Array),
}

impl Value {
    /// A dict with strings for keys.
    pub fn dict<'a>(items: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
        Value::Dict(items.into_iter().map(|(key, value)| (Value::Text(key.into()), value)).collect())
    }
}

/// A pickle under way, and the storages that its tensors need.
#[derive(Debug, Default)]
pub struct Pickler {
    out: Vec<u8>,
    storages: Vec<Vec<u8>>,
}

impl Pickler {
    /// The pickle of a value, and the bytes of storages 0, 1, 2, ...
    pub fn pickle(value: &Value) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut pickler = Pickler { out: vec![0x80, 2], storages: Vec::new() };
        pickler.value(value);
        pickler.out.push(b'.');
        (pickler.out, pickler.storages)
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::None => self.out.push(b'N'),
            Value::Bool(true) => self.out.push(0x88),
            Value::Bool(false) => self.out.push(0x89),
            Value::Int(n) => self.int(*n),
            Value::Float(x) => {
                self.out.push(b'G');
                self.out.extend(x.to_be_bytes());
            }
            Value::Text(text) => self.text(text),
            Value::Tuple(items) => self.tuple(items),
            Value::List(items) => {
                self.out.extend(b"](");
                items.iter().for_each(|item| self.value(item));
                self.out.push(b'e');
            }
            Value::Dict(items) => {
                self.out.extend(b"}(");
                for (key, value) in items {
                    self.value(key);
                    self.value(value);
                }
                self.out.push(b'u');
            }
            Value::Ordered(items) => {
                self.ordered();
                self.out.push(b'(');
                for (key, value) in items {
                    self.text(key);
                    self.value(value);
                }
                self.out.push(b'u');
            }
            Value::Tensor(shape, array) => self.tensor(shape, array),
        }
    }

    /// An empty `OrderedDict`.
    fn ordered(&mut self) {
        self.out.extend(b"ccollections\nOrderedDict\n)R");
    }

    fn int(&mut self, n: i64) {
        if let Ok(n) = i32::try_from(n) {
            self.out.push(b'J');
            self.out.extend(n.to_le_bytes());
        } else {
            self.out.extend([0x8a, 8]);
            self.out.extend(n.to_le_bytes());
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push(b'X');
        self.out.extend((text.len() as u32).to_le_bytes());
        self.out.extend(text.as_bytes());
    }

    fn tuple(&mut self, items: &[Value]) {
        self.out.push(b'(');
        items.iter().for_each(|item| self.value(item));
        self.out.push(b't');
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`; the storage is named by a tuple that the reader hands to
    /// its `persistent_load`.
    fn tensor(&mut self, shape: &[usize], array: &Array) {
        let (class, bytes) = storage(array);
        let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().product());
        let tuple = |sides: &mut dyn Iterator<Item = usize>| sides.map(|n| Value::Int(n as i64)).collect::<Vec<_>>();
        self.out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.out.extend(format!("ctorch\n{class}\n").bytes());
        self.text(&self.storages.len().to_string());
        self.text("cpu");
        self.int(array.len() as i64);
        self.out.extend(b"tQ");
        self.int(0);
        self.tuple(&tuple(&mut shape.iter().copied()));
        self.tuple(&tuple(&mut { strides }));
        self.value(&Value::Bool(false));
        self.ordered();
        self.out.extend(b"tR");
        self.storages.push(bytes);
    }
}

/// PyTorch's name for a storage of these numbers, and its bytes.
fn storage(array: &Array) -> (&'static str, Vec<u8>) {
    match array {
        Array::F32(values) => ("FloatStorage", values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::F64(values) => ("DoubleStorage", values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::I64(values) => ("LongStorage", values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}
