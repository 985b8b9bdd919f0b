//! What a log takes: bytes written for what is appended, and memory for what is there.

use std::path::Path;
use std::process::Command;

use mmap_wal::{Reader, Snapshot, SyncMode};

use crate::bench::child::{Child, Role};
use crate::bench::counters::{anonymous_bytes, written_bytes};
use crate::bench::figure::PAYLOAD;
use crate::bench::floor::memory::frame_size;
use crate::bench::ground::{Ground, Measured, failed};
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::{FAILED, Failure};

/// Segments that are filled before anything is counted, so that files are there to be used again.
const BEFORE: u64 = 4;
/// A payload so small that the index has as much to do as can be.
const SMALL: [u8; 8] = [7; 8];
/// Lookups over all records, so that every segment has its index.
const LOOKUPS: u64 = 5000;

/// Bytes written for each byte of frames, when segments are truncated as soon as they are full.
pub(crate) fn bytes(ground: &Ground) -> Result<Measured, Failure> {
    if written_bytes().is_none() {
        let notes = vec!["bytes: this system does not count bytes written".to_owned()];
        return Ok(Measured { notes, ..Measured::default() });
    }
    let scratch = ground.scratch("bytes")?;
    let size: u64 = ground.pick(1 << 20, 16 << 20, 64 << 20);
    let wal = ground.options(SyncMode::None).segment_size(size).open(scratch.path())?;
    let fill = |segments: u64| -> Result<(), Failure> {
        for _ in 0..segments {
            for _ in 0..size / frame_size(PAYLOAD.len()) as u64 {
                wal.append(&PAYLOAD)?;
            }
            wal.truncate_front(u64::MAX)?;
        }
        Ok(())
    };
    fill(BEFORE)?;
    let segments = ground.pick(4, 8, 8);
    let mut ours = || {
        let before = (written_bytes(), wal.stats().bytes);
        fill(segments)?;
        wal.sync()?;
        let written = written_bytes().zip(before.0).map_or(0, |(after, before)| after - before);
        Ok(written as f64 / (wal.stats().bytes - before.1).max(1) as f64)
    };
    let rounds = ground.interleave([&mut ours])?.into_iter().map(|[ours]| Round::alone(ours)).collect();
    let stats = wal.stats();
    let what = format!(
        "bytes written for a byte of frames, None, {segments} segments of {} MiB a round; {} of {} prepared were used again",
        size >> 20,
        stats.recycled,
        stats.prepared
    );
    let row = Row::new("bytes", what, Unit::Bytes, Goal::Low(Some(1.05))).rounds(rounds);
    Ok(Measured { rows: vec![row], ..Measured::default() })
}

/// Bytes of memory for a record, of a process that has appended them all and of one that has read them all.
pub(crate) fn heap(ground: &Ground) -> Result<Measured, Failure> {
    if anonymous_bytes().is_none() {
        let notes = vec!["heap: this system does not tell a process's own memory".to_owned()];
        return Ok(Measured { notes, ..Measured::default() });
    }
    let count: u64 = ground.pick(50_000, 10_000_000, 100_000_000);
    let scratch = ground.scratch("heap")?;
    let mut rows = Vec::new();
    for (role, name) in [(Role::HeapWriter, "writer"), (Role::HeapReader, "reader")] {
        let grown = grown(Child::command(role, scratch.path(), count).map_err(failed)?)?;
        let what = format!("memory of a {name} for a record, {count} records, all looked at");
        let goal = Goal::Low(Some(0.13));
        let row = Row::new(format!("heap-{name}"), what, Unit::Bytes, goal);
        rows.push(row.rounds(vec![Round::alone(grown as f64 / count as f64)]));
    }
    Ok(Measured { rows, ..Measured::default() })
}

/// What a child says that its memory has grown by.
fn grown(mut command: Command) -> Result<u64, Failure> {
    let output = command.stderr(std::process::Stdio::inherit()).output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stdout).trim().parse();
    said.map_err(|_| Failure::new(FAILED, format!("a child of this process failed: {}", output.status)))
}

/// What the child does: fills a log of `count` records or reads it, and says by how many bytes its own memory has grown.
pub(crate) fn weigh(role: Role, dir: &Path, count: u64) -> Result<u64, Failure> {
    if role == Role::HeapWriter {
        let wal = mmap_wal::Options::new().sync_mode(SyncMode::None).open(dir)?;
        wal.append(&SMALL)?;
        look(&wal.snapshot(), 1)?;
        let start = anonymous_bytes();
        for _ in 1..count {
            wal.append(&SMALL)?;
        }
        let snapshot = wal.snapshot();
        look(&snapshot, count)?;
        return grown_since(start);
    }
    let reader = Reader::open(dir)?;
    let start = anonymous_bytes();
    let snapshot = reader.snapshot()?;
    look(&snapshot, count)?;
    grown_since(start)
}

fn grown_since(start: Option<u64>) -> Result<u64, Failure> {
    let grown = anonymous_bytes().zip(start).map(|(now, start)| now.saturating_sub(start));
    grown.ok_or_else(|| failed(std::io::ErrorKind::Unsupported.into()))
}

/// Replays everything and looks up records all over it.
fn look(snapshot: &Snapshot, count: u64) -> Result<(), Failure> {
    let mut found = 0;
    for record in snapshot.replay(0)? {
        record?;
        found += 1;
    }
    for seq in (1..=count).rev().step_by((count / LOOKUPS).max(1) as usize) {
        snapshot.get(seq)?;
    }
    if found == count { Ok(()) } else { Err(failed(std::io::ErrorKind::InvalidData.into())) }
}
