//! `replay`: the records, in order.

use std::io::{BufWriter, Write, stdout};
use std::path::PathBuf;

use mmap_wal::inspect::Log;
use mmap_wal::{Error, Reader, Snapshot};

use crate::failure::{Code, FAILED, Failure, OK, Outcome, complain, sentence_of};
use crate::format::Format;
use crate::tail;

const BUFFER: usize = 256 << 10;

/// Print the records, one per line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// Only records with a higher sequence number; 0 is all.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// Then go on with the records that are appended, until killed.
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    format: Format,
}

/// Prints the records; of a damaged log those before the damage, and then what is wrong.
pub(crate) fn run(args: &Args) -> Outcome {
    if args.follow {
        return tail::follow(&Reader::open(&args.dir)?, args.after, args.format);
    }
    let mut output = BufWriter::with_capacity(BUFFER, stdout().lock());
    let prefix = Log::open(&args.dir)?.prefix()?;
    let printed = match (&prefix.snapshot, &prefix.damage) {
        // Of a log that is cut short by damage, what lies behind is not "ahead" of it.
        (Some(snapshot), Some(_)) if args.after > snapshot.last_seq() => Ok(OK),
        (Some(snapshot), _) => print_all(args, snapshot, &mut output),
        (None, _) => Ok(OK),
    };
    output.flush().map_err(|e| Failure::output(&e))?;
    let code = printed?;
    prefix.damage.map_or(Ok(code), |damage| Err(damage.into()))
}

fn print_all(args: &Args, snapshot: &Snapshot, output: &mut impl Write) -> Outcome {
    let (mut code, mut cursor) = (OK, snapshot.cursor(args.after)?);
    loop {
        match cursor.next() {
            Ok(None) => return Ok(code),
            Ok(Some(record)) => args.format.print(&record, output).map_err(|e| Failure::output(&e))?,
            Err(gap @ Error::Gap { .. }) => {
                output.flush().map_err(|e| Failure::output(&e))?;
                complain(&sentence_of(&gap));
                code = Code(FAILED);
            }
            Err(e) => return Err(e.into()),
        }
    }
}
