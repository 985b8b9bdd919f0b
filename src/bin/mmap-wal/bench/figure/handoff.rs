//! How long a record takes from an append in one process to a tail in another that does nothing but look.

use std::hint::spin_loop;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mmap_wal::{Idle, Reader, SyncMode};
use rustix::time::{ClockId, clock_gettime};

use crate::bench::child::{Child, Role};
use crate::bench::figure::PAYLOAD;
use crate::bench::ground::{Ground, Measured, failed};
use crate::bench::latency::Latencies;
use crate::bench::open_loop::{Clock, Real};
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::{FAILED, Failure};

/// Nanoseconds between two records, so that the receiver waits for each.
const APART: u64 = 20_000;
/// Nanoseconds after which a receiver that gets nothing gives up.
const PATIENCE: u64 = 10_000_000_000;
const FLOOR: &str =
    "two threads of one process and an atomic word for each: no safe code shares a map between processes";

/// The median from before an append to after the `try_next` that shows it.
pub(crate) fn handoff(ground: &Ground) -> Result<Measured, Failure> {
    let count = ground.pick(500, 20_000, 100_000);
    let [mut ours, mut floor] = [Latencies::new(), Latencies::new()];
    let mut between_processes = || median_of(&mut ours, processes(ground, count)?);
    let mut between_threads = || median_of(&mut floor, threads(count)?);
    let rounds = ground.interleave([&mut between_processes, &mut between_threads])?;
    let rounds = rounds.into_iter().map(|[ours, floor]| Round::beside(ours, floor)).collect();
    let what = "from append to try_next in another process, both spinning, None, median";
    let row = Row::new("handoff", what, Unit::Nanos, Goal::Low(None)).floor(FLOOR).rounds(rounds);
    let latencies = vec![
        ours.summary("handoff", "from append to try_next in another process"),
        floor.summary("handoff-floor", "floor: a word between two threads"),
    ];
    Ok(Measured { rows: vec![row], latencies, notes: Vec::new() })
}

fn median_of(all: &mut Latencies, latencies: Latencies) -> Result<f64, Failure> {
    all.add(&latencies);
    Ok(latencies.median())
}

/// Nanoseconds of a clock that all processes share.
fn shared_now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32).as_nanos() as u64
}

/// Has `send` send `count` times, with time between.
fn paced(count: u64, mut send: impl FnMut(u64) -> Result<(), Failure>) -> Result<(), Failure> {
    let clock = Real::start();
    for n in 0..count {
        while clock.now() < n * APART {
            spin_loop();
        }
        send(shared_now())?;
    }
    Ok(())
}

fn processes(ground: &Ground, count: u64) -> Result<Latencies, Failure> {
    let (scratch, wal) = ground.log("handoff", SyncMode::None)?;
    let mut child = Child::start(Role::Receive, scratch.path(), count).map_err(failed)?;
    // It is there, and looks.
    child.line().map_err(failed)?;
    let mut payload = PAYLOAD;
    paced(count, |now| {
        payload[..8].copy_from_slice(&now.to_le_bytes());
        wal.append(&payload).map(drop).map_err(Failure::from)
    })?;
    let mut latencies = Latencies::new();
    while latencies.count() < count {
        let line = child.line().map_err(failed)?;
        let parsed = line.split_once(' ').and_then(|(nanos, many)| Some((nanos.parse().ok()?, many.parse().ok()?)));
        let (nanos, many) = parsed.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        latencies.record_many(nanos, many);
    }
    child.end().map_err(failed)?;
    Ok(latencies)
}

/// What the child does: follows the log, and then says of each latency how often it was.
pub(crate) fn receive(dir: &Path, count: u64, output: &mut impl Write) -> Result<(), Failure> {
    let mut tail = Reader::open(dir)?.tail(0)?.idle(Idle::Spin);
    // The first look maps what is there.
    tail.try_next()?;
    writeln!(output, "ready").and_then(|()| output.flush()).map_err(|e| Failure::output(&e))?;
    let mut latencies = Latencies::new();
    let mut last = shared_now();
    while latencies.count() < count {
        let sent = tail.try_next()?.and_then(|record| record.payload().first_chunk().copied());
        let now = shared_now();
        if let Some(sent) = sent {
            latencies.record(now.saturating_sub(u64::from_le_bytes(sent)));
            last = now;
        } else if now - last > PATIENCE {
            return Err(Failure::new(FAILED, "no record came; whoever appends is gone"));
        }
    }
    for (nanos, many) in latencies.recorded() {
        writeln!(output, "{nanos} {many}").map_err(|e| Failure::output(&e))?;
    }
    Ok(())
}

/// A word that has its cache line for itself.
#[repr(align(128))]
struct Line(AtomicU64);

/// One word for each record, so that none is missed however late it is looked at.
fn threads(count: u64) -> Result<Latencies, Failure> {
    let lines: Vec<Line> = (0..count).map(|_| Line(AtomicU64::new(0))).collect();
    let ready = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut latencies = Latencies::new();
            ready.store(true, Ordering::Release);
            for line in &lines {
                let (sent, now) = arrival(&line.0);
                latencies.record(now.saturating_sub(sent));
            }
            latencies
        });
        while !ready.load(Ordering::Acquire) {
            spin_loop();
        }
        let mut unsent = lines.iter();
        paced(count, |now| {
            unsent.next().into_iter().for_each(|line| line.0.store(now, Ordering::Release));
            Ok(())
        })?;
        receiver.join().map_err(|_| failed(io::Error::other("a thread failed")))
    })
}

/// What comes in `word`, and when.
fn arrival(word: &AtomicU64) -> (u64, u64) {
    loop {
        let sent = word.load(Ordering::Acquire);
        let now = shared_now();
        if sent != 0 {
            return (sent, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_clock_goes_on_with_the_other() {
        let before = shared_now();
        let clock = Real::start();
        while clock.now() < 1_000_000 {
            spin_loop();
        }
        assert!(shared_now() - before >= 1_000_000);
    }

    #[test]
    fn every_word_arrives_between_threads() {
        assert_eq!(threads(200).unwrap().count(), 200);
    }
}
