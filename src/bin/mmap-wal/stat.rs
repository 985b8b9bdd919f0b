//! `stat`: what the log is made of.

use std::fmt::{self, Write as _};
use std::io::{Write as _, stdout};
use std::path::PathBuf;

use mmap_wal::inspect::{Log, SegmentStat, Stat, WriterLock};
use mmap_wal::{Cut, TailState};
use serde_json::{Value, json};

use crate::failure::{Failure, OK, Outcome};
use crate::live;
use crate::text::{base64, beginning, hex};

/// Say what the log is made of and how it ends, also while it is written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Show what the log shows of itself while it is open for writing, and what that handle has counted.
    #[arg(long)]
    live: bool,
}

/// Looks, and prints.
pub(crate) fn run(args: &Args) -> Outcome {
    let log = Log::open(&args.dir)?;
    let text = if args.live { live_text(&log, args.json)? } else { stat_text(&log.stat()?, args.json) };
    stdout().lock().write_all(text.as_bytes()).map_err(|e| Failure::output(&e))?;
    Ok(OK)
}

fn stat_text(stat: &Stat, json: bool) -> String {
    if json { format!("{}\n", as_json(stat)) } else { as_text(stat) }
}

fn live_text(log: &Log, json: bool) -> Result<String, Failure> {
    let live = live::look(log)?;
    Ok(if json { format!("{}\n", live::as_json(&live)) } else { live::as_text(&live, None) })
}

/// What a cut is as JSON.
pub(crate) fn cut_json(cut: Option<Cut>) -> Value {
    let as_json =
        |cut: Cut| json!({"segment": cut.segment, "offset": cut.offset, "bytes": cut.bytes, "records": cut.records});
    cut.map_or(Value::Null, as_json)
}

/// One word for who holds the writer's lock.
pub(crate) fn lock_word(lock: WriterLock) -> &'static str {
    match lock {
        WriterLock::Held(_) => "held",
        WriterLock::Free => "free",
        _ => "unknown",
    }
}

fn as_json(stat: &Stat) -> Value {
    json!({
        "schema": 1,
        "first_seq": stat.first_seq,
        "last_seq": stat.last_seq,
        "records": stat.records,
        "gaps": stat.gaps.iter().map(|(from, to)| json!({"first_seq": from, "last_seq": to})).collect::<Vec<Value>>(),
        "checkpoint_seq": stat.checkpoint_seq,
        "tail": stat.tail.as_str(),
        "cut": cut_json(stat.cut),
        "closed": stat.closed,
        "seal_pending": stat.seal_pending,
        "generation": stat.generation,
        "log_id": hex(&stat.log_id),
        "user_tag": hex(&stat.user_tag),
        "meta_base64": base64(&stat.meta),
        "writer": stat.writer,
        "writer_lock": lock_word(stat.writer_lock),
        "bytes_on_disk": stat.bytes_on_disk,
        "segments": stat.segments.iter().map(segment_json).collect::<Vec<Value>>(),
        "leftovers": stat.leftovers,
        "kept": stat.kept,
        "others": stat.others,
    })
}

fn segment_json(segment: &SegmentStat) -> Value {
    json!({
        "ordinal": segment.ordinal,
        "role": segment.role.as_str(),
        "base_seq": segment.base_seq,
        "last_seq": segment.last_seq,
        "end_offset": segment.end_offset,
        "capacity": segment.capacity,
        "virgin": segment.virgin,
    })
}

fn as_text(stat: &Stat) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_text(stat, &mut text);
    text
}

fn write_text(stat: &Stat, text: &mut String) -> fmt::Result {
    match stat.records {
        0 => writeln!(text, "records     none, the next is {}", stat.last_seq + 1)?,
        count => writeln!(text, "records     {} to {} ({count})", stat.first_seq, stat.last_seq)?,
    }
    for (from, to) in &stat.gaps {
        writeln!(text, "missing     {from} to {to} ({}), lost in a repair", to - from + 1)?;
    }
    writeln!(text, "checkpoint  {}", stat.checkpoint_seq)?;
    writeln!(text, "tail        {}", tail_text(stat))?;
    match stat.writer_lock {
        WriterLock::Held(pid) => writeln!(text, "writer      process {pid}")?,
        WriterLock::Free => writeln!(text, "writer      none")?,
        _ => writeln!(text, "writer      not known from here")?,
    }
    writeln!(text, "log id      {}", hex(&stat.log_id))?;
    if stat.user_tag != [0; 16] {
        writeln!(text, "user tag    {}", hex(&stat.user_tag))?;
    }
    if !stat.meta.is_empty() {
        writeln!(text, "meta        {} ({} bytes)", beginning(&stat.meta, 48), stat.meta.len())?;
    }
    writeln!(text, "generation  {}", stat.generation)?;
    writeln!(text, "on disk     {} bytes", stat.bytes_on_disk)?;
    for (title, names) in [("left over", &stat.leftovers), ("kept", &stat.kept), ("not its own", &stat.others)] {
        if !names.is_empty() {
            writeln!(text, "{title:<11} {}", names.join(" "))?;
        }
    }
    writeln!(text, "segments    {}", stat.segments.len())?;
    stat.segments.iter().try_for_each(|segment| write_segment(segment, text))
}

fn tail_text(stat: &Stat) -> String {
    let closed = if stat.closed { ", closed" } else { "" };
    match stat.cut {
        _ if stat.tail == TailState::Torn && stat.writer.is_some() => "being written".to_owned(),
        Some(Cut { segment, offset, bytes, records }) => format!(
            "torn: {bytes} bytes with {records} whole records at byte {offset} of segment {segment} will be cut"
        ),
        None => format!("{}{closed}", stat.tail.as_str()),
    }
}

fn write_segment(segment: &SegmentStat, text: &mut String) -> fmt::Result {
    let SegmentStat { ordinal, role, base_seq, last_seq, end_offset, capacity, .. } = segment;
    write!(text, "  {ordinal:>8}  {:<6}  {capacity:>11} bytes", role.as_str())?;
    match base_seq {
        0 => writeln!(text),
        base if last_seq < base => writeln!(text, ", empty, the next is {base}"),
        base => writeln!(text, ", {base} to {last_seq}, end at {end_offset}"),
    }
}
