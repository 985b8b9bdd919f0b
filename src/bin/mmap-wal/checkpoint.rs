//! `checkpoint`: notes that everything up to a record has been applied.

use std::path::PathBuf;

use mmap_wal::Options;

use crate::failure::{OK, Outcome};

/// Note durably that everything up to a record has been applied elsewhere. A lower number changes nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// The last record that was applied.
    seq: u64,
}

/// Opens the log, which must be there, and notes it.
pub(crate) fn run(args: &Args) -> Outcome {
    let wal = Options::new().create(false).open(&args.dir)?;
    wal.checkpoint(args.seq)?;
    wal.close()?;
    Ok(OK)
}
