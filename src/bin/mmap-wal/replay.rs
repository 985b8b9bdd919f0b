//! `replay`: the records, in order.

use std::io::{self, BufWriter, Write, stdout};
use std::path::PathBuf;

use mmap_wal::inspect::Log;
use mmap_wal::{Error, Record, Snapshot};

use crate::failure::{Code, FAILED, Failure, OK, Outcome, complain, sentence_of};
use crate::text::base64;

const BUFFER: usize = 256 << 10;

/// Print the records, one per line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// Only records with a higher sequence number; 0 is all.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// Print SEQ, a tab and the payload.
    #[arg(long, conflicts_with = "json")]
    with_seq: bool,
    /// Print a JSON object per record; payloads that are not UTF-8 are in base64.
    #[arg(long)]
    json: bool,
    /// End records with a NUL byte and not with a newline.
    #[arg(long)]
    null: bool,
}

/// Prints the records; of a damaged log those before the damage, and then what is wrong.
pub(crate) fn run(args: &Args) -> Outcome {
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
    let mut code = OK;
    for record in snapshot.replay(args.after)? {
        match record {
            Ok(record) => print(args, &record, output).map_err(|e| Failure::output(&e))?,
            Err(gap @ Error::Gap { .. }) => {
                output.flush().map_err(|e| Failure::output(&e))?;
                complain(&sentence_of(&gap));
                code = Code(FAILED);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(code)
}

fn print(args: &Args, record: &Record<'_>, output: &mut impl Write) -> io::Result<()> {
    if args.json {
        print_json(record, output)?;
    } else {
        if args.with_seq {
            write!(output, "{}\t", record.seq())?;
        }
        output.write_all(record.payload())?;
    }
    output.write_all(if args.null { b"\0" } else { b"\n" })
}

fn print_json(record: &Record<'_>, output: &mut impl Write) -> io::Result<()> {
    let payload = record.payload();
    write!(output, "{{\"seq\":{},\"len\":{},", record.seq(), payload.len())?;
    match std::str::from_utf8(payload) {
        Ok(text) => {
            output.write_all(b"\"payload\":")?;
            serde_json::to_writer(&mut *output, text)?;
            output.write_all(b"}")
        }
        Err(_) => write!(output, "\"payload_base64\":\"{}\"}}", base64(payload)),
    }
}
