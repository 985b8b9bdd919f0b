//! `top`: a living log, again and again.

use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;
use std::time::Duration;

use mmap_wal::inspect::Log;

use crate::failure::{Failure, OK, Outcome};
use crate::live;
use crate::parse::duration;

/// Home, and everything behind erased.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Show what a log that is open for writing does, refreshed until killed: rates, what is durable, syncs, segments, and
/// the readers that say where they stand.
///
/// The counts of times are by powers of two: a quantile is the upper bound of its bucket.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// Time between two looks, e.g. 500ms or 2s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// End after so many looks.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Looks, and prints.
pub(crate) fn run(args: &Args) -> Outcome {
    let log = Log::open(&args.dir)?;
    let clear = if stdout().is_terminal() { CLEAR } else { "" };
    let mut before = None;
    for look in 1.. {
        let now = live::look(&log)?;
        let text = live::as_text(&now, before.as_ref());
        let written = writeln!(stdout().lock(), "{clear}{text}").and_then(|()| stdout().flush());
        written.map_err(|e| Failure::output(&e))?;
        if args.count.is_some_and(|count| look >= count) {
            break;
        }
        before = Some(now);
        std::thread::sleep(args.interval);
    }
    Ok(OK)
}
