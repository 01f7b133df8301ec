//! PTX text to a [`Module`]. Not a verifier: what ptxas would refuse may parse here.
//!
//! The way of a text: `text.rs` cuts it into pieces, `module.rs` finds variables, functions and kernels, `lower.rs` and
//! `effects.rs` give each instruction its meaning, `flow.rs` and `allocate.rs` give registers their rows. Read next: `text.rs`.

pub(crate) mod allocate;
pub(crate) mod builder;
mod effects;
mod flow;
pub(crate) mod lower;
mod module;
mod operands;
mod text;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// What one PTX text holds.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its kernels, in the order of the text.
    pub kernels: Vec<Kernel>,
    /// Its `.global` and `.const` variables; [`crate::Machine::variable`] tells where a machine keeps them.
    pub variables: Arc<[Variable]>,
    pub(crate) id: u64,
}

impl Module {
    /// The kernel of this name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}

/// A `.global` or `.const` variable of a module.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name in the PTX text.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    pub(crate) content: Vec<u8>,
    /// Places in the content that hold the address of another variable.
    pub(crate) addresses: Vec<(u64, usize)>,
}

/// Where one parameter lies among the bytes of the arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Offset of its first byte.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
}

/// A kernel, decoded and ready to launch. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its name in the PTX text.
    pub name: String,
    /// Its parameters in order.
    pub parameters: Vec<Parameter>,
    /// The bytes of all parameters with their padding.
    pub parameter_bytes: usize,
    /// The most threads a block may have (`__launch_bounds__`, or 1024).
    pub max_threads: u32,
    /// Bytes of static shared memory.
    pub shared_bytes: u32,
    /// Bytes of local memory of a thread.
    pub local_bytes: u32,
    pub(crate) program: Arc<allocate::Program>,
    pub(crate) variables: Arc<[Variable]>,
    pub(crate) module_id: u64,
}

/// A place in the source of a kernel: where an instruction was written, and where that was inlined, if it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    file: u32,
    line: u32,
    name: Option<Arc<str>>,
    inlined: Option<Box<Place>>,
}

impl Place {
    /// Reads `1 115 5, function_name ..., inlined_at 1 171 5`.
    pub(crate) fn read(text: &str) -> Place {
        let number = |word: Option<&str>| word.and_then(|w| w.trim_end_matches(',').parse().ok()).unwrap_or(0);
        let numbers = |text: &str| {
            let mut words = text.split_whitespace();
            Place { file: number(words.next()), line: number(words.next()), ..Place::default() }
        };
        let mut place = numbers(text);
        place.inlined = text.split_once("inlined_at").map(|(_, outer)| Box::new(numbers(outer)));
        place
    }

    fn name_files(&mut self, files: &HashMap<u32, Arc<str>>) {
        self.name = files.get(&self.file).cloned();
        if let Some(outer) = &mut self.inlined {
            outer.name_files(files);
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.name, self.line) {
            (_, 0) => write!(f, "an unknown line"),
            (Some(name), line) => write!(f, "{name}:{line}"),
            (None, line) => write!(f, "line {line}"),
        }?;
        self.inlined.as_ref().map_or(Ok(()), |outer| write!(f, " (inlined at {outer})"))
    }
}

/// Why a text is no module: names the line and the instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// What is wrong and where.
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(line: u32, text: &str, why: &str) -> ParseError {
        let text: String = text.chars().take(120).collect();
        ParseError { message: format!("line {line}: {text}: {why}") }
    }
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParseError {}

/// Parses the text of one PTX module.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    module::parse(text)
}

/// Numbers modules, so that a machine knows which variables belong to which.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
