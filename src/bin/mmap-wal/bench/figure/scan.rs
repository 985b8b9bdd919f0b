//! Reading all of a log, beside the checksums of the same frames in memory.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use mmap_wal::inspect::Log;
use mmap_wal::{Reader, Snapshot, SyncMode};

use crate::bench::figure::FRAMES_AT;
use crate::bench::floor::memory::{frame_size, frames, verify_all};
use crate::bench::ground::{Ground, Measured, per_second};
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::{FAILED, Failure};

const SEGMENTS: u64 = 4;
/// Records that are left out of the last segment, so that nothing rotates once more.
const SPARE: u64 = 8;
const FLOOR: &str = "checksums of the same frames in order, in memory";

/// Records of 128 bytes, and of 1 KiB.
pub(crate) fn scan(ground: &Ground) -> Result<Measured, Failure> {
    let mut measured = Measured::default();
    for (name, len) in [("128", 128), ("1k", 1024)] {
        measured.rows.extend(scan_of(ground, name, len)?);
    }
    Ok(measured)
}

/// A log, and how much is in it.
struct Content<'a> {
    dir: &'a Path,
    size: u64,
    total: u64,
    /// Records of the last segment.
    last: u64,
}

fn scan_of(ground: &Ground, name: &str, len: usize) -> Result<Vec<Row>, Failure> {
    let (scratch, wal) = ground.log("scan", SyncMode::None)?;
    let size = frame_size(len) as u64;
    let fits = (ground.segment() - FRAMES_AT) / size;
    let content = Content { dir: scratch.path(), size, total: SEGMENTS * fits - SPARE, last: fits - SPARE };
    let payload = vec![0xa5; len];
    for _ in 0..content.total {
        wal.append(&payload)?;
    }
    wal.close()?;
    drop(wal);
    ground.settle()?;
    let memory = frames(content.total as usize, len);
    let mut again = Vec::new();
    let mut floor = || timed(content.total, size, || Ok(verify_all(&memory)));
    let mut look = || content.look();
    let mut verify = || content.verify();
    let mut replay = || {
        let snapshot = Reader::open(content.dir)?.snapshot()?;
        let first = timed(content.total, size, || replay(&snapshot))?;
        again.push(timed(content.total, size, || replay(&snapshot))?);
        Ok(first)
    };
    let rounds = ground.interleave([&mut floor, &mut look, &mut verify, &mut replay])?;
    let row = |name: &str, what: &str, least: f64, values: Vec<f64>| {
        let beside = values.into_iter().zip(&rounds).map(|(ours, values)| Round::beside(ours, values[0]));
        let what = format!("{what}, records of {len} B");
        Row::new(name, what, Unit::Speed, Goal::High(Some(least))).floor(FLOOR).rounds(beside.collect())
    };
    let values = |kind: usize| rounds.iter().map(|values| values[kind]).collect::<Vec<f64>>();
    let again_what = "replay once more by the same reader";
    Ok(vec![
        row(&format!("scan-{name}"), "a reader's look at the last segment", 0.85, values(1)),
        row(&format!("verify-{name}"), "verify", 0.85, values(2)),
        row(&format!("replay-{name}"), "replay by a reader", 0.85, values(3)),
        row(&format!("replay-again-{name}"), again_what, 2.0 * 0.85, again),
    ])
}

impl Content<'_> {
    fn look(&self) -> Result<f64, Failure> {
        timed(self.last, self.size, || {
            let snapshot = Reader::open(self.dir)?.snapshot()?;
            Ok(snapshot.last_seq() + self.last - self.total)
        })
    }

    fn verify(&self) -> Result<f64, Failure> {
        timed(self.total, self.size, || Ok(Log::open(self.dir)?.verify(|_| {})?.records))
    }
}

/// Bytes a second at which `read` reads `count` frames of `size` bytes; it returns how many it has read.
fn timed(count: u64, size: u64, read: impl FnOnce() -> Result<u64, Failure>) -> Result<f64, Failure> {
    let start = Instant::now();
    let found = read()?;
    let time = start.elapsed();
    if found != count {
        let sentence = format!("read {found} records and not {count}; this is a defect, report it");
        return Err(Failure::new(FAILED, sentence));
    }
    Ok(per_second(count * size, time))
}

fn replay(snapshot: &Snapshot) -> Result<u64, Failure> {
    let mut count = 0;
    for record in snapshot.replay(0)? {
        black_box(record?.payload());
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_is_not_the_right_one_is_no_figure() {
        assert!(timed(10, 152, || Ok(9)).is_err());
        assert!(timed(10, 152, || Ok(10)).unwrap() > 0.0);
    }
}
