//! `verify`: reads everything.

use std::io::{Write, stdout};
use std::path::PathBuf;

use mmap_wal::inspect::{Log, Verification};
use mmap_wal::{Cut, Error, TailState};
use serde_json::{Value, json};

use crate::bar::progress_bar;
use crate::failure::{CORRUPT, Code, FAILED, Failure, OK, Outcome, code_of, complain, sentence_of};
use crate::stat::{cut_json, lock_word};

/// Read everything and verify every checksum, also while the log is written.
///
/// Exits with 1 if the end is torn (nothing that was durable is lost by that), and with 2 if something is damaged.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Reads, and says what was found.
pub(crate) fn run(args: &Args) -> Outcome {
    let log = Log::open(&args.dir)?;
    let bar = progress_bar();
    let found = log.verify(|progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
    })?;
    bar.finish_and_clear();
    let text = if args.json { format!("{}\n", as_json(&found)) } else { as_text(&found) };
    stdout().lock().write_all(text.as_bytes()).map_err(|e| Failure::output(&e))?;
    found.damages.iter().for_each(|damage| complain(&sentence_of(damage)));
    if let Some(cut) = torn(&found) {
        complain(&torn_sentence(cut));
    }
    Ok(code(&found))
}

/// What is torn; nothing while somebody is writing it.
fn torn(found: &Verification) -> Option<Cut> {
    found.cut.filter(|_| found.tail == Some(TailState::Torn) && found.writer.is_none())
}

fn torn_sentence(Cut { segment, offset, bytes, records }: Cut) -> String {
    format!(
        "the log ends in {bytes} torn bytes with {records} whole records at byte {offset} of segment {segment}; \
         open it for writing to cut them, nothing that was durable is lost"
    )
}

fn code(found: &Verification) -> Code {
    let of = |damage: &Error| code_of(damage);
    if found.damages.iter().any(|damage| of(damage) == CORRUPT) {
        return Code(CORRUPT);
    }
    match found.damages.first() {
        Some(damage) => Code(of(damage)),
        None if torn(found).is_some() => Code(FAILED),
        None => OK,
    }
}

/// One word for the end.
fn tail(found: &Verification) -> &'static str {
    match found.tail {
        None => "unknown",
        Some(TailState::Torn) if found.writer.is_some() => "being-written",
        Some(tail) => tail.as_str(),
    }
}

fn as_json(found: &Verification) -> Value {
    let damage = |damage: &Error| match damage {
        Error::Corrupt(corruption) => json!({
            "sentence": sentence_of(damage),
            "file": corruption.path.to_string_lossy(),
            "segment": corruption.segment,
            "offset": corruption.offset,
            "expected_seq": corruption.expected_seq,
        }),
        Error::MissingSegment(missing) => json!({
            "sentence": sentence_of(damage),
            "file": missing.path.to_string_lossy(),
        }),
        other => json!({ "sentence": sentence_of(other) }),
    };
    json!({
        "schema": 1,
        "ok": code(found) == OK,
        "first_seq": found.first_seq,
        "last_seq": found.last_seq,
        "tail": tail(found),
        "cut": cut_json(found.cut),
        "writer": found.writer,
        "writer_lock": lock_word(found.writer_lock),
        "segments": found.segments,
        "records": found.records,
        "truncated": found.truncated,
        "bytes": found.bytes,
        "damages": found.damages.iter().map(damage).collect::<Vec<Value>>(),
    })
}

fn as_text(found: &Verification) -> String {
    let Verification { records, truncated, bytes, segments, .. } = found;
    let truncated = if *truncated == 0 { String::new() } else { format!(" and {truncated} truncated ones") };
    let verdict = match (found.damages.len(), torn(found)) {
        (0, None) => "ok".to_owned(),
        (0, Some(_)) => "torn".to_owned(),
        (1, _) => "1 damage".to_owned(),
        (count, _) => format!("{count} damages"),
    };
    format!(
        "{verdict}: {records} records{truncated} of {bytes} bytes verified in {segments} segments, {} end\n",
        tail(found)
    )
}
