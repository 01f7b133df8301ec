//! Instructions that are not lane-wise: memory, atomics, what a warp or a block does together, control flow, calls.
//!
//! Read next: `flow.rs`.

use super::{
    builder::{Builder, Declared, Fixed, Frame, Symbol},
    lower::{Parsed, class_of, size_of},
    module, text,
};
use crate::machine::{
    instruction::{Access, Change, Direction, Element, NONE, Number, Operation, Question, Space, Tally},
    registers::Class,
};

/// Calls may not be deeper than this: a recursive function cannot be copied into its caller.
const MOST_CALLS: u32 = 24;

/// Lowers an instruction of this kind; false: it is none.
pub(crate) fn instruction(b: &mut Builder, p: &Parsed) -> Result<bool, String> {
    match p.base {
        "ld" | "ldu" => load(b, p)?,
        "st" => store(b, p)?,
        "atom" | "red" => atomic(b, p)?,
        "bra" => {
            let target = b.label(p.operand(0)?);
            b.push(Operation::Branch { target }, &[], &[]);
        }
        "brx" => {
            let index = b.source(p.operand(0)?, Class::Word)?;
            let names = match p.operand(1)? {
                list if list.starts_with('{') => text::vector(list),
                table => b.frames.last().and_then(|frame| frame.tables.get(table)).cloned().ok_or("unknown branch table")?,
            };
            let targets = names.iter().map(|name| b.label(name)).collect();
            b.push(Operation::BranchTable { targets }, &[], &[index]);
        }
        "ret" => match b.frames.last().and_then(|frame| frame.end) {
            Some(target) => b.push(Operation::Branch { target }, &[], &[]),
            None => b.push(Operation::Exit, &[], &[]),
        },
        "exit" => b.push(Operation::Exit, &[], &[]),
        "trap" | "brkpt" => b.push(Operation::Trap, &[], &[]),
        "call" => call(b, p)?,
        "bar" | "barrier" if p.has("warp") => {
            let mask = b.source(p.operand(0)?, Class::Word)?;
            b.push(Operation::SyncWarp, &[], &[mask]);
        }
        "bar" | "barrier" => barrier(b, p)?,
        "membar" | "fence" | "nanosleep" | "prefetch" | "prefetchu" | "discard" | "applypriority" | "griddepcontrol" => {}
        "shfl" => shuffle(b, p)?,
        "vote" => {
            let question = match p.parts.iter().find(|part| ["ballot", "any", "all", "uni"].contains(part)) {
                Some(&"ballot") => Question::Ballot,
                Some(&"any") => Question::Any,
                Some(&"all") => Question::All,
                _ => Question::Uniform,
            };
            let class = if question == Question::Ballot { Class::Word } else { Class::Predicate };
            let predicate = b.source(p.operand(1)?, Class::Predicate)?;
            let mask = b.source(p.operand(2)?, Class::Word)?;
            let destination = b.destination(p.operand(0)?, class)?;
            b.push(Operation::Vote(question), &[destination], &[predicate, mask]);
        }
        "match" => {
            let wide = class_of(p.kind())? == Class::Double;
            let value = b.source(p.operand(1)?, class_of(p.kind())?)?;
            let mask = b.source(p.operand(2)?, Class::Word)?;
            let (destination, predicate) = with_predicate(b, p.operand(0)?)?;
            b.push(Operation::Match { all: p.has("all"), wide }, &[destination, predicate], &[value, mask]);
        }
        "redux" => {
            let (change, number) = (change(p)?, number(p));
            let value = b.source(p.operand(1)?, Class::Word)?;
            let mask = b.source(p.operand(2)?, Class::Word)?;
            let destination = b.destination(p.operand(0)?, Class::Word)?;
            b.push(Operation::Reduce { change, number }, &[destination], &[value, mask]);
        }
        "activemask" => {
            let destination = b.destination(p.operand(0)?, Class::Word)?;
            b.push(Operation::ActiveMask, &[destination], &[]);
        }
        "elect" => return Err("unsupported instruction elect".into()),
        "ldmatrix" | "stmatrix" => matrix(b, p)?,
        "mma" => multiply(b, p)?,
        "cp" => copy_async(b, p)?,
        "isspacep" => return Err("unsupported instruction isspacep".into()),
        _ => return Ok(false),
    }
    Ok(true)
}

// ---- Memory

fn space(p: &Parsed) -> Space {
    match p.parts.iter().find(|part| ["global", "shared", "shared::cta", "local", "const", "param"].contains(part)) {
        Some(&"shared" | &"shared::cta") => Space::Shared,
        Some(&"local" | &"param") => Space::Local,
        Some(_) => Space::Global,
        None => Space::Generic,
    }
}

/// The element of an access and the register file of its values.
fn access(b: &mut Builder, p: &Parsed, address: &str, count: usize) -> Result<(Access, u32, Class), String> {
    let kind = p.kind().to_string();
    let class = class_of(&kind)?;
    let size = size_of(&kind).ok_or("type")? as u8;
    let expected = if p.has("v4") {
        4
    } else if p.has("v2") {
        2
    } else {
        1
    };
    if count != expected {
        return Err(format!("{count} registers, not {expected}"));
    }
    let (mut address, base) = b.address(address, space(p))?;
    if p.has("param") && base != NONE {
        address.space = Space::Global; // a kernel's parameter behind a pointer: a launch keeps them in global memory
    }
    let read_only = p.has("nc") || p.base == "ldu";
    let access = Access {
        address,
        size,
        count: count as u8,
        signed: kind.starts_with('s'),
        wide: class == Class::Double,
        read_only: read_only && address.space == Space::Global,
    };
    Ok((access, base, class))
}

fn load(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let names = text::vector(p.operand(0)?);
    // A parameter at a known place is a constant of the launch.
    let inner = p.operand(1)?.trim_matches(['[', ']', ' ']);
    let (name, offset) = inner.split_once('+').unwrap_or((inner, "0"));
    if p.has("param")
        && let Some(Symbol::Parameter(at)) = b.symbol(name.trim())
    {
        let offset: u32 = offset.trim().parse().map_err(|_| format!("address {inner:?} not understood"))?;
        let kind = p.kind().to_string();
        let (class, size) = (class_of(&kind)?, size_of(&kind).ok_or("type")?);
        for (index, name) in names.iter().enumerate() {
            let offset = at + offset + index as u32 * size;
            let value = b.fixed(Fixed::Parameter { offset, size: size as u8, signed: kind.starts_with('s') }, class);
            let destination = b.destination(name, class)?;
            b.lanes(if class == Class::Double { "mov.b64" } else { "mov.b32" }, destination, &[value])?;
        }
        return Ok(());
    }
    let (access, base, class) = access(b, p, p.operand(1)?, names.len())?;
    let pairs = names.iter().map(|name| b.destination_or_wider(name, class)).collect::<Result<Vec<_>, _>>()?;
    let destinations: Vec<u32> = pairs.iter().map(|(destination, _)| *destination).collect();
    b.push(Operation::Load(Box::new(access)), &destinations, &[base]);
    for (destination, wider) in pairs {
        if let Some(wider) = wider {
            b.lanes(if access.signed { "cvt.s64.s32" } else { "cvt.u64.u32" }, wider, &[destination])?;
        }
    }
    Ok(())
}

fn store(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let names = text::vector(p.operand(1)?);
    let (access, base, class) = access(b, p, p.operand(0)?, names.len())?;
    let mut reads = names.iter().map(|name| b.source_or_wider(name, class)).collect::<Result<Vec<_>, _>>()?;
    reads.push(base);
    b.push(Operation::Store(Box::new(access)), &[], &reads);
    Ok(())
}

fn change(p: &Parsed) -> Result<Change, String> {
    for part in &p.parts {
        return Ok(match *part {
            "add" => Change::Add,
            "min" => Change::Min,
            "max" => Change::Max,
            "and" => Change::And,
            "or" => Change::Or,
            "xor" => Change::Xor,
            "exch" => Change::Exchange,
            "cas" => Change::CompareExchange,
            "inc" => Change::Increment,
            "dec" => Change::Decrement,
            _ => continue,
        });
    }
    Err(format!("unsupported instruction {}", p.name))
}

fn number(p: &Parsed) -> Number {
    match p.kind() {
        "f32" | "f64" => Number::Float,
        "f16" | "f16x2" => Number::Half,
        "bf16" | "bf16x2" => Number::Bfloat,
        "s32" | "s64" => Number::Signed,
        _ => Number::Unsigned,
    }
}

fn atomic(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let (change, number) = (change(p)?, number(p));
    let first = (p.base == "atom") as usize;
    let (access, base, class) = access(b, p, p.operand(first)?, 1)?;
    if access.address.space == Space::Local {
        return Err(format!("unsupported instruction {}", p.name));
    }
    let value = b.source(p.operand(first + 1)?, class)?;
    let other = if change == Change::CompareExchange { b.source(p.operand(first + 2)?, class)? } else { NONE };
    let destination = if first == 1 { b.destination(p.operand(0)?, class)? } else { NONE };
    b.push(Operation::Atomic { access: Box::new(access), change, number }, &[destination], &[base, value, other]);
    Ok(())
}

fn copy_async(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    if !p.has("async") || p.has("bulk") || p.has("mbarrier") {
        return Err(format!("unsupported instruction {}", p.name));
    }
    if p.has("commit_group") {
        b.push(Operation::CommitCopies, &[], &[]);
    } else if p.has("wait_group") || p.has("wait_all") {
        // wait_all also waits for what was not committed.
        if p.has("wait_all") {
            b.push(Operation::CommitCopies, &[], &[]);
        }
        let pending = if p.has("wait_all") { 0 } else { p.operand(0)?.parse().map_err(|_| "a group count must be a number")? };
        b.push(Operation::WaitCopies { pending }, &[], &[]);
    } else {
        let (to, to_base) = b.address(p.operand(0)?, Space::Shared)?;
        let (from, from_base) = b.address(p.operand(1)?, Space::Global)?;
        let size = p.operand(2)?.parse().map_err(|_| "a size must be a number")?;
        let bytes = match p.operands.get(3).filter(|o| !o.contains("policy")) {
            Some(bytes) => b.source(&bytes.clone(), Class::Word)?,
            None => NONE,
        };
        b.push(Operation::CopyAsync { to: Box::new(to), from: Box::new(from), size }, &[], &[to_base, from_base, bytes]);
    }
    Ok(())
}

// ---- Warps and blocks

/// `%r1|%p1`
fn with_predicate(b: &mut Builder, text: &str) -> Result<(u32, u32), String> {
    match text.split_once('|') {
        Some((word, predicate)) => Ok((b.destination(word.trim(), Class::Word)?, b.destination(predicate.trim(), Class::Predicate)?)),
        None => Ok((b.destination(text, Class::Word)?, NONE)),
    }
}

fn shuffle(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let direction = match p.parts.iter().find(|part| ["up", "down", "bfly", "idx"].contains(part)) {
        Some(&"up") => Direction::Up,
        Some(&"down") => Direction::Down,
        Some(&"bfly") => Direction::Butterfly,
        _ => Direction::Index,
    };
    let mut reads = Vec::new();
    for at in 1..5 {
        reads.push(b.source(p.operand(at)?, Class::Word)?);
    }
    let (destination, predicate) = with_predicate(b, p.operand(0)?)?;
    b.push(Operation::Shuffle(direction), &[destination, predicate], &reads);
    Ok(())
}

fn barrier(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let tally = match (p.has("red"), p.has("popc"), p.has("and")) {
        (false, ..) => Tally::Nothing,
        (_, true, _) => Tally::Count,
        (_, _, true) => Tally::All,
        _ => Tally::Any,
    };
    let reduces = tally != Tally::Nothing;
    let first = reduces as usize;
    let id = b.source(p.operand(first)?, Class::Word)?;
    let threads_given = p.operands.len() > first + 1 + reduces as usize;
    let threads = if threads_given { b.source(p.operand(first + 1)?, Class::Word)? } else { NONE };
    let (destination, predicate) = if reduces {
        let class = if tally == Tally::Count { Class::Word } else { Class::Predicate };
        let predicate = b.source(p.operand(p.operands.len() - 1)?, Class::Predicate)?;
        (b.destination(p.operand(0)?, class)?, predicate)
    } else {
        (NONE, NONE)
    };
    b.push(Operation::Barrier { tally, arrive_only: p.has("arrive") }, &[destination], &[predicate, id, threads]);
    Ok(())
}

// ---- Matrices

fn matrix(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    if !p.has("b16") || !p.has("m8n8") {
        return Err(format!("unsupported instruction {}", p.name));
    }
    let loads = p.base == "ldmatrix";
    let (values, address) = if loads { (p.operand(0)?, p.operand(1)?) } else { (p.operand(1)?, p.operand(0)?) };
    let names = text::vector(values);
    let (address, base) = b.address(address, space(p))?;
    let (address, count, transposed) = (Box::new(address), names.len() as u8, p.has("trans"));
    if loads {
        let destinations = names.iter().map(|name| b.destination(name, Class::Word)).collect::<Result<Vec<_>, _>>()?;
        b.push(Operation::LoadMatrix { address, count, transposed }, &destinations, &[base]);
    } else {
        let mut reads = names.iter().map(|name| b.source(name, Class::Word)).collect::<Result<Vec<_>, _>>()?;
        reads.push(base);
        b.push(Operation::StoreMatrix { address, count, transposed }, &[], &reads);
    }
    Ok(())
}

fn multiply(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let unsupported = || format!("unsupported instruction {}", p.name);
    let depth = match p.parts.iter().find(|part| part.starts_with("m16n8")) {
        Some(&"m16n8k4") => 4,
        Some(&"m16n8k8") => 8,
        Some(&"m16n8k16") => 16,
        _ => return Err(unsupported()),
    };
    let kinds: Vec<&str> = p.parts.iter().filter(|part| size_of(part).is_some()).copied().collect();
    let (element, half_result) = match kinds[..] {
        ["f32", "bf16", "bf16", "f32"] => (Element::Bfloat, false),
        ["f32", "f16", "f16", "f32"] => (Element::Half, false),
        ["f16", "f16", "f16", "f16"] => (Element::Half, true),
        ["f32", "tf32", "tf32", "f32"] => (Element::Tf32, false),
        _ => return Err(unsupported()),
    };
    if !p.has("row") || !p.has("col") || (element == Element::Tf32) != (depth == 4 || depth == 8 && kinds[1] == "tf32") {
        return Err(unsupported());
    }
    let results = if half_result { 2 } else { 4 };
    let b_count = depth as usize / if element == Element::Tf32 { 4 } else { 8 };
    let mut reads = Vec::new();
    for (at, count) in [(1, 2 * b_count), (2, b_count), (3, results)] {
        let names = text::vector(p.operand(at)?);
        if names.len() != count {
            return Err(format!("{} registers, not {count}", names.len()));
        }
        for name in &names {
            reads.push(b.source(name, Class::Word)?);
        }
    }
    let names = text::vector(p.operand(0)?);
    let destinations = names.iter().map(|name| b.destination(name, Class::Word)).collect::<Result<Vec<_>, _>>()?;
    if destinations.len() != results {
        return Err(unsupported());
    }
    b.push(Operation::Multiply { element, depth, half_result }, &destinations, &reads);
    Ok(())
}

// ---- Calls

/// Copies the called function in. The caller's `.param` variables and the function's are arrays in local memory.
fn call(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let (results, name, arguments) = match &p.operands[..] {
        [results, name, arguments] if results.starts_with('(') => (list(results), name, list(arguments)),
        [results, name] if results.starts_with('(') => (list(results), name, Vec::new()),
        [name, arguments] => (Vec::new(), name, list(arguments)),
        [name] => (Vec::new(), name, Vec::new()),
        _ => return Err("unsupported call (through a pointer?)".into()),
    };
    let module = b.module;
    let function = module.functions.get(name.as_str()).ok_or_else(|| format!("call of unknown function {name}"))?;
    if b.guard.is_some() {
        return Err("unsupported guarded call".into());
    }
    if b.depth >= MOST_CALLS {
        return Err(format!("call of {name}: recursion is not supported"));
    }
    let mut names: Vec<(String, Symbol)> = Vec::new();
    for (given, declared) in [(&results, &function.results), (&arguments, &function.parameters)] {
        if given.len() != declared.len() {
            return Err(format!("call of {name}: {} values, not {}", given.len(), declared.len()));
        }
        for (given, Declared { name, .. }) in given.iter().zip(declared) {
            match b.symbol(given) {
                Some(symbol @ Symbol::Local(_)) => names.push((name.clone(), symbol)),
                _ => return Err(format!("call with {given}, which is no .param variable")),
            }
        }
    }
    let end = b.new_label();
    let scopes = b.swap_scopes(vec![names.into_iter().collect()]);
    b.frames.push(Frame::called(end));
    b.depth += 1;
    let line = b.line;
    let outcome = module::body(b, &function.body);
    b.line = line;
    b.depth -= 1;
    b.frames.pop();
    b.swap_scopes(scopes);
    b.place_label(end);
    outcome.map_err(|error| error.message)
}

/// `(a, b)` as a list.
fn list(text: &str) -> Vec<String> {
    let inner = text.trim().trim_start_matches('(').trim_end_matches(')');
    inner.split(',').map(|part| part.trim().to_string()).filter(|part| !part.is_empty()).collect()
}
