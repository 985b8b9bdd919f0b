//! What a living log shows of itself, as JSON and as text.

use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use mmap_wal::Histogram;
use mmap_wal::inspect::{LiveStat, Log};
use serde_json::{Value, json};

use crate::failure::{FAILED, Failure};

/// What the log shows.
pub(crate) fn look(log: &Log) -> Result<LiveStat, Failure> {
    log.live()?.ok_or_else(|| Failure::new(FAILED, "the log shows nothing of itself; open it for writing first"))
}

/// As JSON.
pub(crate) fn as_json(live: &LiveStat) -> Value {
    let readers = live.readers.iter().map(|reader| json!({"pid": reader.pid, "seq": reader.seq}));
    json!({
        "schema": 1,
        "pid": live.pid,
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

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// As text; `before` is what it showed a while ago, for the rates.
pub(crate) fn as_text(live: &LiveStat, before: Option<&LiveStat>) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_text(live, before, &mut text);
    text
}

fn write_text(live: &LiveStat, before: Option<&LiveStat>, text: &mut String) -> fmt::Result {
    let positions = &live.positions;
    let writer = live.pid.map_or_else(|| "closed".to_owned(), |pid| format!("process {pid}"));
    let age = SystemTime::now().duration_since(live.updated).unwrap_or_default();
    writeln!(text, "writer      {writer}, {} mode, shown {:.1} s ago", live.sync_mode, age.as_secs_f64())?;
    writeln!(text, "records     {} to {}, checkpoint {}", positions.first, positions.last, positions.checkpoint)?;
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
        let lag = positions.last.saturating_sub(reader.seq);
        writeln!(text, "reader      process {} at {}, {lag} behind", reader.pid, reader.seq)?;
    }
    Ok(())
}

/// Per second since `before`, if that was the same life of the log.
fn rates(live: &LiveStat, before: Option<&LiveStat>) -> String {
    let Some(before) = before.filter(|before| before.opened == live.opened) else { return String::new() };
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
