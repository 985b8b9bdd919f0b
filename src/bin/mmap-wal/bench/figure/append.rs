//! Appends in None, one after the other: what they cost, and which pages they have to wait for.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use mmap_wal::{Error, SyncMode, Wal};

use crate::bench::counters::minor_faults;
use crate::bench::figure::{MEMORY_FLOOR, PAYLOAD};
use crate::bench::floor::memory::{Ring, frame_size, touched};
use crate::bench::ground::{Ground, Measured, failed, per_operation};
use crate::bench::latency::Latencies;
use crate::bench::open_loop::{Real, Schedule, run};
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::Failure;

/// Bytes of one write to the plain file.
const PIECE: usize = 1 << 20;

/// The mean of an append over millions with rotations, and over those that fit one segment.
///
/// With rotations the log cannot be faster for long than its disk: a rotation waits until the segment before the one
/// that is full is durable. So the same bytes are also written to a plain file, one after the other.
pub(crate) fn none(ground: &Ground) -> Result<Measured, Failure> {
    let count = ground.pick(100_000, 10_000_000, 10_000_000);
    let fits = ground.segment() / frame_size(PAYLOAD.len()) as u64 * 9 / 10;
    let mut ring = Ring::new();
    let mut whole = || time_log(ground, count);
    let mut one = || time_log(ground, fits);
    let mut memory = || Ok(per_operation(time_ring(&mut ring, count), count));
    let mut disk = || time_file(ground, count);
    let rounds = ground.interleave([&mut whole, &mut one, &mut memory, &mut disk])?;
    let row = |name: &str, what: &str, ours: usize, floor: usize, goal| {
        let beside = rounds.iter().map(|values| Round::beside(values[ours], values[floor])).collect();
        Row::new(name, format!("append, None, mean {what}"), Unit::Nanos, goal).rounds(beside)
    };
    let with = format!("with rotations, {count} records");
    let file = "the same bytes written to a new file in large pieces, synced after as many as a segment has";
    let rows = vec![
        row("append-none", &with, 0, 2, Goal::Low(Some(1.2))).floor(MEMORY_FLOOR),
        row("append-none-disk", &with, 0, 3, Goal::Low(None)).floor(file),
        row("append-none-segment", &format!("within one segment, {fits} records"), 1, 2, Goal::Low(None))
            .floor(MEMORY_FLOOR),
    ];
    Ok(Measured { rows, ..Measured::default() })
}

/// Nanoseconds for each of `count` appends to a new log.
fn time_log(ground: &Ground, count: u64) -> Result<f64, Failure> {
    let (scratch, wal) = ground.log("append", SyncMode::None)?;
    let time = time_appends(&wal, count)?;
    drop((wal, scratch));
    ground.settle()?;
    Ok(per_operation(time, count))
}

/// Nanoseconds for each of `count` frames whose bytes are written to a new file, one after the other.
fn time_file(ground: &Ground, count: u64) -> Result<f64, Failure> {
    let scratch = ground.scratch("file")?;
    let bytes = count * frame_size(PAYLOAD.len()) as u64;
    let time = write_pieces(&scratch.path().join("frames"), bytes, ground.segment()).map_err(failed)?;
    drop(scratch);
    ground.settle()?;
    Ok(per_operation(time, count))
}

/// Writes `bytes` bytes to a new file, synced after every so many.
pub(super) fn write_pieces(path: &Path, bytes: u64, every: u64) -> io::Result<Duration> {
    let (mut file, piece) = (File::create_new(path)?, touched(PIECE));
    let (start, mut written) = (Instant::now(), 0);
    while written < bytes {
        let len = (bytes - written).min(PIECE as u64);
        file.write_all(&piece[..len as usize])?;
        written += len;
        if written % every == 0 {
            file.sync_data()?;
        }
    }
    Ok(start.elapsed())
}

fn time_appends(wal: &Wal, count: u64) -> Result<Duration, Error> {
    let start = Instant::now();
    for _ in 0..count {
        black_box(wal.append(black_box(&PAYLOAD))?);
    }
    Ok(start.elapsed())
}

fn time_ring(ring: &mut Ring, count: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        black_box(ring.append(black_box(&PAYLOAD)));
    }
    start.elapsed()
}

/// Faults for a thousand appends, as fast as they go and at a million a second.
pub(crate) fn faults(ground: &Ground) -> Result<Measured, Failure> {
    if minor_faults().is_none() {
        let notes = vec!["faults: this system does not count them for a thread".to_owned()];
        return Ok(Measured { notes, ..Measured::default() });
    }
    let count = ground.pick(50_000, 2_000_000, 2_000_000);
    let mut closed = || faults_of(ground, count, |wal| time_appends(wal, count).map(drop));
    let schedule = Schedule { rate: 1_000_000, count };
    let mut open = || {
        let mut latencies = Latencies::new();
        faults_of(ground, count, |wal| run(schedule, &Real::start(), &mut latencies, || wal.append(&PAYLOAD).map(drop)))
    };
    let rounds = ground.interleave([&mut closed, &mut open])?;
    let row = |kind: usize, name: &str, how: &str| {
        let what = format!("minor faults for 1,000 appends, None, {how}");
        let rounds = rounds.iter().map(|values| Round::alone(values[kind])).collect();
        Row::new(name, what, Unit::Count, Goal::Low(Some(1.0))).rounds(rounds)
    };
    let rows = vec![row(0, "faults-closed", "one after the other"), row(1, "faults-open", "1 M/s")];
    Ok(Measured { rows, ..Measured::default() })
}

/// Faults of this thread for a thousand appends of `count`.
fn faults_of(ground: &Ground, count: u64, append: impl FnOnce(&Wal) -> Result<(), Error>) -> Result<f64, Failure> {
    let (_scratch, wal) = ground.log("faults", SyncMode::None)?;
    let before = minor_faults();
    append(&wal)?;
    let faults = minor_faults().zip(before).map_or(0, |(after, before)| after - before);
    Ok(faults as f64 * 1000.0 / count as f64)
}
