//! From a kernel's signature to a Rust function that launches it, so that the order and the types of arguments are checked by
//! rustc.
//!
//! ```text
//! struct Dims { int n, c; };
//! extern "C" __global__ void __launch_bounds__(256) relu_forward(const T* x, T* y, A slope, Dims d) {
//! ```
//!
//! in `relu.cu` becomes, in the module `relu`,
//!
//! ```text
//! #[repr(C)] pub struct Dims { pub n: i32, pub c: i32 }
//! pub fn forward<T: Number>(launch: Launch, x: Const<'_, T>, y: Mut<'_, T>, slope: T::Sum, d: Dims) -> Result<()>
//! ```
//!
//! Not here: compiling (`compile.rs`). What the launcher calls is in `src/device/cuda/launch.rs`.

use std::fmt::Write as _;

/// One entry point of a unit.
#[derive(Debug)]
pub struct Kernel {
    /// As in the source: `relu_forward`.
    pub name: String,
    /// `__launch_bounds__`: the most threads of a block.
    pub threads: u32,
    /// Type and name of each parameter; types without `__restrict__`, as in `const T*`.
    parameters: Vec<(String, String)>,
}

/// A struct that kernels take by value.
#[derive(Debug, Clone)]
struct Struct {
    name: String,
    /// Rust type and name.
    fields: Vec<(String, String)>,
}

impl Struct {
    /// The same struct in Rust.
    fn declaration(&self) -> String {
        let Self { name, fields } = self;
        let generic = fields.iter().any(|(kind, _)| kind == "T::Sum");
        let (declared, used) = if generic { ("<T: Number>", "<T>") } else { ("", "") };
        let fields: String = fields.iter().map(|(kind, name)| format!("pub {name}: {kind},\n")).collect();
        format!(
            "#[repr(C)]\n#[derive(Debug, Clone, Copy)]\npub struct {name}{declared} {{\n{fields}}}\n\
             // SAFETY: made from the definition in the source, with the same layout.\n\
             unsafe impl{declared} Pass for {name}{used} {{}}\n"
        )
    }
}

/// The structs of a header that kernels of any unit take by value: units that include it share them.
pub fn shared(header: &str, text: &str, units: &[&str]) -> Result<String, String> {
    let mut all = Vec::new();
    for unit in units {
        all.extend(kernels(header, unit)?);
    }
    Ok(structs(header, text, &all)?.iter().map(Struct::declaration).collect())
}

/// A source without comments, so that words in them are not taken for code.
fn without_comments(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        out.push_str(&rest[..at]);
        let end = if rest[at..].starts_with("//") { rest[at..].find('\n') } else { rest[at..].find("*/").map(|e| e + 2) };
        rest = &rest[at + end.unwrap_or(rest.len() - at)..];
    }
    out + rest
}

/// The value of `128`, `32 * WARPS` or `THREADS`, with `#define` and `constexpr int` of the same source.
fn value(expression: &str, source: &str) -> Option<u32> {
    let factor = |word: &str| -> Option<u32> {
        if let Ok(number) = word.parse() {
            return Some(number);
        }
        let defined = source.lines().find_map(|line| {
            let words: Vec<&str> = line.split([' ', '=', ';']).filter(|w| !w.is_empty()).collect();
            match words[..] {
                ["#define", name, ref rest @ ..] if name == word => Some(rest.join(" ")),
                ["constexpr", "int", name, ref rest @ ..] | ["static", "constexpr", "int", name, ref rest @ ..] if name == word => {
                    Some(rest.join(" "))
                }
                _ => None,
            }
        })?;
        value(&defined, source)
    };
    expression.trim().trim_matches(['(', ')']).split('*').map(|word| factor(word.trim())).product()
}

/// All entry points of a source.
pub fn kernels(file: &str, source: &str) -> Result<Vec<Kernel>, String> {
    let source = without_comments(source);
    let mut kernels = Vec::new();
    for (at, _) in source.match_indices("extern \"C\" __global__") {
        let head = source[at..].split('{').next().unwrap_or_default();
        let fail = |what: &str| format!("{file}: {what} in '{}'", head.split_whitespace().collect::<Vec<_>>().join(" "));
        let (_, rest) = head.split_once("__launch_bounds__(").ok_or_else(|| fail("no __launch_bounds__"))?;
        let (bounds, rest) = rest.split_once(')').ok_or_else(|| fail("no end of __launch_bounds__"))?;
        let threads = bounds.split(',').next().and_then(|t| value(t, &source)).ok_or_else(|| fail("cannot read __launch_bounds__"))?;
        let (name, rest) = rest.split_once('(').ok_or_else(|| fail("no parameters"))?;
        let (list, _) = rest.rsplit_once(')').ok_or_else(|| fail("no end of the parameters"))?;
        let parameter = |p: &str| {
            let p = p.replace("__restrict__", " ").replace('*', "* ");
            let words: Vec<&str> = p.split_whitespace().collect();
            let (name, kind) = words.split_last().ok_or_else(|| fail("an empty parameter"))?;
            Ok::<_, String>((kind.join(" ").replace(" *", "*"), name.to_string()))
        };
        let parameters = list.split(',').map(parameter).collect::<Result<_, _>>()?;
        kernels.push(Kernel { name: name.trim().into(), threads, parameters });
    }
    Ok(kernels)
}

/// The structs of a source of which a kernel takes one by value.
fn structs(file: &str, source: &str, kernels: &[Kernel]) -> Result<Vec<Struct>, String> {
    let source = without_comments(source);
    let taken = |name: &str| kernels.iter().flat_map(|k| &k.parameters).any(|(kind, _)| kind == name);
    let mut structs = Vec::new();
    for (at, _) in source.match_indices("struct ") {
        let Some((name, rest)) = source[at + 7..].split_once('{') else { continue };
        let name = name.trim();
        if !taken(name) {
            continue;
        }
        let body = rest.split('}').next().unwrap_or_default();
        let mut fields = Vec::new();
        for line in body.split(';').map(str::trim).filter(|l| !l.is_empty()) {
            let (kind, names) = line.split_once(' ').ok_or_else(|| format!("{file}: cannot read '{line}' of struct {name}"))?;
            let kind = by_value(kind).ok_or_else(|| format!("{file}: a launcher cannot fill in '{line}' of struct {name}"))?;
            fields.extend(names.split(',').map(|field| (kind.to_string(), field.trim().to_string())));
        }
        structs.push(Struct { name: name.into(), fields });
    }
    Ok(structs)
}

/// The Rust type of a number, where `T` is a launcher's type parameter.
fn by_value(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "A" => "T::Sum",
        "int" => "i32",
        "u32" | "unsigned" => "u32",
        "u64" => "u64",
        "f32" | "float" => "f32",
        "f64" | "double" => "f64",
        _ => return None,
    })
}

/// The Rust type of a parameter.
fn rust_type(file: &str, kind: &str, structs: &[Struct]) -> Result<String, String> {
    let element = |kind: &str| match kind {
        "T" => Some("T"),
        "u8" => Some("u8"),
        "u16" => Some("u16"),
        "bf16" => Some("half::bf16"),
        "f16" => Some("half::f16"),
        _ => by_value(kind),
    };
    let found = match kind.strip_suffix('*') {
        Some(pointee) => match pointee.strip_prefix("const ") {
            Some(pointee) => element(pointee.trim()).map(|t| format!("Const<'_, {t}>")),
            None => element(pointee.trim()).map(|t| format!("Mut<'_, {t}>")),
        },
        None => match structs.iter().find(|s| s.name == kind) {
            Some(s) if s.fields.iter().any(|(kind, _)| kind == "T::Sum") => Some(format!("{kind}<T>")),
            Some(_) => Some(kind.to_string()),
            None => by_value(kind).map(String::from),
        },
    };
    found.ok_or_else(|| format!("{file}: a launcher cannot pass a parameter of type '{kind}'"))
}

/// The module of launchers of one unit. `unit` is its number in the table of units.
pub fn launchers(unit: usize, stem: &str, source: &str, headers: &[(&str, &str)]) -> Result<String, String> {
    let file = format!("{stem}.cu");
    let kernels = kernels(&file, source)?;
    let own = structs(&file, source, &kernels)?;
    let mut known = own.clone();
    for (name, text) in headers {
        known.extend(structs(name, text, &kernels)?);
    }
    let mut out = format!("/// Launchers of the kernels in `kernels/{file}`.\npub mod {stem} {{\nuse super::*;\n");
    let mut write = |text: String| out.write_str(&text).map_err(|e| e.to_string());
    for own in &own {
        write(own.declaration())?;
    }
    for (i, kernel) in kernels.iter().enumerate() {
        let name = kernel.name.strip_prefix(&format!("{stem}_")).unwrap_or(&kernel.name);
        let declared = kernel.parameters.iter().map(|(kind, name)| Ok(format!("{name}: {}", rust_type(&file, kind, &known)?)));
        let declared = declared.collect::<Result<Vec<_>, String>>()?.join(", ");
        let passed: Vec<String> = kernel.parameters.iter().map(|(_, name)| format!("argument(&{name})")).collect();
        write(format!("/// Launches `{}`: at most {} threads a block.\n", kernel.name, kernel.threads))?;
        write("#[allow(clippy::too_many_arguments)]\n".into())?;
        write(format!("pub fn {name}<T: Number>(launch: Launch, {declared}) -> Result<()> {{\n"))?;
        write(format!("launch.run::<T>({unit}, {i}, &mut [{}])\n}}\n", passed.join(", ")))?;
    }
    Ok(out + "}\n")
}
