//! Looking up records by their numbers, at random, in memory.

use std::hint::black_box;
use std::time::Instant;

use mmap_wal::SyncMode;

use crate::bench::figure::PAYLOAD;
use crate::bench::floor::memory::{frame_size, frames, look_up};
use crate::bench::ground::{Ground, Measured};
use crate::bench::latency::Latencies;
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::{FAILED, Failure};

/// Looked up between two looks at the clock, which costs about as much as one.
const AT_ONCE: usize = 32;

/// The median of a lookup, of one after the other with no pause.
pub(crate) fn get(ground: &Ground) -> Result<Measured, Failure> {
    let count: u64 = ground.pick(20_000, 1_000_000, 1_000_000);
    let samples = ground.pick(100, 5000, 20_000);
    let (_scratch, wal) = ground.log("get", SyncMode::None)?;
    for _ in 0..count {
        wal.append(&PAYLOAD)?;
    }
    let snapshot = wal.snapshot();
    let memory = frames(count as usize, PAYLOAD.len());
    let size = frame_size(PAYLOAD.len());
    // Everything is in memory and known where it can be.
    for seq in 1..=count {
        snapshot.get(seq)?;
    }
    let order = random_order(samples * AT_ONCE, count);
    let mut ours = || {
        each(&order, |seq| match snapshot.get(seq)? {
            Some(record) => Ok(record.payload()[0]),
            None => Err(lost(seq)),
        })
    };
    let mut floor = || {
        let at = |seq: u64| (seq - 1) as usize * size;
        each(&order, |seq| look_up(&memory, at(seq)).ok_or_else(|| lost(seq)))
    };
    let rounds = ground.interleave([&mut ours, &mut floor])?;
    let rounds = rounds.into_iter().map(|[ours, floor]| Round::beside(ours, floor)).collect();
    let what = format!("get at random of {count} records, warm, median");
    let row = Row::new("get", what, Unit::Nanos, Goal::Low(Some(1.2)));
    let floor = "checksum and touch at a known offset, in memory";
    Ok(Measured { rows: vec![row.floor(floor).rounds(rounds)], ..Measured::default() })
}

/// The median time of one lookup, in nanoseconds.
fn each(order: &[u64], mut look: impl FnMut(u64) -> Result<u8, Failure>) -> Result<f64, Failure> {
    let mut latencies = Latencies::new();
    for seqs in order.chunks_exact(AT_ONCE) {
        let start = Instant::now();
        for seq in seqs {
            black_box(look(*seq)?);
        }
        latencies.record(start.elapsed().as_nanos() as u64);
    }
    Ok(latencies.median() / AT_ONCE as f64)
}

/// Numbers from 1 to `most` in no order, by Knuth's linear congruential generator: the upper bits are random enough.
fn random_order(count: usize, most: u64) -> Vec<u64> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) % most + 1
    };
    (0..count).map(|_| next()).collect()
}

fn lost(seq: u64) -> Failure {
    Failure::new(FAILED, format!("record {seq} was not found; this is a defect, report it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_all_over_the_range() {
        let order = random_order(10_000, 100);
        assert!(order.iter().all(|seq| (1..=100).contains(seq)));
        let distinct: std::collections::BTreeSet<&u64> = order.iter().collect();
        assert_eq!(distinct.len(), 100);
        assert!(order.windows(2).filter(|pair| pair[1] > pair[0]).count() < 6000);
    }
}
