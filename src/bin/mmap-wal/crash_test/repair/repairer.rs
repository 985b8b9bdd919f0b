//! The child: a repair.

use std::io::{self, BufRead, BufReader, Write, stdout};
use std::path::PathBuf;
use std::process::ChildStdout;
use std::time::{Duration, Instant};

use mmap_wal::inspect::Log;

use crate::crash_test::child::Heard;
use crate::failure::{Failure, OK, Outcome};

/// What it says when it begins to write, and when it has written everything.
const PLANNED: &str = "planned";
const REPAIRED: &str = "repaired";

/// Plan a repair and carry it out.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
}

/// Repairs, and says how far it is.
pub(crate) fn run(args: &Args) -> Outcome {
    let log = Log::open(&args.dir)?;
    let plan = log.plan_repair()?;
    say(PLANNED)?;
    log.repair(&plan)?;
    say(REPAIRED)?;
    Ok(OK)
}

fn say(word: &str) -> Result<(), Failure> {
    let mut output = stdout().lock();
    writeln!(output, "{word}").and_then(|()| output.flush()).map_err(|e| Failure::output(&e))
}

/// Listens to a repair until it is gone; returns how long it wrote if it was heard to get through.
pub(crate) fn listen(stdout: ChildStdout, heard: &Heard) -> io::Result<Option<Duration>> {
    let mut begun = None;
    for line in BufReader::new(stdout).lines() {
        match (line?.as_str(), begun) {
            (PLANNED, None) => {
                begun = Some(Instant::now());
                heard.tell();
            }
            (REPAIRED, Some(since)) => return Ok(Some(since.elapsed())),
            (other, _) => return Err(io::Error::other(format!("the repair said {other:?}"))),
        }
    }
    Ok(None)
}
