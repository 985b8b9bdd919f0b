//! What a living log shows of itself, as JSON and as text.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mmap_wal::Histogram;
use mmap_wal::inspect::{LiveStat, Log, ReaderStat, WriterState};
use serde_json::{Value, json};

use crate::failure::{FAILED, Failure};

/// What the log shows.
pub(crate) fn look(log: &Log) -> Result<LiveStat, Failure> {
    log.live()?.ok_or_else(|| Failure::new(FAILED, "the log shows nothing of itself; open it for writing first"))
}

/// As JSON.
pub(crate) fn as_json(live: &LiveStat) -> Value {
    let reader =
        |reader: &ReaderStat| json!({"pid": reader.pid, "seq": reader.seq, "updated": seconds(reader.updated)});
    let readers = live.readers.iter().map(reader);
    json!({
        "schema": 1,
        "pid": live.pid,
        "state": live.state.as_str(),
        "shown_by": live.shown_by,
        "is_current": live.is_current,
        "opened": seconds(live.opened),
        "updated": seconds(live.updated),
        "sync_mode": live.sync_mode,
        "first_seq": live.positions.first,
        "last_seq": live.positions.last,
        "durable_seq": live.positions.durable,
        "checkpoint_seq": live.positions.checkpoint,
        "segments": live.segments,
        "active": live.active,
        "position": live.position,
        "records": live.stats.records,
        "bytes": live.stats.bytes,
        "rotations": live.stats.rotations,
        "segment_waits": live.stats.segment_waits,
        "prepared": live.stats.prepared,
        "recycled": live.stats.recycled,
        "removed": live.stats.removed,
        "sync_micros": histogram(&live.stats.sync_micros),
        "group_records": histogram(&live.stats.group_records),
        "readers": readers.collect::<Vec<Value>>(),
    })
}

fn histogram(histogram: &Histogram) -> Value {
    json!({
        "count": histogram.count(),
        "mean": histogram.mean(),
        "p50": histogram.quantile(0.5),
        "p99": histogram.quantile(0.99),
        "p999": histogram.quantile(0.999),
        "max": histogram.max(),
    })
}

/// Unix time; `None` if it is not known.
fn seconds(time: SystemTime) -> Option<f64> {
    let since = time.duration_since(UNIX_EPOCH).ok().filter(|since| !since.is_zero());
    since.map(|since| since.as_secs_f64())
}

/// As text; `before` is what it showed a while ago, for the rates.
pub(crate) fn as_text(live: &LiveStat, before: Option<&LiveStat>) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_text(live, before, &mut text);
    text
}

fn write_text(live: &LiveStat, before: Option<&LiveStat>, text: &mut String) -> fmt::Result {
    let (positions, now) = (&live.positions, SystemTime::now());
    writeln!(text, "writer      {}, {} mode, shown {}", writer(live), live.sync_mode, ago(live.age(now)))?;
    let records = match positions.first <= positions.last {
        true => format!("{} to {}", positions.first, positions.last),
        false => format!("none, the next is {}", positions.first),
    };
    writeln!(text, "records     {records}, checkpoint {}", positions.checkpoint)?;
    writeln!(text, "durable     {}, {} behind", positions.durable, positions.last.saturating_sub(positions.durable))?;
    writeln!(text, "segments    {}, appending to {} at {}", live.segments, live.active, live.position)?;
    writeln!(text, "appended    {} records, {} bytes{}", live.stats.records, live.stats.bytes, rates(live, before))?;
    let stats = &live.stats;
    writeln!(
        text,
        "files       {} rotations, {} waits, {} prepared, {} used again, {} removed",
        stats.rotations, stats.segment_waits, stats.prepared, stats.recycled, stats.removed
    )?;
    writeln!(text, "syncs       {}", quantiles(&stats.sync_micros, "us"))?;
    writeln!(text, "groups      {}", quantiles(&stats.group_records, "records"))?;
    for reader in &live.readers {
        let place = match reader.seq.checked_sub(positions.last) {
            None => format!("{} behind", positions.last - reader.seq),
            Some(0) => "0 behind".to_owned(),
            // What it has dealt with was cut off since, or the figures are older than what it says.
            Some(ahead) => format!("{ahead} ahead of the figures"),
        };
        writeln!(text, "reader      process {} at {}, {place}, said {}", reader.pid, reader.seq, ago(reader.age(now)))?;
    }
    Ok(())
}

/// Who has the log open.
fn writer(live: &LiveStat) -> String {
    let before = live.shown_by.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
    match (live.state, live.pid) {
        (WriterState::Open, Some(pid)) if live.is_current => format!("process {pid}"),
        (WriterState::Open, Some(pid)) => format!("process {pid} has shown nothing yet; by the writer before it"),
        (WriterState::Closed, _) => "closed".to_owned(),
        (WriterState::Gone, _) => format!("none, {before} ended without closing the log"),
        _ => format!("not known from here, {before} has not closed the log"),
    }
}

/// How long ago something was said.
fn ago(age: Option<Duration>) -> String {
    age.map_or_else(|| "at a time that is not known".to_owned(), |age| format!("{:.1} s ago", age.as_secs_f64()))
}

/// Per second since `before`, if that was the same life of the log and the time between is known.
fn rates(live: &LiveStat, before: Option<&LiveStat>) -> String {
    let is_same_life = |before: &&LiveStat| before.opened == live.opened && before.shown_by == live.shown_by;
    let is_timed = |before: &&LiveStat| live.updated > before.updated || live.stats == before.stats;
    let Some(before) = before.filter(is_same_life).filter(is_timed) else { return String::new() };
    let seconds = live.updated.duration_since(before.updated).map_or(0.0, |time| time.as_secs_f64());
    let per_second = |now: u64, then: u64| if seconds > 0.0 { now.saturating_sub(then) as f64 / seconds } else { 0.0 };
    let records = per_second(live.stats.records, before.stats.records);
    let bytes = per_second(live.stats.bytes, before.stats.bytes);
    format!(" ({records:.0} records/s, {:.2} MiB/s)", bytes / f64::from(1 << 20))
}

fn quantiles(of: &Histogram, unit: &str) -> String {
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| of.quantile(share));
    format!("{}, {unit}: mean {}, p50 {p50}, p99 {p99}, p99.9 {p999}, max {}", of.count(), of.mean(), of.max())
}
