//! Readers that replay beside a writer: what they read together, and what the writer notices of them.

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use mmap_wal::{Reader, SyncMode};

use crate::bench::figure::PAYLOAD;
use crate::bench::floor::memory::{Ring, frame_size, frames, verify_all};
use crate::bench::ground::{Ground, Measured, failed, per_second};
use crate::bench::latency::Latencies;
use crate::bench::open_loop::{Real, Schedule, run};
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::Failure;

const READERS: [usize; 3] = [1, 2, 4];
/// Appends a second beside them.
const RATE: u64 = 100_000;
/// Frames between two looks whether it is over.
const AT_ONCE: usize = 1000;
const FLOOR: &str = "as many threads that checksum memory of their own, beside the same loop over memory";

/// For each number of readers, their bytes a second and the writer's 99th percentile.
pub(crate) fn readers(ground: &Ground) -> Result<Measured, Failure> {
    let mut measured = Measured::default();
    for count in READERS {
        readers_of(ground, count, &mut measured)?;
    }
    Ok(measured)
}

fn readers_of(ground: &Ground, count: usize, measured: &mut Measured) -> Result<(), Failure> {
    let size = frame_size(PAYLOAD.len());
    let records = ground.pick(1 << 20, 128 << 20, 128 << 20) / size;
    let schedule = Schedule::lasting(RATE, ground.pick(50, 1000, 1000));
    let (scratch, wal) = ground.log("readers", SyncMode::None)?;
    for _ in 0..records {
        wal.append(&PAYLOAD)?;
    }
    wal.sync()?;
    let (mut ring, memory) = (Ring::new(), frames(records, PAYLOAD.len()));
    let [mut ours, mut control] = [Latencies::new(), Latencies::new()];
    let mut tails = Vec::new();
    let mut beside_log = || {
        let mut latencies = Latencies::new();
        let speed = beside(
            count,
            |stop, gate| replay_until(scratch.path(), stop, gate),
            || {
                let clock = Real::start();
                run(schedule, &clock, &mut latencies, || wal.append(&PAYLOAD).map(drop)).map_err(Failure::from)
            },
        )?;
        tails.push(latencies.quantile(0.99) as f64);
        ours.add(&latencies);
        Ok(speed * size as f64)
    };
    let mut control_tails = Vec::new();
    let mut beside_memory = || {
        let mut latencies = Latencies::new();
        let speed = beside(
            count,
            |stop, gate| verify_until(memory.clone(), size, stop, gate),
            || {
                run(schedule, &Real::start(), &mut latencies, || {
                    black_box(ring.append(&PAYLOAD));
                    Ok(())
                })
            },
        )?;
        control_tails.push(latencies.quantile(0.99) as f64);
        control.add(&latencies);
        Ok(speed * size as f64)
    };
    let rounds = ground.interleave([&mut beside_log, &mut beside_memory])?;
    let speed = rounds.into_iter().map(|[ours, floor]| Round::beside(ours, floor)).collect();
    let late = tails.into_iter().zip(control_tails).map(|(ours, control)| Round::beside(ours, control)).collect();
    let what = format!("replay by {count} readers beside appends at 100 k/s, None");
    let row = |name: String, what: String, unit, goal| Row::new(name, what, unit, goal).floor(FLOOR);
    measured.rows.push(row(format!("readers-{count}"), what.clone(), Unit::Speed, Goal::High(None)).rounds(speed));
    let writer = format!("{what}: 99th percentile of the appends");
    measured.rows.push(row(format!("readers-{count}-writer"), writer, Unit::Nanos, Goal::Low(None)).rounds(late));
    measured.latencies.push(ours.summary(&format!("readers-{count}-writer"), &what));
    let floor = format!("floor: the same loop beside {count} threads that checksum memory");
    measured.latencies.push(control.summary(&format!("readers-{count}-writer-floor"), &floor));
    Ok(())
}

/// Runs `count` readers while `write` runs; returns the frames that they read a second, all together.
fn beside(
    count: usize,
    read: impl Fn(&AtomicBool, &Barrier) -> Result<u64, Failure> + Sync,
    write: impl FnOnce() -> Result<(), Failure>,
) -> Result<f64, Failure> {
    let (stop, gate) = (AtomicBool::new(false), Barrier::new(count + 1));
    std::thread::scope(|scope| {
        let one = || read(&stop, &gate);
        let readers: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
        gate.wait();
        let start = std::time::Instant::now();
        let written = write();
        stop.store(true, Ordering::Relaxed);
        let time = start.elapsed();
        let mut total = 0;
        for reader in readers {
            total += reader.join().map_err(|_| failed(std::io::Error::other("a thread failed")))??;
        }
        written.map(|()| per_second(total, time))
    })
}

/// Replays the log from its front again and again, and returns the number of records that were read.
fn replay_until(dir: &Path, stop: &AtomicBool, gate: &Barrier) -> Result<u64, Failure> {
    let opened = Reader::open(dir).and_then(|reader| reader.snapshot());
    // The others wait for this one, whatever came of it.
    gate.wait();
    let (snapshot, mut count) = (opened?, 0);
    while !stop.load(Ordering::Relaxed) {
        let mut records = snapshot.replay(0)?;
        loop {
            let before = count;
            for record in records.by_ref().take(AT_ONCE) {
                black_box(record?.payload());
                count += 1;
            }
            if count == before || stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    Ok(count)
}

/// The same over `memory`, which holds frames of `size` bytes.
fn verify_until(memory: Vec<u8>, size: usize, stop: &AtomicBool, gate: &Barrier) -> Result<u64, Failure> {
    gate.wait();
    let mut count = 0;
    for some in memory.chunks(AT_ONCE * size).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        count += verify_all(some);
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_readers_run_until_the_writer_is_done_and_are_counted_together() {
        let read = |stop: &AtomicBool, gate: &Barrier| {
            gate.wait();
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            Ok(10)
        };
        assert!(beside(3, read, || Ok(())).unwrap() > 0.0);
        assert!(beside(2, read, || Err(Failure::new(1, "failed"))).is_err());
    }

    #[test]
    fn a_part_of_the_frames_is_counted_by_frames() {
        let (stop, gate) = (AtomicBool::new(false), Barrier::new(1));
        let memory = frames(10, 128);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| verify_until(memory, frame_size(128), &stop, &gate));
            std::thread::yield_now();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(reader.join().unwrap().unwrap() % 10, 0);
        });
    }
}
