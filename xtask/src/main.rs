//! The chores of this repository: `cargo xtask COMMAND`.

#[cfg(feature = "grpc")]
mod grpc;
mod planted;
mod test;

const USAGE: &str = "\
usage: cargo xtask COMMAND
  test [NAME…]     install what is missing, build, run all tests, or the test binaries whose name contains NAME
  planted [BUG…]   plant each bug in turn: simulated worlds, histories of containers or the controller's tests must find it
  bench [ARG…]     measure beside the machine's limits; `cargo xtask bench --help`
  grpc [--check]   regenerate the gRPC code; needs: cargo run -p xtask --features grpc -- grpc";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["test", names @ ..] => test::run(names),
        ["planted", bugs @ ..] => planted::run(bugs),
        ["bench", rest @ ..] => test::cargo(
            &[
                &["run", "--release", "--package", "sarit-bench", "--"],
                rest,
            ]
            .concat(),
        ),
        #[cfg(feature = "grpc")]
        ["grpc"] => grpc::run(grpc::Mode::Write),
        #[cfg(feature = "grpc")]
        ["grpc", "--check"] => grpc::run(grpc::Mode::Check),
        #[cfg(not(feature = "grpc"))]
        ["grpc", ..] => anyhow::bail!("run it as: cargo run -p xtask --features grpc -- grpc"),
        _ => anyhow::bail!("{USAGE}"),
    }
}
