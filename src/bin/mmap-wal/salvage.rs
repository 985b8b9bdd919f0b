//! `salvage`: what verifies, in a new log.

use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::path::PathBuf;

use mmap_wal::inspect::{Log, Salvage};

use crate::failure::{Failure, OK, Outcome};

/// Copy every record that verifies into a new log, also while the log is written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// The directory of the new log, which must not be there or be empty.
    out: PathBuf,
}

/// Copies, and says how much that was.
pub(crate) fn run(args: &Args) -> Outcome {
    let done = Log::open(&args.dir)?.salvage(&args.out)?;
    stdout().lock().write_all(as_text(&done).as_bytes()).map_err(|e| Failure::output(&e))?;
    Ok(OK)
}

fn as_text(done: &Salvage) -> String {
    let Salvage { records, bytes, partial, gaps, next_seq, .. } = done;
    let mut text = format!("copied   {records} records of {bytes} bytes\n");
    // Writing to a string does not fail.
    if *partial > 0 {
        let _ = writeln!(text, "partial  {partial} of them, whose batch may not be whole");
    }
    for (from, to) in gaps {
        let _ = writeln!(text, "missing  records {from} to {to}");
    }
    let _ = writeln!(text, "next     record {next_seq}");
    text
}
