//! `sarit admin metadata`: dump, load and check a controller's records while it does not run.

use std::sync::Arc;

use anyhow::Context as _;
use sarit_controller::store::{export, fsck, import, open_sled, open_sled_found};
use sarit_env::Rng;
use sarit_env::disk::RealDisk;

use crate::args::MetadataVerb;
use crate::exit::{Exit, Failure};
use crate::output::{print, print_line};

pub(crate) async fn run(verb: MetadataVerb) -> anyhow::Result<()> {
    let data = match &verb {
        MetadataVerb::Export { data } | MetadataVerb::Import { data } => data,
        MetadataVerb::Fsck { data } => data,
    };
    let rng = Rng::from_os();
    let disk = Arc::new(RealDisk);
    let store = match &verb {
        MetadataVerb::Import { .. } => open_sled(data, disk, &rng).await,
        // Looking at what is not there would only make it.
        MetadataVerb::Export { .. } | MetadataVerb::Fsck { .. } => {
            open_sled_found(data, disk, &rng).await
        }
    };
    let store = store.with_context(|| format!("open {}", data.display()))?;
    match verb {
        MetadataVerb::Export { .. } => {
            let dump = export(&*store).await?;
            print(dump.as_bytes())?;
        }
        MetadataVerb::Import { .. } => {
            let dump = std::io::read_to_string(std::io::stdin()).context("read the dump")?;
            let rows = import(&*store, &dump).await?;
            print_line(format_args!("{rows} rows"))?;
        }
        MetadataVerb::Fsck { .. } => {
            let wrong = fsck(store).await?;
            for fault in &wrong {
                print_line(fault)?;
            }
            if !wrong.is_empty() {
                let message = format!("{} faults", wrong.len());
                return Err(Failure::error(Exit::Failed, message));
            }
            print_line("no faults")?;
        }
    }
    Ok(())
}
