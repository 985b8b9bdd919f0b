//! Appends in an open loop: how many come late, beside the same loop over memory.

use mmap_wal::{Error, SyncMode};

use crate::bench::figure::PAYLOAD;
use crate::bench::floor::memory::Ring;
use crate::bench::ground::{Ground, Measured};
use crate::bench::latency::{Latencies, Summary};
use crate::bench::open_loop::{Real, Schedule, run};
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::Failure;

/// Limits in nanoseconds, and what they are called.
const LIMITS: [(u64, &str); 3] = [(1_000, "1us"), (20_000, "20us"), (1_000_000, "1ms")];
/// A run is cut in so many slices, between which the other kind has its turn.
const SLICES: u64 = 6;

/// One kind of log at one rate.
struct Load {
    /// Its name, which the figure's begins.
    name: &'static str,
    what: &'static str,
    mode: SyncMode,
    rate: u64,
    millis: u64,
    /// How often the control's count is allowed.
    most: Option<f64>,
}

/// None at 1 M/s and at 100 k/s.
pub(crate) fn none(ground: &Ground) -> Result<Measured, Failure> {
    let fast = Load {
        name: "append-none-open-1m",
        what: "None, 1 M/s",
        mode: SyncMode::None,
        rate: 1_000_000,
        millis: ground.pick(100, 60_000, 60_000),
        most: Some(2.0),
    };
    let slow = Load {
        name: "append-none-open-100k",
        what: "None, 100 k/s",
        rate: 100_000,
        millis: ground.pick(100, 120_000, 120_000),
        ..fast
    };
    let (mut measured, more) = (load(ground, &fast)?, load(ground, &slow)?);
    measured.rows.extend(more.rows);
    measured.latencies.extend(more.latencies);
    Ok(measured)
}

/// Batch of 100 records and 10 ms, at 100 k/s.
pub(crate) fn batch(ground: &Ground) -> Result<Measured, Failure> {
    let batch = Load {
        name: "append-batch-open-100k",
        what: "Batch of 100 or 10 ms, 100 k/s",
        mode: SyncMode::batch(100),
        rate: 100_000,
        millis: ground.pick(100, 20_000, 20_000),
        most: None,
    };
    load(ground, &batch)
}

/// Slices of the log and of the control, in turn.
fn load(ground: &Ground, load: &Load) -> Result<Measured, Failure> {
    let slices = ground.pick(2, SLICES, SLICES);
    let schedule = Schedule::lasting(load.rate, load.millis / slices);
    let mut ring = Ring::new();
    let (mut ours, mut control) = (Latencies::new(), Latencies::new());
    let mut rounds: [Vec<Round>; LIMITS.len()] = Default::default();
    for slice in 0..slices {
        let mut latencies = [Latencies::new(), Latencies::new()];
        for turn in 0..2 {
            let kind = (slice + turn) as usize % 2;
            if kind == 0 {
                log_slice(ground, load, schedule, &mut latencies[0])?;
            } else {
                ring_slice(&mut ring, schedule, &mut latencies[1]);
            }
        }
        for ((limit, _), rounds) in LIMITS.iter().zip(&mut rounds) {
            let [ours, control] = [0, 1].map(|kind: usize| latencies[kind].over(*limit) as f64);
            rounds.push(Round::beside(ours, control));
        }
        ours.add(&latencies[0]);
        control.add(&latencies[1]);
    }
    let rows = LIMITS.iter().zip(rounds).map(|((_, limit), rounds)| row(load, limit, rounds));
    Ok(Measured { rows: rows.collect(), latencies: summaries(load, &ours, &control), notes: Vec::new() })
}

fn row(load: &Load, limit: &str, rounds: Vec<Round>) -> Row {
    let (name, what) = (format!("{}-over-{limit}", load.name), load.what);
    let what = format!("appends, {what}, that were done more than {limit} after they were due");
    let row = Row::new(name, what, Unit::Count, Goal::Low(load.most));
    row.floor("the same loop over memory, one late at least").summed().rounds(rounds)
}

fn summaries(load: &Load, ours: &Latencies, control: &Latencies) -> Vec<Summary> {
    let name = load.name;
    vec![
        ours.summary(name, &format!("append, {}", load.what)),
        control.summary(&format!("{name}-floor"), &format!("floor: memory alone, {} k/s", load.rate / 1000)),
    ]
}

fn log_slice(ground: &Ground, load: &Load, schedule: Schedule, latencies: &mut Latencies) -> Result<(), Failure> {
    {
        let (_scratch, wal) = ground.log(load.name, load.mode)?;
        // The first append calls the thread that looks after the rest.
        wal.append(&PAYLOAD)?;
        run(schedule, &Real::start(), latencies, || wal.append(&PAYLOAD).map(drop))?;
    }
    ground.settle()
}

fn ring_slice(ring: &mut Ring, schedule: Schedule, latencies: &mut Latencies) {
    let append = || {
        std::hint::black_box(ring.append(&PAYLOAD));
        Ok(())
    };
    let done: Result<(), Error> = run(schedule, &Real::start(), latencies, append);
    debug_assert!(done.is_ok(), "memory does not fail");
}
