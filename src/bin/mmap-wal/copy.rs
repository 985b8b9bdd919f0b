//! `copy`: a backup.

use std::io::{Write, stdout};
use std::path::PathBuf;

use mmap_wal::inspect::{Copied, Log};
use serde_json::{Value, json};

use crate::bar::progress_bar;
use crate::failure::{Failure, OK, Outcome};

/// Copy the log as it is at this moment to another directory, also while it is written.
///
/// The copy is a log of its own, verified and durable when this ends. Run again, it goes on with a copy that was not
/// finished, and adds what came since to one that was.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// The directory of the copy, which must not be there, be empty, or hold an earlier copy of the log.
    dest: PathBuf,
    /// Copy only the records behind this one, which must end a batch.
    #[arg(long, value_name = "SEQ", default_value_t = 0, hide_default_value = true)]
    after: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Copies, and says what the copy holds.
pub(crate) fn run(args: &Args) -> Outcome {
    let log = Log::open(&args.dir)?;
    let bar = progress_bar();
    let copied = log.copy(&args.dest, args.after, |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
    });
    bar.finish_and_clear();
    let copied = copied?;
    let text = if args.json { format!("{}\n", as_json(&copied)) } else { as_text(&copied) };
    stdout().lock().write_all(text.as_bytes()).map_err(|e| Failure::output(&e))?;
    Ok(OK)
}

fn as_json(copied: &Copied) -> Value {
    json!({
        "schema": 1,
        "first_seq": copied.first_seq,
        "last_seq": copied.last_seq,
        "checkpoint_seq": copied.checkpoint_seq,
        "held": copied.held,
        "missing": missing(copied),
        "name_synced": copied.name_synced,
        "records": copied.records,
        "bytes": copied.bytes,
        "segments": copied.segments,
    })
}

/// Numbers from the first record to the last that no record of the copy has.
fn missing(copied: &Copied) -> u64 {
    (copied.last_seq + 1).saturating_sub(copied.first_seq).saturating_sub(copied.held)
}

fn as_text(copied: &Copied) -> String {
    let Copied { first_seq, last_seq, held, records, bytes, segments, .. } = copied;
    let held = match (*held, missing(copied)) {
        (0, _) => format!("no record, {} is next", last_seq + 1),
        (_, 0) => format!("records {first_seq} to {last_seq}"),
        (held, missing) => format!("records {first_seq} to {last_seq} ({held}, {missing} were lost in a repair)"),
    };
    format!("copied {records} records of {bytes} bytes in {segments} segments; the copy holds {held}, verified\n")
}
