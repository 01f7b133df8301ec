//! PTX text cut into pieces: statements, labels, blocks. Not their meaning. Read next: `lower.rs`.

use super::ParseError;

/// A piece of a PTX text and the line it begins at.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub line: u32,
    pub what: What,
}

/// What a piece is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// A block opens; the text before it (`.visible .entry name(...)`), or nothing for a scope.
    Open(String),
    /// A block ends.
    Close,
    /// `name:`
    Label(String),
    /// Anything that ends with a semicolon, or a directive that ends with its line. White space is single blanks.
    Statement(String),
}

/// Directives that end with their line.
const LINES: [&str; 5] = [".version", ".target", ".address_size", ".file", ".loc"];

/// Cuts a text into pieces.
pub(crate) fn pieces(text: &str) -> Result<Vec<Piece>, ParseError> {
    let clean = without_comments(text);
    let bytes = clean.as_bytes();
    let mut out = Vec::new();
    let (mut at, mut line) = (0, 1u32);
    let mut statement = String::new();
    let mut start = 1;
    let mut braces = 0; // of vector operands and initialisers, which are no blocks
    while at < bytes.len() {
        let byte = bytes[at];
        if statement.is_empty() && !byte.is_ascii_whitespace() {
            start = line;
            let end_of_line = clean[at..].find('\n').map_or(clean.len(), |n| at + n);
            let rest = &clean[at..end_of_line];
            let word = rest.split_ascii_whitespace().next().unwrap_or("");
            if LINES.contains(&word) {
                out.push(Piece { line, what: What::Statement(rest.split_whitespace().collect::<Vec<_>>().join(" ")) });
                at = end_of_line;
                continue;
            }
            if rest.starts_with(".section") {
                let end = clean[at..].find('}').map_or(clean.len(), |n| at + n + 1);
                line += clean[at..end].matches('\n').count() as u32;
                at = end;
                continue;
            }
        }
        match byte {
            b'\n' => {
                line += 1;
                blank(&mut statement);
            }
            byte if byte.is_ascii_whitespace() => blank(&mut statement),
            b'{' if braces == 0 && opens_block(&statement) => {
                out.push(Piece { line: start, what: What::Open(std::mem::take(&mut statement).trim().to_string()) });
            }
            b'{' => {
                braces += 1;
                statement.push('{');
            }
            b'}' if braces > 0 => {
                braces -= 1;
                statement.push('}');
            }
            b'}' => {
                if !statement.trim().is_empty() {
                    return Err(ParseError::new(line, &statement, "a statement without an end"));
                }
                out.push(Piece { line, what: What::Close });
            }
            b';' => {
                let text = std::mem::take(&mut statement).trim().to_string();
                if !text.is_empty() {
                    out.push(Piece { line: start, what: What::Statement(text) });
                }
            }
            b':' if braces == 0 && is_name(statement.trim()) && bytes.get(at + 1) != Some(&b':') => {
                out.push(Piece { line: start, what: What::Label(std::mem::take(&mut statement).trim().to_string()) });
            }
            b'"' => {
                let end = clean[at + 1..].find('"').map_or(clean.len() - 1, |n| at + 1 + n);
                statement.push_str(&clean[at..=end]);
                at = end;
            }
            byte => statement.push(byte as char),
        }
        at += 1;
    }
    Ok(out)
}

fn blank(statement: &mut String) {
    if !statement.is_empty() && !statement.ends_with(' ') {
        statement.push(' ');
    }
}

fn opens_block(statement: &str) -> bool {
    let statement = statement.trim();
    statement.is_empty() || (statement.starts_with('.') && (statement.contains(".entry") || statement.contains(".func")))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'%'))
}

/// Blanks comments out, keeps line ends.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        let length = if tail.starts_with("//") {
            tail.find('\n').unwrap_or(tail.len())
        } else if tail.starts_with("/*") {
            tail.find("*/").map_or(tail.len(), |n| n + 2)
        } else {
            out.push('/');
            rest = &tail[1..];
            continue;
        };
        out.extend(tail[..length].chars().filter(|c| *c == '\n'));
        rest = &tail[length..];
    }
    out.push_str(rest);
    out
}

/// Cuts at commas outside of brackets and braces.
pub(crate) fn operands(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(text[start..at].trim().to_string());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        out.push(text[start..].trim().to_string());
    }
    out
}

/// `{a, b}` or `a` as a list.
pub(crate) fn vector(text: &str) -> Vec<String> {
    let inner = text.trim().trim_start_matches('{').trim_end_matches('}');
    inner.split(',').map(|part| part.trim().to_string()).filter(|part| !part.is_empty()).collect()
}

/// A number as PTX writes it: its bits for an operand of 32 or 64 bits. `0f` (f32) becomes an f64 where 64 bits are wanted.
pub(crate) fn number(text: &str, wide: bool) -> Option<u64> {
    let hexadecimal = |digits: &str| u64::from_str_radix(digits, 16).ok();
    if let Some(digits) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
        let bits = hexadecimal(digits)? as u32;
        return Some(if wide { (f32::from_bits(bits) as f64).to_bits() } else { bits as u64 });
    }
    if let Some(digits) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
        let bits = hexadecimal(digits)?;
        return Some(if wide { bits } else { (f64::from_bits(bits) as f32).to_bits() as u64 });
    }
    let (negative, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (true, rest.trim()),
        None => (false, text),
    };
    let magnitude = magnitude.trim_end_matches('U');
    if !magnitude.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let value = if let Some(digits) = magnitude.strip_prefix("0x").or(magnitude.strip_prefix("0X")) {
        hexadecimal(digits)?
    } else if magnitude.contains('.') {
        let number: f64 = text.parse().ok()?;
        return Some(if wide { number.to_bits() } else { (number as f32).to_bits() as u64 });
    } else {
        magnitude.parse().ok()?
    };
    Some(if negative { (value as i64).wrapping_neg() as u64 } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_blocks_labels_and_vectors() {
        let text =
            ".version 8.0\n.visible .entry k(\n .param .u64 p\n)\n{\n// note\n$L1:\n\tld.v2.u32 {%r1, %r2}, [%rd1];\n{ .reg .b32 t; }\n}\n";
        let pieces = pieces(text).unwrap();
        let what: Vec<_> = pieces.iter().map(|p| p.what.clone()).collect();
        assert_eq!(what[0], What::Statement(".version 8.0".into()));
        assert_eq!(what[1], What::Open(".visible .entry k( .param .u64 p )".into()));
        assert_eq!(what[2], What::Label("$L1".into()));
        assert_eq!(what[3], What::Statement("ld.v2.u32 {%r1, %r2}, [%rd1]".into()));
        assert_eq!(pieces[3].line, 8);
        assert_eq!(what[4..], [What::Open(String::new()), What::Statement(".reg .b32 t".into()), What::Close, What::Close]);
    }

    #[test]
    fn reads_numbers() {
        assert_eq!(number("0f3F800000", false), Some(0x3f80_0000));
        assert_eq!(number("0f3F800000", true), Some(1f64.to_bits()));
        assert_eq!(number("-2", true), Some(-2i64 as u64));
        assert_eq!(number("0xff", false), Some(255));
        assert_eq!(number("%r1", false), None);
    }
}
