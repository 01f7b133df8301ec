//! Operands of instructions: from their text to registers and addresses. Read next: `lower.rs`.

use super::{
    builder::{Builder, Fixed, Special, Symbol},
    text,
};
use crate::machine::{
    instruction::{Address, NONE, Space},
    registers::Class,
};

impl Builder<'_> {
    /// The register of a source of this class: a register, a number, a special register or the address of a name.
    pub fn source(&mut self, text: &str, class: Class) -> Result<u32, String> {
        if let Some(inner) = text.strip_prefix('!') {
            let source = self.source(inner.trim(), Class::Predicate)?;
            let negated = self.new_register(Class::Predicate);
            self.lanes("not.pred", negated, &[source])?;
            return Ok(negated);
        }
        match self.symbol(text) {
            Some(Symbol::Register(register)) => {
                let actual = self.classes[register as usize];
                if actual != class {
                    return Err(format!("operand {text} is of another width ({actual:?}, not {class:?})"));
                }
                return Ok(register);
            }
            Some(Symbol::Shared(offset) | Symbol::Local(offset)) => return Ok(self.constant(offset as u64, class)),
            Some(Symbol::DynamicShared) => return Ok(self.fixed(Fixed::DynamicShared, class)),
            Some(Symbol::Variable(index)) => return Ok(self.fixed(Fixed::Variable { index, offset: 0 }, class)),
            Some(Symbol::Parameter(offset)) => return Ok(self.fixed(Fixed::ParameterAddress(offset), class)),
            None => {}
        }
        if text == "WARP_SZ" {
            return Ok(self.constant(32, class));
        }
        if text.starts_with('%') {
            return Ok(self.fixed(Fixed::Special(special(text).ok_or_else(|| format!("unknown register {text}"))?), class));
        }
        if let Some((name, offset)) = text.split_once('+')
            && let Some(Symbol::Variable(index)) = self.symbol(name.trim())
        {
            let offset = offset.trim().parse().map_err(|_| format!("operand {text:?} not understood"))?;
            return Ok(self.fixed(Fixed::Variable { index, offset }, class));
        }
        let bits = text::number(text, class == Class::Double).ok_or_else(|| format!("operand {text:?} not understood"))?;
        Ok(self.constant(bits, class))
    }

    /// The register of a destination; `_` is a register that nobody reads.
    pub fn destination(&mut self, text: &str, class: Class) -> Result<u32, String> {
        if text == "_" {
            return Ok(self.new_register(class));
        }
        match self.symbol(text) {
            Some(Symbol::Register(register)) if self.classes[register as usize] == class => Ok(register),
            Some(Symbol::Register(_)) => Err(format!("destination {text} is of another width")),
            _ => Err(format!("unknown destination {text}")),
        }
    }

    /// `[%rd1+16]`: how the address is made, and its register or [`NONE`].
    pub fn address(&mut self, text: &str, space: Space) -> Result<(Address, u32), String> {
        let inner = text.trim().strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or_else(|| format!("address {text:?}"))?.trim();
        let (name, offset) = match inner.rfind(['+', '-']).filter(|at| *at > 0) {
            Some(at) => {
                let magnitude = text::number(inner[at + 1..].trim(), true).ok_or_else(|| format!("address {text:?}"))? as i64;
                (inner[..at].trim(), if inner.as_bytes()[at] == b'-' { -magnitude } else { magnitude })
            }
            None => (inner, 0),
        };
        // `[%rd1+-8]`
        let (name, offset) = name.strip_suffix('+').map_or((name, offset), |name| (name.trim(), offset));
        let fixed = |offset| Ok((Address { space, base: None, offset }, NONE));
        match self.symbol(name) {
            Some(Symbol::Register(register)) => {
                let base = Some(self.classes[register as usize]);
                Ok((Address { space, base, offset }, register))
            }
            Some(Symbol::Shared(at)) => Ok((Address { space: Space::Shared, base: None, offset: at as i64 + offset }, NONE)),
            Some(Symbol::Local(at)) => Ok((Address { space: Space::Local, base: None, offset: at as i64 + offset }, NONE)),
            Some(Symbol::DynamicShared) => {
                let register = self.fixed(Fixed::DynamicShared, Class::Word);
                Ok((Address { space, base: Some(Class::Word), offset }, register))
            }
            Some(Symbol::Variable(index)) => {
                let register = self.fixed(Fixed::Variable { index, offset: 0 }, Class::Double);
                Ok((Address { space, base: Some(Class::Double), offset }, register))
            }
            Some(Symbol::Parameter(at)) => {
                let register = self.fixed(Fixed::ParameterAddress(at), Class::Double);
                Ok((Address { space: Space::Global, base: Some(Class::Double), offset }, register))
            }
            None => match text::number(name, true) {
                Some(at) => fixed(at as i64 + offset),
                None => Err(format!("address {text:?} not understood")),
            },
        }
    }

    /// A source that may lie in a wider register than its type (`st.u32` of a 64-bit one): its lower half.
    pub fn source_or_wider(&mut self, text: &str, class: Class) -> Result<u32, String> {
        if let (Some(Symbol::Register(register)), Class::Word) = (self.symbol(text), class)
            && self.classes[register as usize] == Class::Double
        {
            let lower = self.new_register(Class::Word);
            self.lanes("part0.b64", lower, &[register])?;
            return Ok(lower);
        }
        self.source(text, class)
    }

    /// A destination that may be wider than the value: the register to write, and the wider one to extend it to.
    pub fn destination_or_wider(&mut self, text: &str, class: Class) -> Result<(u32, Option<u32>), String> {
        if let (Some(Symbol::Register(register)), Class::Word) = (self.symbol(text), class)
            && self.classes[register as usize] == Class::Double
        {
            return Ok((self.new_register(Class::Word), Some(register)));
        }
        Ok((self.destination(text, class)?, None))
    }
}

fn special(name: &str) -> Option<Special> {
    let (name, axis) = match name.split_once('.') {
        Some((name, axis)) => (name, Some(["x", "y", "z"].iter().position(|a| *a == axis)? as u8)),
        None => (name, None),
    };
    Some(match (name, axis) {
        ("%tid", Some(axis)) => Special::Thread(axis),
        ("%ntid", Some(axis)) => Special::BlockSize(axis),
        ("%ctaid", Some(axis)) => Special::Block(axis),
        ("%nctaid", Some(axis)) => Special::Grid(axis),
        ("%laneid", None) => Special::Lane,
        ("%warpid", None) => Special::Warp,
        ("%nwarpid", None) => Special::Warps,
        ("%lanemask_eq", None) => Special::LanesEqual,
        ("%lanemask_lt", None) => Special::LanesLess,
        ("%lanemask_le", None) => Special::LanesLessEqual,
        ("%lanemask_gt", None) => Special::LanesGreater,
        ("%lanemask_ge", None) => Special::LanesGreaterEqual,
        ("%dynamic_smem_size", None) => Special::DynamicSharedBytes,
        ("%clock" | "%clock_hi" | "%clock64" | "%smid" | "%nsmid" | "%gridid" | "%globaltimer", None) => Special::Zero,
        _ => return None,
    })
}
