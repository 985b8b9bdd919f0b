//! Appends in None, one after the other: what they cost, and which pages they have to wait for.

use std::hint::black_box;
use std::time::{Duration, Instant};

use mmap_wal::{Error, SyncMode, Wal};

use crate::bench::counters::minor_faults;
use crate::bench::figure::{MEMORY_FLOOR, PAYLOAD};
use crate::bench::floor::memory::{Ring, frame_size};
use crate::bench::ground::{Ground, Measured, per_operation};
use crate::bench::latency::Latencies;
use crate::bench::open_loop::{Real, Schedule, run};
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::Failure;

/// The mean of an append over millions with rotations, and over those that fit one segment.
pub(crate) fn none(ground: &Ground) -> Result<Measured, Failure> {
    let whole = "append, None, mean with rotations";
    let one = "append, None, mean within one segment";
    let count = ground.pick(100_000, 10_000_000, 10_000_000);
    let fits = ground.segment() / frame_size(PAYLOAD.len()) as u64 * 9 / 10;
    let rows = vec![
        row(ground, "append-none", whole, count, Goal::Low(Some(1.2)))?,
        row(ground, "append-none-segment", one, fits, Goal::Low(None))?,
    ];
    Ok(Measured { rows, ..Measured::default() })
}

fn row(ground: &Ground, name: &str, what: &str, count: u64, goal: Goal) -> Result<Row, Failure> {
    let mut ring = Ring::new();
    let mut ours = || {
        let (scratch, wal) = ground.log(name, SyncMode::None)?;
        ground.settle()?;
        let time = time_appends(&wal, count)?;
        drop((wal, scratch));
        ground.settle()?;
        Ok(per_operation(time, count))
    };
    let mut floor = || Ok(per_operation(time_ring(&mut ring, count), count));
    let rounds = ground.interleave([&mut ours, &mut floor])?;
    let rounds = rounds.into_iter().map(|[ours, floor]| Round::beside(ours, floor)).collect();
    Ok(Row::new(name, format!("{what}, {count} records"), Unit::Nanos, goal).floor(MEMORY_FLOOR).rounds(rounds))
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
    ground.settle()?;
    let before = minor_faults();
    append(&wal)?;
    let faults = minor_faults().zip(before).map_or(0, |(after, before)| after - before);
    Ok(faults as f64 * 1000.0 / count as f64)
}
