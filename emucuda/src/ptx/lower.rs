//! One PTX instruction to what the machine runs: most are lane-wise forms, found by their name; the rest is taken apart here.
//!
//! A name is looked up as it stands; then without what changes no number on this machine (`.rn`, `.approx`, `.full`, and
//! `.ftz` and `.sat`, which become instructions of their own around it). Memory, atomics, what a warp does together and
//! control flow are in `effects.rs` (read it next).

use super::{
    builder::{Builder, Fixed},
    effects, text,
};
use crate::machine::registers::Class;

/// Where addresses of shared and local memory begin when an instruction does not say which space it means.
pub(crate) const SHARED_WINDOW: u64 = 0x3f00_0000_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x3e00_0000_0000;

/// An instruction's name in its parts, and its operands.
pub(crate) struct Parsed<'t> {
    pub name: &'t str,
    pub base: &'t str,
    pub parts: Vec<&'t str>,
    pub operands: Vec<String>,
}

impl Parsed<'_> {
    pub fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }

    /// The last type among the parts.
    pub fn kind(&self) -> &str {
        self.parts.iter().rev().find(|p| size_of(p).is_some() || **p == "pred").copied().unwrap_or("b32")
    }

    pub fn operand(&self, at: usize) -> Result<&str, String> {
        self.operands.get(at).map(String::as_str).ok_or_else(|| format!("operand {} is missing", at + 1))
    }
}

/// Bytes of a PTX type.
pub(crate) fn size_of(kind: &str) -> Option<u32> {
    Some(match kind {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" | "tf32" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b128" => 16,
        _ => return None,
    })
}

/// The register file of a PTX type.
pub(crate) fn class_of(kind: &str) -> Result<Class, String> {
    match kind {
        "pred" => Ok(Class::Predicate),
        _ => match size_of(kind) {
            Some(1..=4) => Ok(Class::Word),
            Some(8) => Ok(Class::Double),
            _ => Err(format!("unsupported type .{kind}")),
        },
    }
}

/// Lowers one instruction, without its semicolon.
pub(crate) fn instruction(b: &mut Builder, statement: &str) -> Result<(), String> {
    let mut rest = statement;
    b.guard = None;
    if let Some(guarded) = rest.strip_prefix('@') {
        let (name, tail) = guarded.split_once(' ').ok_or("a guard without an instruction")?;
        let (negated, name) = name.strip_prefix('!').map_or((false, name), |name| (true, name));
        let register = b.source(name, Class::Predicate)?;
        b.guard = Some((register, negated));
        rest = tail.trim();
    }
    let (name, arguments) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut parts = name.split('.');
    let base = parts.next().unwrap_or("");
    let parsed = Parsed { name, base, parts: parts.collect(), operands: text::operands(arguments) };
    match parsed.base {
        "mov" => mov(b, &parsed),
        "cvta" => cvta(b, &parsed),
        "setp" => setp(b, &parsed),
        "set" => set(b, &parsed),
        "add" | "addc" | "sub" | "subc" | "mad" | "madc" if parsed.has("cc") || parsed.base.ends_with('c') => carry(b, &parsed),
        _ => {
            if effects::instruction(b, &parsed)? {
                return Ok(());
            }
            lane_wise(b, &parsed)
        }
    }
}

/// An instruction that a family table has.
fn lane_wise(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let (name, canonical) = match b.form(p.name) {
        Some(_) => (p.name.to_string(), true),
        None => (canonical(p.name), false),
    };
    let form = b.form(&name).ok_or_else(|| format!("unsupported instruction {}", p.name))?;
    let destination = b.destination(p.operand(0)?, form.result)?;
    let mut sources = Vec::with_capacity(form.arguments.len());
    for (at, class) in form.arguments.iter().enumerate() {
        let text = p.operand(at + 1)?;
        sources.push(if p.base == "cvt" { b.source_or_wider(text, *class)? } else { b.source(text, *class)? });
    }
    if p.operands.len() != form.arguments.len() + 1 {
        return Err(format!("{} operands, not {}", p.operands.len(), form.arguments.len() + 1));
    }
    let kinds: Vec<&str> = p.parts.iter().filter(|part| size_of(part).is_some()).copied().collect();
    let (to, from) = (kinds.first().copied().unwrap_or(""), kinds.last().copied().unwrap_or(""));
    let flush = p.has("ftz") && !canonical;
    if flush && from == "f32" {
        for (source, class) in sources.iter_mut().zip(form.arguments) {
            if *class == Class::Word {
                let flushed = b.new_register(Class::Word);
                b.lanes("flush.f32", flushed, &[*source])?;
                *source = flushed;
            }
        }
    }
    b.lanes(&name, destination, &sources)?;
    if p.has("sat") && !canonical {
        match to {
            "f32" | "f64" => b.lanes(&format!("saturate.{to}"), destination, &[destination])?,
            _ if from.starts_with('f') => {} // to an integer: every conversion stops at the ends
            _ => return Err(format!("unsupported instruction {}", p.name)),
        }
    }
    if flush && to == "f32" && form.result == Class::Word {
        b.lanes("flush.f32", destination, &[destination])?;
    }
    Ok(())
}

/// A name without what changes no number here.
fn canonical(name: &str) -> String {
    let kept = name.split('.').filter(|part| !matches!(*part, "rn" | "ftz" | "sat" | "approx" | "full"));
    kept.collect::<Vec<_>>().join(".")
}

/// Moves, with packing and unpacking of vectors.
fn mov(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let (to, from, kind) = (p.operand(0)?, p.operand(1)?, p.kind());
    let narrow = if kind.ends_with("64") { Class::Double } else { Class::Word };
    if from.starts_with('{') {
        let parts = text::vector(from);
        let name = match (parts.len(), narrow) {
            (2, Class::Word) => "pack.b32",
            (2, _) => "pack.b64",
            (4, Class::Double) => "pack4.b64",
            _ => return Err("unsupported vector move".into()),
        };
        let sources = parts.iter().map(|part| b.source(part, Class::Word)).collect::<Result<Vec<_>, _>>()?;
        let destination = b.destination(to, narrow)?;
        return b.lanes(name, destination, &sources);
    }
    if to.starts_with('{') {
        let parts = text::vector(to);
        let source = b.source(from, narrow)?;
        for (at, part) in parts.iter().enumerate() {
            if part == "_" {
                continue;
            }
            let name = match (parts.len(), narrow) {
                (2, Class::Word) => format!("part{at}.b32"),
                (2, _) => format!("part{at}.b64"),
                (4, Class::Double) => format!("quarter{at}.b64"),
                _ => return Err("unsupported vector move".into()),
            };
            let part = b.destination(part, Class::Word)?;
            // A destination may be the source: it would be lost for the parts that follow.
            if part == source && at + 1 < parts.len() {
                return Err("unsupported vector move onto its source".into());
            }
            b.lanes(&name, part, &[source])?;
        }
        return Ok(());
    }
    lane_wise(b, p)
}

/// Addresses from and to the spaces they may be in.
fn cvta(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let class = class_of(p.kind())?;
    let window = match p.parts.iter().find(|part| ["shared", "shared::cta", "local", "global", "const", "param"].contains(part)) {
        Some(&"shared" | &"shared::cta") => SHARED_WINDOW,
        Some(&"local") => LOCAL_WINDOW,
        _ => 0,
    };
    let source = b.source(p.operand(1)?, class)?;
    let destination = b.destination(p.operand(0)?, class)?;
    if window == 0 || class == Class::Word {
        return b.lanes(if class == Class::Word { "mov.b32" } else { "mov.b64" }, destination, &[source]);
    }
    let window = b.constant(window, Class::Double);
    b.lanes(if p.has("to") { "sub.u64" } else { "add.u64" }, destination, &[source, window])
}

/// A comparison's name without combination and modifiers, for f16 and bf16 in f32; and its two sources.
fn comparison(b: &mut Builder, p: &Parsed, kind: &str, first: usize) -> Result<u32, String> {
    let relation = p.parts.first().copied().unwrap_or("");
    let result = b.new_register(Class::Predicate);
    let class = class_of(kind)?;
    let mut sources = [b.source(p.operand(first)?, class)?, b.source(p.operand(first + 1)?, class)?];
    let mut kind = kind.to_string();
    if kind == "f16" || kind == "bf16" {
        for source in &mut sources {
            let wide = b.new_register(Class::Word);
            b.lanes(&format!("cvt.f32.{kind}"), wide, &[*source])?;
            *source = wide;
        }
        kind = "f32".into();
    } else if p.has("ftz") {
        for source in &mut sources {
            let flushed = b.new_register(Class::Word);
            b.lanes("flush.f32", flushed, &[*source])?;
            *source = flushed;
        }
    }
    b.lanes(&format!("setp.{relation}.{kind}"), result, &sources)?;
    Ok(result)
}

/// The boolean operation that combines a comparison with a predicate.
fn combination<'t>(p: &'t Parsed) -> Option<&'t str> {
    p.parts.get(1).copied().filter(|part| ["and", "or", "xor"].contains(part))
}

fn setp(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let kind = p.kind().to_string();
    let result = comparison(b, p, &kind, 1)?;
    let (first, second) = match p.operand(0)?.split_once('|') {
        Some((first, second)) => (first.trim().to_string(), Some(second.trim().to_string())),
        None => (p.operand(0)?.to_string(), None),
    };
    let other = match combination(p) {
        Some(operation) => Some((format!("{operation}.pred"), b.source(p.operand(3)?, Class::Predicate)?)),
        None => None,
    };
    let negated = b.new_register(Class::Predicate);
    if second.is_some() {
        b.lanes("not.pred", negated, &[result])?;
        if let Some((operation, other)) = &other {
            b.lanes(operation, negated, &[negated, *other])?;
        }
    }
    let destination = b.destination(&first, Class::Predicate)?;
    match &other {
        Some((operation, other)) => b.lanes(operation, destination, &[result, *other])?,
        None => b.lanes("mov.pred", destination, &[result])?,
    }
    if let Some(second) = second {
        let destination = b.destination(&second, Class::Predicate)?;
        b.lanes("mov.pred", destination, &[negated])?;
    } else if other.is_none() {
        // The common form: one instruction. Its result goes straight to its destination.
        b.code.pop();
        if let Some(draft) = b.code.last_mut() {
            draft.operands[0].register = destination;
        }
    }
    Ok(())
}

/// `set`: a comparison whose result is all ones or 1.0.
fn set(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let kinds: Vec<&str> = p.parts.iter().filter(|part| size_of(part).is_some()).copied().collect();
    let [to, from] = kinds[..] else { return Err(format!("unsupported instruction {}", p.name)) };
    let mut result = comparison(b, p, from, 1)?;
    if let Some(operation) = combination(p) {
        let other = b.source(p.operand(3)?, Class::Predicate)?;
        let combined = b.new_register(Class::Predicate);
        b.lanes(&format!("{operation}.pred"), combined, &[result, other])?;
        result = combined;
    }
    let destination = b.destination(p.operand(0)?, Class::Word)?;
    b.lanes(&format!("mask.{to}"), destination, &[result])
}

/// Sums and products that read or write the carry flag, which is a predicate here.
fn carry(b: &mut Builder, p: &Parsed) -> Result<(), String> {
    let kind = p.kind().to_string();
    let class = class_of(&kind)?;
    let unsigned = if class == Class::Double { "u64" } else { "u32" };
    let flag = match b.symbol("%carry") {
        Some(super::builder::Symbol::Register(register)) => register,
        _ => return Err("no carry flag".into()),
    };
    let zero = b.fixed(Fixed::Bits(0), Class::Predicate);
    let incoming = if p.base.ends_with('c') { flag } else { zero };
    let mut sources = (1..p.operands.len()).map(|at| b.source(p.operand(at)?, class)).collect::<Result<Vec<_>, _>>()?;
    let operation = if p.base.starts_with("sub") { "sub" } else { "add" };
    if p.base.starts_with("mad") {
        let part = if p.has("hi") { "hi" } else { "lo" };
        let product = b.new_register(class);
        b.lanes(&format!("mul.{part}.{kind}"), product, &[sources[0], sources[1]])?;
        sources = vec![product, sources[2]];
    }
    let destination = b.destination(p.operand(0)?, class)?;
    let outgoing = b.new_register(Class::Predicate);
    if p.has("cc") {
        b.lanes(&format!("{operation}.carry.{unsigned}"), outgoing, &[sources[0], sources[1], incoming])?;
    }
    b.lanes(&format!("{operation}.with.{unsigned}"), destination, &[sources[0], sources[1], incoming])?;
    if p.has("cc") {
        b.lanes("mov.pred", flag, &[outgoing])?;
    }
    Ok(())
}
