//! `truncate`: removes records from the front.

use std::path::PathBuf;

use mmap_wal::Options;

use crate::failure::{OK, Outcome};

/// Remove the records up to one from the front. Works on a full disk.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// The last record to remove; a number behind the end removes all.
    #[arg(long, value_name = "SEQ")]
    up_to: u64,
}

/// Opens the log, which must be there, and truncates it.
pub(crate) fn run(args: &Args) -> Outcome {
    let wal = Options::new().create(false).open(&args.dir)?;
    wal.truncate_front(args.up_to)?;
    wal.close()?;
    Ok(OK)
}
