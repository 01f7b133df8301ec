//! The state while the body of a kernel is decoded: names, virtual registers, drafts of instructions.
//!
//! Not what each instruction means: that is `lower.rs` (read `operands.rs` next). Functions that a kernel calls are copied into it, so
//! that there is no call stack: their parameters lie in local memory.

use std::collections::HashMap;

use super::{ParseError, Place, text};
use crate::machine::{
    instruction::Operation,
    registers::{Class, Form},
};

/// An instruction whose operands are virtual registers.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub operation: Operation,
    pub operands: Vec<Operand>,
    /// The predicate that guards it, and whether it is negated.
    pub guard: Option<(u32, bool)>,
    /// Index into the places (file and line).
    pub place: u32,
}

/// A virtual register in an instruction, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub register: u32,
    pub defines: bool,
}

/// A register whose value a launch fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fixed {
    /// These bits.
    Bits(u64),
    /// A special register (`%tid.x`, ...).
    Special(Special),
    /// Bytes of a parameter, extended by their sign or by zeros.
    Parameter { offset: u32, size: u8, signed: bool },
    /// Where the launch keeps its parameters in memory, plus an offset.
    ParameterAddress(u32),
    /// Where a variable of the module lies, plus an offset.
    Variable { index: u32, offset: i64 },
    /// Where dynamic shared memory begins.
    DynamicShared,
}

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Thread(u8),
    BlockSize(u8),
    Block(u8),
    Grid(u8),
    Lane,
    Warp,
    Warps,
    LanesEqual,
    LanesLess,
    LanesLessEqual,
    LanesGreater,
    LanesGreaterEqual,
    DynamicSharedBytes,
    Zero,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Symbol {
    Register(u32),
    Shared(u32),
    DynamicShared,
    Local(u32),
    Variable(u32),
    Parameter(u32),
}

/// A function that kernels may call.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub results: Vec<Declared>,
    pub parameters: Vec<Declared>,
    pub body: Vec<text::Piece>,
}

/// A declared name with its size and alignment.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub name: String,
    pub bytes: u32,
    pub align: u32,
}

/// The names of a function's own labels, and where its `ret` goes (none: the thread ends).
#[derive(Default)]
pub(crate) struct Frame {
    labels: HashMap<String, u32>,
    pub end: Option<u32>,
    pub tables: HashMap<String, Vec<String>>,
    pub last_label: String,
}

impl Frame {
    /// Of a called function, whose `ret` goes to this label.
    pub fn called(end: u32) -> Frame {
        Frame { end: Some(end), ..Frame::default() }
    }
}

/// What all kernels of a module share while they are decoded.
pub(crate) struct Shared<'a> {
    pub functions: &'a HashMap<String, Function>,
    pub symbols: &'a HashMap<String, Symbol>,
    /// `.shared` variables outside of kernels.
    pub shared: &'a HashMap<String, Declared>,
}

/// Bytes between two shared arrays that belong to nobody: an index past the end of one is found.
const RED_ZONE: u32 = 64;

pub(crate) struct Builder<'a> {
    pub module: &'a Shared<'a>,
    pub classes: Vec<Class>,
    pub fixed: Vec<(u32, Fixed)>,
    fixed_registers: HashMap<(Fixed, Class), u32>,
    scopes: Vec<HashMap<String, Symbol>>,
    pub frames: Vec<Frame>,
    pub code: Vec<Draft>,
    pub label_places: Vec<Option<u32>>,
    pub places: Vec<Place>,
    pub place: u32,
    pub guard: Option<(u32, bool)>,
    pub line: u32,
    /// Start and end of every shared array.
    pub shared: Vec<(u32, u32)>,
    shared_names: HashMap<String, u32>,
    pub shared_end: u32,
    pub shared_bytes: u32,
    pub local_bytes: u32,
    pub forms: HashMap<String, Option<Form>>,
    pub depth: u32,
}

impl<'a> Builder<'a> {
    pub fn new(module: &'a Shared<'a>) -> Builder<'a> {
        Builder {
            module,
            classes: Vec::new(),
            fixed: Vec::new(),
            fixed_registers: HashMap::new(),
            scopes: vec![HashMap::new()],
            frames: vec![Frame::default()],
            code: Vec::new(),
            label_places: Vec::new(),
            places: vec![Place::default()],
            place: 0,
            guard: None,
            line: 0,
            shared: Vec::new(),
            shared_names: HashMap::new(),
            shared_end: 0,
            shared_bytes: 0,
            local_bytes: 0,
            forms: HashMap::new(),
            depth: 0,
        }
    }

    // ---- Names

    pub fn open_scope(&mut self) {
        self.scopes.push(HashMap::new());
    }

    pub fn close_scope(&mut self) {
        self.scopes.pop();
    }

    /// Hides all names of the caller while a called function is copied in.
    pub fn swap_scopes(&mut self, scopes: Vec<HashMap<String, Symbol>>) -> Vec<HashMap<String, Symbol>> {
        std::mem::replace(&mut self.scopes, scopes)
    }

    pub fn name(&mut self, name: &str, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_string(), symbol);
        }
    }

    pub fn symbol(&mut self, name: &str) -> Option<Symbol> {
        if let Some(symbol) = self.scopes.iter().rev().find_map(|scope| scope.get(name)) {
            return Some(*symbol);
        }
        if let Some(array) = self.module.shared.get(name) {
            let array = array.clone();
            return Some(Symbol::Shared(self.shared_array(&array)));
        }
        self.module.symbols.get(name).copied()
    }

    /// The offset of a shared array, which is placed at its first mention.
    pub fn shared_array(&mut self, array: &Declared) -> u32 {
        if let Some(offset) = self.shared_names.get(&array.name) {
            return *offset;
        }
        let offset = self.shared_end.next_multiple_of(array.align.max(64));
        self.shared_bytes = self.shared_bytes.next_multiple_of(array.align.max(1)) + array.bytes;
        self.shared_end = (offset + array.bytes).next_multiple_of(64) + RED_ZONE;
        self.shared.push((offset, offset + array.bytes));
        self.shared_names.insert(array.name.clone(), offset);
        offset
    }

    /// Room in the local memory of every thread.
    pub fn local_array(&mut self, bytes: u32, align: u32) -> u32 {
        let offset = self.local_bytes.next_multiple_of(align.max(8));
        self.local_bytes = offset + bytes;
        offset
    }

    // ---- Labels

    pub fn new_label(&mut self) -> u32 {
        self.label_places.push(None);
        self.label_places.len() as u32 - 1
    }

    pub fn label(&mut self, name: &str) -> u32 {
        let next = self.label_places.len() as u32;
        let Some(frame) = self.frames.last_mut() else { return next };
        let label = *frame.labels.entry(name.to_string()).or_insert(next);
        if label == next {
            self.label_places.push(None);
        }
        label
    }

    pub fn place_label(&mut self, label: u32) {
        self.label_places[label as usize] = Some(self.code.len() as u32);
    }

    // ---- Registers

    pub fn new_register(&mut self, class: Class) -> u32 {
        self.classes.push(class);
        self.classes.len() as u32 - 1
    }

    /// The register that holds a fixed value.
    pub fn fixed(&mut self, value: Fixed, class: Class) -> u32 {
        if let Some(register) = self.fixed_registers.get(&(value, class)) {
            return *register;
        }
        let register = self.new_register(class);
        self.fixed.push((register, value));
        self.fixed_registers.insert((value, class), register);
        register
    }

    pub fn constant(&mut self, bits: u64, class: Class) -> u32 {
        let bits = match class {
            Class::Word => bits as u32 as u64,
            Class::Double => bits,
            Class::Predicate => (bits != 0) as u64,
        };
        self.fixed(Fixed::Bits(bits), class)
    }

    // ---- Instructions

    /// Adds an instruction: what it writes, then what it reads (`NONE` for what is absent).
    pub fn push(&mut self, operation: Operation, defines: &[u32], reads: &[u32]) {
        let operands = defines
            .iter()
            .map(|r| Operand { register: *r, defines: true })
            .chain(reads.iter().map(|r| Operand { register: *r, defines: false }))
            .collect();
        self.code.push(Draft { operation, operands, guard: self.guard, place: self.place });
    }

    /// The lane-wise form of this name.
    pub fn form(&mut self, name: &str) -> Option<Form> {
        if let Some(form) = self.forms.get(name) {
            return *form;
        }
        let form = crate::machine::families::form(name);
        self.forms.insert(name.to_string(), form);
        form
    }

    /// Adds a lane-wise instruction.
    pub fn lanes(&mut self, name: &str, destination: u32, sources: &[u32]) -> Result<(), String> {
        let form = self.form(name).ok_or_else(|| format!("unsupported instruction {name}"))?;
        if form.arguments.len() != sources.len() {
            return Err(format!("{name} takes {} operands, not {}", form.arguments.len(), sources.len()));
        }
        let operation = Operation::Lanes { run: form.handlers.best(), flops: flops(name) };
        self.push(operation, &[destination], sources);
        Ok(())
    }

    pub fn fail(&self, text: &str, why: String) -> ParseError {
        ParseError::new(self.line, text, &why)
    }
}

/// Floating-point operations of a lane.
fn flops(name: &str) -> u8 {
    let (base, kind) = (name.split('.').next().unwrap_or(""), name.rsplit('.').next().unwrap_or(""));
    let one = match base {
        "fma" | "mad" => 2,
        "add" | "sub" | "mul" | "div" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => 1,
        _ => 0,
    };
    match kind {
        "f32" | "f64" | "f16" | "bf16" => one,
        "f16x2" | "bf16x2" => 2 * one,
        _ => 0,
    }
}
