//! The chores of this repository: `cargo xtask COMMAND`.

#[cfg(feature = "grpc")]
mod grpc;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        #[cfg(feature = "grpc")]
        ["grpc"] => grpc::run(grpc::Mode::Write),
        #[cfg(feature = "grpc")]
        ["grpc", "--check"] => grpc::run(grpc::Mode::Check),
        #[cfg(not(feature = "grpc"))]
        ["grpc", ..] => anyhow::bail!("run it as: cargo run -p xtask --features grpc -- grpc"),
        _ => anyhow::bail!("usage: cargo xtask grpc [--check]"),
    }
}
