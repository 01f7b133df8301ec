//! What a kernel is put on to be tried: a machine, buffers, arguments.

use emucuda::{Fault, Kernel, Machine, Mode, parse};

/// A `.cu` file, with its PTX.
pub struct File {
    pub name: &'static str,
    pub source: &'static str,
    pub ptx: &'static str,
}

/// The file `kernels/NAME.cu`.
#[macro_export]
macro_rules! sources {
    ($name:literal) => {
        $crate::bench::File {
            name: $name,
            source: include_str!(concat!("../kernels/", $name, ".cu")),
            ptx: include_str!(concat!("../kernels/", $name, ".ptx")),
        }
    };
}

impl File {
    pub fn kernel(&self, name: &str) -> Kernel {
        let module = parse(self.ptx).unwrap_or_else(|e| panic!("{}.ptx: {e}", self.name));
        module.kernel(name).unwrap_or_else(|| panic!("{}.cu has no kernel {name}", self.name)).clone()
    }

    /// The lines that a report on this kernel may point at, as in `memory.cu:12`.
    pub fn marked(&self, kernel: &str) -> Vec<String> {
        let mark = format!("REPORT: {kernel}");
        let lines = self.source.lines().enumerate().filter(|(_, line)| line.ends_with(&mark));
        lines.map(|(at, _)| format!("{}.cu:{}", self.name, at + 1)).collect()
    }

    /// Whether a report names one of the marked lines: as its place, or as where its place was inlined.
    pub fn points_at_marked(&self, kernel: &str, report: &str) -> bool {
        let lines = self.marked(kernel);
        lines.iter().any(|line| [":", ")"].iter().any(|end| report.contains(&format!("{line}{end}"))))
    }
}

/// A number in memory or among the arguments.
pub trait Number: Copy {
    fn bytes(self) -> Vec<u8>;
    fn from(bytes: &[u8]) -> Self;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Number for $number {
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().into()
            }
            fn from(bytes: &[u8]) -> Self {
                <$number>::from_le_bytes(bytes.try_into().unwrap())
            }
        }
    )*};
}
numbers!(u8, i8, u16, i32, u32, i64, u64, f32, f64);

/// A launch's arguments, each as its bytes.
#[macro_export]
macro_rules! with {
    ($($argument:expr),* $(,)?) => { [$($crate::bench::Number::bytes($argument)),*] };
}

pub struct Bench {
    pub machine: Machine,
}

impl Bench {
    pub fn new(mode: Mode) -> Bench {
        Bench { machine: Machine::new(mode) }
    }

    /// A buffer with this content; gives its address.
    pub fn buffer<T: Number>(&mut self, content: &[T]) -> u64 {
        let bytes: Vec<u8> = content.iter().flat_map(|number| number.bytes()).collect();
        let address = self.empty(bytes.len());
        self.machine.write(address, &bytes).unwrap();
        address
    }

    /// A buffer of zeros.
    pub fn zeros(&mut self, bytes: usize) -> u64 {
        self.buffer(&vec![0u8; bytes])
    }

    /// A buffer that nobody has written to.
    pub fn empty(&mut self, bytes: usize) -> u64 {
        self.machine.allocate(bytes as u64).unwrap()
    }

    pub fn read<T: Number>(&self, address: u64, count: usize) -> Result<Vec<T>, Fault> {
        let mut bytes = vec![0; count * size_of::<T>()];
        self.machine.read(address, &mut bytes)?;
        Ok(bytes.chunks(size_of::<T>()).map(T::from).collect())
    }

    /// Launches a kernel of a one-dimensional grid.
    pub fn run<const N: usize>(&mut self, kernel: &Kernel, blocks: u32, threads: u32, arguments: [Vec<u8>; N]) -> Result<(), Fault> {
        self.launch(kernel, [blocks, 1, 1], [threads, 1, 1], 0, arguments)
    }

    pub fn launch<const N: usize>(
        &mut self,
        kernel: &Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        arguments: [Vec<u8>; N],
    ) -> Result<(), Fault> {
        assert_eq!(kernel.parameters.len(), N, "{} takes another number of arguments", kernel.name);
        let mut bytes = vec![0; kernel.parameter_bytes];
        for (parameter, argument) in kernel.parameters.iter().zip(arguments) {
            assert_eq!(parameter.size, argument.len(), "{} takes other types", kernel.name);
            bytes[parameter.offset..parameter.offset + parameter.size].copy_from_slice(&argument);
        }
        self.machine.launch(kernel, grid, block, shared, &bytes)
    }
}
