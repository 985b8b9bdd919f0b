//! `tail`: the records as they are appended.

use std::io::{BufWriter, ErrorKind, Write, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use mmap_wal::{Error, Idle, Reader, Tail};

use crate::failure::{Failure, OK, Outcome, complain, sentence_of};
use crate::format::Format;

const BUFFER: usize = 256 << 10;
/// How long one wait for records is; another follows.
const WAIT: Duration = Duration::from_secs(1);
/// Between two looks for a log that is not there yet.
const LOOK: Duration = Duration::from_millis(20);

/// Print the records as they are appended, one per line, until killed.
///
/// Begins behind the last record, or behind SEQ. Goes on over rotations and when the writer dies and another comes. What
/// was truncated before it was printed, or printed and then cut off, is told on standard error, and it goes on behind.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// Begin behind this record and not at the end; 0 is the front.
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Print only what is durable.
    #[arg(long)]
    durable: bool,
    /// Wait for the log if it is not there yet.
    #[arg(long)]
    wait: bool,
    /// End after so many records.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// What to do between two looks.
    #[arg(long, value_enum, default_value = "backoff")]
    idle: Between,
    /// Say how far it has come, for `top`.
    #[arg(long)]
    announce: bool,
    #[command(flatten)]
    format: Format,
}

/// What is done between two looks.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Between {
    /// Look again at once: the shortest latency, for a core of its own.
    Spin,
    /// Give the core to others.
    Yield,
    /// Spin, then yield, then sleep, at most 1 ms.
    Backoff,
}

impl From<Between> for Idle {
    fn from(between: Between) -> Self {
        match between {
            Between::Spin => Self::Spin,
            Between::Yield => Self::Yield,
            Between::Backoff => Self::Backoff,
        }
    }
}

/// Prints what comes.
pub(crate) fn run(args: &Args) -> Outcome {
    let reader = if args.wait { awaited(&args.dir)? } else { Reader::open(&args.dir)? };
    let tail = match args.after {
        Some(after) => reader.tail(after)?,
        None => at_the_end(&reader)?,
    };
    let tail = tail.durable_only(args.durable).idle(args.idle.into());
    let tail = if args.announce { tail.announced()? } else { tail };
    print(tail, args.format, args.count)
}

/// Prints everything behind `after`, and what comes.
pub(crate) fn follow(reader: &Reader, after: u64, format: Format) -> Outcome {
    print(reader.tail(after)?, format, None)
}

/// A tail that shows what comes from now on.
fn at_the_end(reader: &Reader) -> Result<Tail, Failure> {
    loop {
        match reader.tail(reader.snapshot()?.last_seq()) {
            // Truncated or cut between the two.
            Err(Error::Truncated { .. } | Error::Ahead { .. }) => {}
            other => return Ok(other?),
        }
    }
}

/// The log in `dir`, once there is one.
fn awaited(dir: &Path) -> Result<Reader, Failure> {
    loop {
        match Reader::open(dir) {
            Err(Error::Io(failure)) if failure.source.kind() == ErrorKind::NotFound => std::thread::sleep(LOOK),
            other => return Ok(other?),
        }
    }
}

fn print(mut tail: Tail, format: Format, count: Option<u64>) -> Outcome {
    let mut output = BufWriter::with_capacity(BUFFER, stdout().lock());
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        match tail.try_next() {
            Ok(Some(record)) => {
                format.print(&record, &mut output).map_err(|e| Failure::output(&e))?;
                left -= 1;
                continue;
            }
            Ok(None) => {}
            Err(e) => {
                output.flush().map_err(|e| Failure::output(&e))?;
                go_on(&mut tail, e)?;
                continue;
            }
        }
        // Whatever is there is shown before anything is waited for.
        output.flush().map_err(|e| Failure::output(&e))?;
        if let Err(e) = tail.wait(WAIT) {
            go_on(&mut tail, e)?;
        }
    }
    output.flush().map_err(|e| Failure::output(&e))?;
    Ok(OK)
}

/// Says what is missing, and goes on behind it.
fn go_on(tail: &mut Tail, e: Error) -> Result<(), Failure> {
    let after = match e {
        Error::Truncated { first_seq } => Some(first_seq - 1),
        Error::TruncatedBack { last_seq } => Some(last_seq),
        Error::Gap { .. } => None,
        other => return Err(other.into()),
    };
    complain(&sentence_of(&e));
    let Some(mut after) = after else { return Ok(()) };
    loop {
        // The writer may truncate or cut once more in between.
        after = match tail.seek(after) {
            Err(Error::Truncated { first_seq }) => first_seq - 1,
            Err(Error::Ahead { last_seq }) => last_seq,
            done => return Ok(done?),
        };
    }
}
