//! `cargo run -p xtask --features grpc -- grpc [--check]`: makes the gRPC code from the .proto files.
//!
//! The result is committed, so that building needs neither a generator nor `protoc`. Run it after every
//! change of a .proto file; `--check` only says whether somebody forgot to.
#![allow(
    clippy::disallowed_methods,
    reason = "a chore on the developer's own files, not product code"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

/// What to do with the result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Put it into the source tree.
    Write,
    /// Fail if the source tree has something else.
    Check,
}

/// One .proto file and what is made of it.
struct Api {
    proto: &'static str,
    package: &'static str,
    code: &'static str,
}

const APIS: [Api; 2] = [
    Api {
        proto: "controller.proto",
        package: "io.pravega.controller.stream.api.grpc.v1",
        code: "generated.rs",
    },
    Api {
        proto: "internal.proto",
        package: "sarit.internal.v1",
        code: "internal.rs",
    },
];

const HEADER: &str = "//! Made from `proto/grpc/NAME` by `cargo xtask grpc`: don't edit.\n\n";

/// Generates every API.
///
/// # Errors
/// A .proto file that does not compile; with [`Mode::Check`], committed code that is out of date.
pub(crate) fn run(mode: Mode) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    // Inside of the build directory, which is ignored and may be written to.
    let scratch = std::env::current_exe().context("find the build directory")?;
    let scratch = scratch.with_file_name("xtask-grpc");
    fs::create_dir_all(&scratch).context("make a scratch directory")?;
    for api in &APIS {
        let code = generate(api, &root.join("grpc"), &scratch)?;
        let target = root.join("src/controller").join(api.code);
        match mode {
            Mode::Write => {
                fs::write(&target, code).with_context(|| format!("write {}", target.display()))?;
            }
            Mode::Check => {
                let committed = fs::read_to_string(&target)
                    .with_context(|| format!("read {}", target.display()))?;
                let name = api.code;
                ensure!(
                    committed == code,
                    "{name} is not what {} gives: run `cargo run -p xtask --features grpc -- grpc`",
                    api.proto
                );
            }
        }
    }
    Ok(())
}

fn generate(api: &Api, protos: &Path, scratch: &Path) -> anyhow::Result<String> {
    let descriptors =
        protox::compile([api.proto], [protos]).with_context(|| format!("compile {}", api.proto))?;
    tonic_prost_build::configure()
        .out_dir(scratch)
        // In the order of their keys, so that one message has one encoding.
        .btree_map(".")
        // A call that a server does not have answers UNIMPLEMENTED.
        .generate_default_stubs(true)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .with_context(|| format!("generate code for {}", api.proto))?;
    let file: PathBuf = scratch.join(format!("{}.rs", api.package));
    let generated =
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let code = HEADER.replace("NAME", api.proto) + &generated;
    fs::write(&file, code).context("write the code for formatting")?;
    format(&file)?;
    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

/// As `cargo fmt` would do it, so that the two never quarrel.
fn format(file: &Path) -> anyhow::Result<()> {
    let status = Command::new("rustfmt")
        .args(["--edition", "2024"])
        .arg(file)
        .status()
        .context("start rustfmt")?;
    if !status.success() {
        bail!("rustfmt failed on {}: {status}", file.display());
    }
    Ok(())
}
