//! Appends that are durable when they return, one after the other, beside durable overwrites of as many pages.

use std::time::Instant;

use mmap_wal::{SyncMode, Wal};

use crate::bench::counters::written_bytes;
use crate::bench::figure::{FRAMES_AT, PAYLOAD};
use crate::bench::floor::disk::Disk;
use crate::bench::floor::memory::{HEADER, frame_size};
use crate::bench::ground::{Ground, Measured, failed};
use crate::bench::latency::Latencies;
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::Failure;

/// Records of a batch.
const BATCH: usize = 100;

/// What is appended, and what it is called.
struct Kind<'a> {
    name: &'a str,
    what: &'a str,
    /// Bytes of its frames.
    size: usize,
    /// Bytes that may be written for it; `None` if that is no figure.
    written: Option<f64>,
    append: &'a dyn Fn(&Wal) -> Result<(), mmap_wal::Error>,
}

/// Single records of 128 bytes and 4 KiB.
pub(crate) fn single(ground: &Ground) -> Result<Measured, Failure> {
    let large = [0xa5; 4096];
    let small = Kind {
        name: "append-sync-128",
        what: "append, Sync, 128 B",
        size: frame_size(PAYLOAD.len()),
        written: Some(4.5 * 1024.0),
        append: &|wal| wal.append(&PAYLOAD).map(drop),
    };
    let large = Kind {
        name: "append-sync-4k",
        what: "append, Sync, 4 KiB",
        size: frame_size(large.len()),
        written: None,
        append: &|wal| wal.append(&large).map(drop),
    };
    let (mut measured, more) = (durable(ground, &small)?, durable(ground, &large)?);
    measured.rows.extend(more.rows);
    measured.latencies.extend(more.latencies);
    measured.notes.extend(more.notes);
    Ok(measured)
}

/// A batch of 100 records of 128 bytes.
pub(crate) fn batch(ground: &Ground) -> Result<Measured, Failure> {
    let records = [PAYLOAD; BATCH];
    let kind = Kind {
        name: "batch-100",
        what: "append_batch, 100 records of 128 B",
        size: BATCH * frame_size(PAYLOAD.len()),
        written: None,
        append: &|wal| wal.append_batch(&records).map(drop),
    };
    durable(ground, &kind)
}

/// Where frames of one size go in a segment, and so in the floor's files.
struct Track {
    at: u64,
    size: usize,
    end: u64,
}

impl Track {
    fn next(&mut self) -> (u64, usize) {
        if self.at + self.size as u64 > self.end {
            self.at = FRAMES_AT;
        }
        let at = self.at;
        self.at += self.size as u64;
        (at, self.size)
    }

    /// Leaves `bytes` out.
    fn skip(&mut self, bytes: usize) {
        self.at += bytes as u64;
    }
}

fn durable(ground: &Ground, kind: &Kind<'_>) -> Result<Measured, Failure> {
    let count = ground.pick(20, 500, 2000);
    let (scratch, end) = (ground.scratch("floor")?, ground.segment());
    let disk = Disk::create(scratch.path(), end as usize).map_err(failed)?;
    let way = disk.way();
    let (_log, wal) = ground.log(kind.name, SyncMode::Sync)?;
    // Rounds are taken all over a segment: pages in its front may be kept otherwise than those behind.
    let share = end as usize / ground.rounds.max(1);
    let between = vec![0xa5; share.saturating_sub(count as usize * kind.size).saturating_sub(HEADER)];
    let track = || Track { at: FRAMES_AT, size: kind.size, end };
    let (mut ahead, mut behind) = (track(), track());
    let [mut ours, mut direct, mut synced] = [Latencies::new(), Latencies::new(), Latencies::new()];
    let mut written = Vec::new();
    // Once, so that each has what it needs.
    (kind.append)(&wal)?;
    let mut append = || {
        if !between.is_empty() {
            wal.append(&between)?;
        }
        let before = written_bytes();
        let median = round(count, &mut ours, || (kind.append)(&wal).map_err(Failure::from))?;
        let bytes = written_bytes().zip(before).map(|(after, before)| (after - before) as f64 / count as f64);
        written.extend(bytes);
        Ok(median)
    };
    let mut overwrite = || {
        ahead.skip(between.len());
        round(count, &mut direct, || {
            let (at, size) = ahead.next();
            disk.overwrite(at, size).map_err(failed)
        })
    };
    let mut overwrite_synced = || {
        behind.skip(between.len());
        round(count, &mut synced, || {
            let (at, size) = behind.next();
            disk.overwrite_synced(at, size).map_err(failed)
        })
    };
    let rounds = ground.interleave([&mut append, &mut overwrite, &mut overwrite_synced])?;
    let beside = |floor: usize| rounds.iter().map(|values| Round::beside(values[0], values[floor])).collect();
    let row = |name: String, goal| Row::new(name, format!("{}, median", kind.what), Unit::Nanos, goal);
    let mut measured = Measured {
        rows: vec![
            row(kind.name.to_owned(), Goal::Low(Some(1.1))).floor(format!("{way} of its pages")).rounds(beside(1)),
            row(format!("{}-fdatasync", kind.name), Goal::Low(None))
                .floor("pwrite + fdatasync of its pages")
                .rounds(beside(2)),
        ],
        latencies: vec![
            ours.summary(kind.name, kind.what),
            direct.summary(&format!("{}-floor", kind.name), &format!("floor: {way}")),
            synced.summary(&format!("{}-fdatasync", kind.name), "floor: pwrite + fdatasync"),
        ],
        notes: Vec::new(),
    };
    match kind.written {
        Some(most) if !written.is_empty() => measured.rows.push(written_row(kind, most, written)),
        Some(_) => measured.notes.push(format!("{}-written: this system does not count bytes written", kind.name)),
        None => {}
    }
    Ok(measured)
}

fn written_row(kind: &Kind<'_>, most: f64, written: Vec<f64>) -> Row {
    let what = format!("{}, write_bytes of the process", kind.what);
    let rounds = written.into_iter().map(Round::alone).collect();
    Row::new(format!("{}-written", kind.name), what, Unit::Bytes, Goal::Low(Some(most))).rounds(rounds)
}

/// Times `operation` so many times, and returns the median of these.
fn round(count: u64, all: &mut Latencies, mut operation: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let mut latencies = Latencies::new();
    for _ in 0..count {
        let start = Instant::now();
        operation()?;
        latencies.record(start.elapsed().as_nanos() as u64);
    }
    all.add(&latencies);
    Ok(latencies.median())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_goes_over_the_pages_of_a_segment_and_begins_again_before_its_end() {
        let mut track = Track { at: FRAMES_AT, size: 4000, end: FRAMES_AT + 10_000 };
        assert_eq!([track.next(), track.next(), track.next()], [(8192, 4000), (12_192, 4000), (8192, 4000)]);
    }
}
