//! Looking up records by their numbers, at random, in memory.

use std::hint::black_box;
use std::time::Instant;

use mmap_wal::SyncMode;

use crate::bench::figure::PAYLOAD;
use crate::bench::floor::memory::{frames_of, look_up};
use crate::bench::ground::{Ground, Measured};
use crate::bench::latency::Latencies;
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::{FAILED, Failure};

/// Looked up between two looks at the clock, which costs about as much as one.
const AT_ONCE: usize = 32;

/// The median of a lookup, of one after the other with no pause: of records that are all of one size, and that are not.
pub(crate) fn get(ground: &Ground) -> Result<Measured, Failure> {
    let count: usize = ground.pick(20_000, 1_000_000, 1_000_000);
    let alike = vec![PAYLOAD.len(); count];
    let mixed: Vec<usize> = numbers().map(|number| 100 + number as usize % 57).take(count).collect();
    let rows = vec![
        row_of(ground, "get", format!("get at random of {count} records, warm, median"), Some(1.2), &alike)?,
        row_of(
            ground,
            "get-mixed",
            format!("get at random of {count} records of 100 to 156 B, warm, median"),
            None,
            &mixed,
        )?,
    ];
    Ok(Measured { rows, ..Measured::default() })
}

/// Of records whose payloads are of these lengths.
fn row_of(ground: &Ground, name: &str, what: String, most: Option<f64>, lens: &[usize]) -> Result<Row, Failure> {
    let (_scratch, wal) = ground.log(name, SyncMode::None)?;
    let payload = vec![PAYLOAD[0]; lens.iter().copied().max().unwrap_or(0)];
    for len in lens {
        wal.append(&payload[..*len])?;
    }
    let snapshot = wal.snapshot();
    let (memory, places) = frames_of(lens);
    let count = lens.len() as u64;
    // Everything is in memory and known where it can be.
    for seq in 1..=count {
        snapshot.get(seq)?;
    }
    let order = random_order(ground.pick(100, 5000, 20_000) * AT_ONCE, count);
    let known: Vec<u64> = order.iter().map(|seq| places[*seq as usize - 1] as u64).collect();
    let mut ours = || {
        each(&order, |seq| match snapshot.get(seq)? {
            Some(record) => Ok(record.payload()[0]),
            None => Err(lost(seq)),
        })
    };
    let mut floor = || each(&known, |at| look_up(&memory, at as usize).ok_or_else(|| lost(at)));
    let rounds = ground.interleave([&mut ours, &mut floor])?;
    let rounds = rounds.into_iter().map(|[ours, floor]| Round::beside(ours, floor)).collect();
    let floor = "checksum and touch at a known offset, in memory";
    Ok(Row::new(name, what, Unit::Nanos, Goal::Low(most)).floor(floor).rounds(rounds))
}

/// The median time of one lookup, in nanoseconds, of what is `wanted`.
fn each(wanted: &[u64], mut look: impl FnMut(u64) -> Result<u8, Failure>) -> Result<f64, Failure> {
    let mut latencies = Latencies::new();
    for wanted in wanted.chunks_exact(AT_ONCE) {
        let start = Instant::now();
        for one in wanted {
            black_box(look(*one)?);
        }
        latencies.record(start.elapsed().as_nanos() as u64);
    }
    Ok(latencies.median() / AT_ONCE as f64)
}

/// Numbers from 1 to `most` in no order.
fn random_order(count: usize, most: u64) -> Vec<u64> {
    numbers().map(|number| number % most + 1).take(count).collect()
}

/// Numbers of 32 bits by Knuth's linear congruential generator, of which the upper bits are random enough.
fn numbers() -> impl Iterator<Item = u64> {
    let next =
        |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(Some(1), next).skip(1).map(|state: u64| state >> 32)
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
