//! `append`: each line of standard input is a record.

use std::io::{Read, Write, stdin, stdout};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use mmap_wal::Wal;
use mmap_wal::inspect::foreign_names;

use crate::acks::Acks;
use crate::failure::{FAILED, Failure, OK, Outcome};
use crate::parse::{LogArgs, Mode};
use crate::records::Records;

/// When a number is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ack {
    /// When the sync mode acknowledges the append.
    Published,
    /// When the record survives a power failure.
    Durable,
}

/// Append each line of standard input as a record.
///
/// The sequence number of each is printed when it is acknowledged.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log; created if it is not there, and refused if it holds other files and no log.
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// Make so many lines one atomic, durable batch; its last number is printed.
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<NonZeroUsize>,
    /// When a number is printed.
    #[arg(long, value_enum, default_value = "published")]
    ack: Ack,
    /// Records end with a NUL byte and not with a newline.
    #[arg(long)]
    null: bool,
    /// Print no numbers.
    #[arg(long)]
    quiet: bool,
}

/// Appends what standard input holds.
pub(crate) fn run(args: &Args) -> Outcome {
    feed(args, stdin().lock(), stdout().lock())
}

/// Appends the records of `input`, acknowledging them on `output`.
pub(crate) fn feed(args: &Args, input: impl Read, output: impl Write) -> Outcome {
    refuse_foreign(&args.dir)?;
    let wal = args.log.options().open(&args.dir)?;
    let mut records = Records::new(input, if args.null { 0 } else { b'\n' });
    // Batches, and single records in sync mode, are durable when they are acknowledged.
    let hold = args.ack == Ack::Durable && args.batch.is_none() && args.log.sync_mode != Mode::Sync;
    let mut acks = Acks::new(output, args.quiet, hold);
    let appended = match args.batch {
        None => singles(&wal, &mut records, &mut acks),
        Some(count) => batches(&wal, &mut records, &mut acks, count.get()),
    };
    let closed = wal.close();
    match appended {
        Err(failure) if !failure.is_quiet() => Err(failure),
        other => closed.map_err(Failure::from).and(other).map(|()| OK),
    }
}

/// How many names of foreign files are said.
const NAMED: usize = 3;

/// Refuses to make a log among files of something else: a mistyped path is the likelier reason.
fn refuse_foreign(dir: &Path) -> Result<(), Failure> {
    let names = foreign_names(dir)?;
    if names.is_empty() {
        return Ok(());
    }
    let more = names.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let said = names[..names.len().min(NAMED)].join(", ");
    let dir = dir.display();
    let advice = "give a directory that is empty, not there, or that of a log";
    Err(Failure::new(FAILED, format!("{dir} holds no log, but other files ({said}{more}); {advice}")))
}

fn singles<R: Read, W: Write>(wal: &Wal, records: &mut Records<R>, acks: &mut Acks<W>) -> Result<(), Failure> {
    let appended = loop {
        // Whoever waits for an acknowledgement before it sends more must get it.
        if !records.is_ready() {
            acks.flush(wal)?;
        }
        let seq = match records.next() {
            Ok(Some(record)) => wal.append(record),
            Ok(None) => break Ok(()),
            Err(e) => break Err(Failure::input(&e)),
        };
        match seq {
            Ok(seq) => acks.add(wal, seq)?,
            Err(e) => break Err(e.into()),
        }
    };
    // What was appended before a failure is acknowledged all the same, if it can be made durable.
    let flushed = acks.flush(wal);
    appended.and(flushed)
}

fn batches<R: Read, W: Write>(
    wal: &Wal,
    records: &mut Records<R>,
    acks: &mut Acks<W>,
    size: usize,
) -> Result<(), Failure> {
    let mut batch: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut count = 0;
        while count < size {
            let Some(record) = records.next().map_err(|e| Failure::input(&e))? else { break };
            if count == batch.len() {
                batch.push(Vec::new());
            }
            batch[count].clear();
            batch[count].extend_from_slice(record);
            count += 1;
        }
        let Some(last) = wal.append_batch(&batch[..count])?.last() else { return Ok(()) };
        acks.add(wal, last)?;
    }
}
