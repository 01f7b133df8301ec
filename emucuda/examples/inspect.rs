//! Parses PTX files and says what they hold: kernels, parameters, memory. `cargo run -p emucuda --example inspect -- FILE.ptx...`

fn main() {
    for path in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        let start = std::time::Instant::now();
        match emucuda::parse(&text) {
            Ok(module) => {
                println!("{path}: {} kernels, {} variables, parsed in {:?}", module.kernels.len(), module.variables.len(), start.elapsed());
                for kernel in &module.kernels {
                    println!(
                        "  {}: {} parameters ({} bytes), at most {} threads, {} bytes of shared, {} of local memory",
                        kernel.name,
                        kernel.parameters.len(),
                        kernel.parameter_bytes,
                        kernel.max_threads,
                        kernel.shared_bytes,
                        kernel.local_bytes
                    );
                }
            }
            Err(error) => println!("{path}: {error}"),
        }
    }
}
