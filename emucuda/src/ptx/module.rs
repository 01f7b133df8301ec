//! A whole text: its variables, functions, kernels and files. Not the meaning of instructions (`lower.rs`).
//!
//! Read next: `builder.rs`.

use std::{collections::HashMap, sync::Arc};

use super::{
    Kernel, Module, Parameter, ParseError, Variable, allocate,
    builder::{Builder, Declared, Function, Shared, Symbol},
    lower::{self, class_of, size_of},
    text::{self, Piece, What},
};
use crate::machine::registers::Class;

/// Parses a text.
pub(crate) fn parse(text: &str) -> Result<Module, ParseError> {
    let pieces = text::pieces(text)?;
    let mut functions = HashMap::new();
    let mut variables: Vec<Variable> = Vec::new();
    let mut symbols = HashMap::new();
    let mut shared = HashMap::new();
    let mut heads: Vec<(u32, String, &[Piece])> = Vec::new();
    let mut files = HashMap::new();
    let mut at = 0;
    while at < pieces.len() {
        let piece = &pieces[at];
        at += 1;
        let fail = |why: &str| ParseError::new(piece.line, &format!("{:?}", piece.what), why);
        match &piece.what {
            What::Open(head) => {
                let end = at + closing(&pieces[at..]).ok_or_else(|| fail("the block has no end"))?;
                let inside = &pieces[at..end];
                at = end + 1;
                if head.contains(".func") {
                    let (name, function) = function(head, inside).map_err(|why| fail(&why))?;
                    functions.insert(name, function);
                } else {
                    heads.push((piece.line, head.clone(), inside));
                }
            }
            What::Statement(line) if line.starts_with(".file") => {
                let mut words = line.split_whitespace().skip(1);
                let number: u32 = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
                let path = line.split('"').nth(1).unwrap_or("");
                files.insert(number, Arc::<str>::from(path.rsplit('/').next().unwrap_or(path)));
            }
            What::Statement(line) if is_variable(line, ".shared") => {
                let declared = declared(line).map_err(|why| fail(&why))?;
                if line.contains(".extern") {
                    symbols.insert(declared.name, Symbol::DynamicShared);
                } else {
                    shared.insert(declared.name.clone(), declared);
                }
            }
            What::Statement(line) if is_variable(line, ".global") || is_variable(line, ".const") => {
                let variable = variable(line, &variables).map_err(|why| fail(&why))?;
                symbols.insert(variable.name.clone(), Symbol::Variable(variables.len() as u32));
                variables.push(variable);
            }
            What::Statement(line) if line.starts_with('.') => {} // .version, .target, declarations
            _ => return Err(fail("not understood outside of a function")),
        }
    }
    let module = Shared { functions: &functions, symbols: &symbols, shared: &shared };
    let variables: Arc<[Variable]> = variables.into();
    let id = super::next_id();
    let mut kernels = Vec::new();
    for (line, head, inside) in heads {
        kernels.push(kernel(&module, line, &head, inside, &files, &variables, id)?);
    }
    Ok(Module { kernels, variables, id })
}

fn is_variable(line: &str, space: &str) -> bool {
    line.split(' ').take(3).any(|word| word == space)
}

/// How many pieces lie before the end of this block.
fn closing(pieces: &[Piece]) -> Option<usize> {
    let mut depth = 1;
    pieces.iter().position(|piece| {
        match piece.what {
            What::Open(_) => depth += 1,
            What::Close => depth -= 1,
            _ => {}
        }
        depth == 0
    })
}

/// `.param .align 8 .b8 name[16]`, or the like in another space: its name, size and alignment.
fn declared(text: &str) -> Result<Declared, String> {
    let text = text.split('=').next().unwrap_or(text).trim();
    let words: Vec<&str> = text.split_whitespace().collect();
    let size = words.iter().find_map(|word| size_of(word.strip_prefix('.')?)).ok_or_else(|| format!("no type in {text:?}"))?;
    let align = words.iter().position(|word| *word == ".align").and_then(|at| words.get(at + 1)?.parse().ok()).unwrap_or(size);
    let name = words.last().copied().unwrap_or("");
    let mut bytes = size;
    let (name, dimensions) = name.split_once('[').unwrap_or((name, ""));
    for dimension in dimensions.split('[').filter(|d| !d.is_empty()) {
        bytes *= dimension.trim_end_matches(']').parse::<u32>().unwrap_or(0);
    }
    if !align.is_power_of_two() || name.is_empty() {
        return Err(format!("declaration {text:?} not understood"));
    }
    Ok(Declared { name: name.to_string(), bytes, align })
}

/// A `.global` or `.const` variable with its first content.
fn variable(line: &str, earlier: &[Variable]) -> Result<Variable, String> {
    let declared = declared(line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let kind = words.iter().find_map(|word| word.strip_prefix('.').filter(|kind| size_of(kind).is_some())).unwrap_or("b8");
    let size = size_of(kind).unwrap_or(1) as usize;
    let mut content = Vec::new();
    let mut addresses = Vec::new();
    if let Some((_, values)) = line.split_once('=') {
        for value in values.replace(['{', '}'], " ").split(',').map(str::trim).filter(|v| !v.is_empty()) {
            match text::number(value, size == 8) {
                Some(bits) => content.extend_from_slice(&bits.to_le_bytes()[..size]),
                None => {
                    let name = value.trim_start_matches("generic(").trim_end_matches(')');
                    let target =
                        earlier.iter().position(|v| v.name == name).ok_or_else(|| format!("initialiser {value:?} not understood"))?;
                    addresses.push((content.len() as u64, target));
                    content.extend_from_slice(&[0; 8]);
                }
            }
        }
    }
    // An array without a length has the length of its content.
    let bytes = (declared.bytes as u64).max(content.len() as u64);
    content.resize(bytes as usize, 0);
    Ok(Variable { name: declared.name, bytes, content, addresses })
}

/// The parameters between the first bracket of `text` and its end.
fn parameters(text: &str) -> Result<Vec<Declared>, String> {
    let inner = text.trim().trim_start_matches('(').trim_end_matches(')');
    inner.split(',').map(str::trim).filter(|p| !p.is_empty()).map(declared).collect()
}

/// `.func (.param .b32 result) name(.param .b64 p)`
fn function(head: &str, body: &[Piece]) -> Result<(String, Function), String> {
    let rest = head.split_once(".func").map_or("", |(_, rest)| rest).trim();
    let (results, rest) = match rest.strip_prefix('(') {
        Some(rest) => rest.split_once(')').ok_or("a function's results have no end")?,
        None => ("", rest),
    };
    let (name, arguments) = rest.trim().split_once('(').unwrap_or((rest.trim(), ""));
    let arguments = arguments.split_once(')').map_or("", |(arguments, _)| arguments);
    let function = Function { results: parameters(results)?, parameters: parameters(arguments)?, body: body.to_vec() };
    Ok((name.trim().to_string(), function))
}

/// `.visible .entry name(parameters) .maxntid 128, 1, 1`
fn kernel(
    module: &Shared,
    line: u32,
    head: &str,
    pieces: &[Piece],
    files: &HashMap<u32, Arc<str>>,
    variables: &Arc<[Variable]>,
    module_id: u64,
) -> Result<Kernel, ParseError> {
    let fail = |why: String| ParseError::new(line, head, &why);
    let rest = head.split_once(".entry").map_or("", |(_, rest)| rest).trim();
    let (name, rest) = rest.split_once('(').unwrap_or((rest.split(' ').next().unwrap_or(rest), ""));
    let (arguments, attributes) = rest.split_once(')').unwrap_or((rest, ""));
    let mut b = Builder::new(module);
    b.line = line;
    let mut list = Vec::new();
    let mut end = 0;
    for declared in parameters(arguments).map_err(fail)? {
        let offset = u32::next_multiple_of(end, declared.align);
        end = offset + declared.bytes;
        b.name(&declared.name, Symbol::Parameter(offset));
        list.push(Parameter { offset: offset as usize, size: declared.bytes as usize });
    }
    let mut words = attributes.split([' ', ',']).filter(|word| !word.is_empty());
    let mut max_threads = 1024;
    while let Some(word) = words.next() {
        if word == ".maxntid" || word == ".reqntid" {
            let numbers = words.clone().map_while(|w| w.parse::<u32>().ok());
            max_threads = numbers.take(3).product();
        }
    }
    body(&mut b, pieces)?;
    for place in &mut b.places {
        place.name_files(files);
    }
    let (shared_bytes, local_bytes) = (b.shared_bytes, b.local_bytes);
    let program = allocate::program(b).map_err(|why| ParseError::new(line, name, &why))?;
    Ok(Kernel {
        name: name.trim().to_string(),
        parameters: list,
        parameter_bytes: end as usize,
        max_threads,
        shared_bytes,
        local_bytes,
        program: Arc::new(program),
        variables: variables.clone(),
        module_id,
    })
}

/// Decodes the inside of a kernel or a function into the builder.
pub(crate) fn body(b: &mut Builder, pieces: &[Piece]) -> Result<(), ParseError> {
    let carry = b.new_register(Class::Predicate);
    b.name("%carry", Symbol::Register(carry));
    for piece in pieces {
        b.line = piece.line;
        match &piece.what {
            What::Open(_) => b.open_scope(),
            What::Close => b.close_scope(),
            What::Label(name) => {
                let label = b.label(name);
                b.place_label(label);
                if let Some(frame) = b.frames.last_mut() {
                    frame.last_label = name.clone();
                }
            }
            What::Statement(statement) => {
                let outcome = if statement.starts_with('.') { directive(b, statement) } else { lower::instruction(b, statement) };
                outcome.map_err(|why| b.fail(statement, why))?;
            }
        }
    }
    Ok(())
}

/// A directive inside of a body.
fn directive(b: &mut Builder, statement: &str) -> Result<(), String> {
    let (directive, rest) = statement.split_once(' ').unwrap_or((statement, ""));
    match directive {
        ".reg" => {
            let (kind, names) = rest.trim().split_once(' ').ok_or("registers without names")?;
            let class = class_of(kind.trim_start_matches('.'))?;
            for name in names.split(',').map(str::trim) {
                match name.split_once('<') {
                    Some((stem, count)) => {
                        let count: u32 = count.trim_end_matches('>').parse().map_err(|_| "register count")?;
                        for number in 0..count {
                            let register = b.new_register(class);
                            b.name(&format!("{stem}{number}"), Symbol::Register(register));
                        }
                    }
                    None => {
                        let register = b.new_register(class);
                        b.name(name, Symbol::Register(register));
                    }
                }
            }
        }
        ".shared" => {
            let array = declared(statement)?;
            let offset = b.shared_array(&array);
            b.name(&array.name, Symbol::Shared(offset));
        }
        ".local" | ".param" => {
            let array = declared(statement)?;
            let offset = b.local_array(array.bytes, array.align);
            b.name(&array.name, Symbol::Local(offset));
        }
        ".loc" => {
            let place = super::Place::read(rest);
            if b.places[b.place as usize] != place {
                b.places.push(place);
                b.place = b.places.len() as u32 - 1;
            }
        }
        ".branchtargets" => {
            let names = text::vector(rest);
            if let Some(frame) = b.frames.last_mut() {
                frame.tables.insert(frame.last_label.clone(), names);
            }
        }
        ".pragma" | ".callprototype" | ".noreturn" => {}
        _ => return Err(format!("unsupported directive {directive}")),
    }
    Ok(())
}
