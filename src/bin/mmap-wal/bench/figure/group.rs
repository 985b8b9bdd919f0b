//! Threads that append durably at once, and share syncs.

use std::time::{Duration, Instant};

use mmap_wal::SyncMode;

use crate::bench::figure::PAYLOAD;
use crate::bench::floor::disk::Disk;
use crate::bench::floor::group::Group;
use crate::bench::ground::{Ground, Measured, failed, per_second};
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::Failure;

const THREADS: [u64; 2] = [8, 32];

/// The rate and the size of a group, with 8 threads and with 32.
pub(crate) fn commit(ground: &Ground) -> Result<Measured, Failure> {
    let mut measured = Measured::default();
    for threads in THREADS {
        measured.rows.extend(commit_by(ground, threads)?);
    }
    Ok(measured)
}

fn commit_by(ground: &Ground, threads: u64) -> Result<[Row; 2], Failure> {
    let each = ground.pick(5, 300, 1000);
    let scratch = ground.scratch("floor")?;
    let disk = Disk::create(scratch.path(), ground.segment() as usize).map_err(failed)?;
    let way = disk.way();
    let floor = Group::new(disk, ground.segment());
    let (_log, wal) = ground.log("group", SyncMode::Sync)?;
    let mut sizes = Vec::new();
    let mut ours = || {
        let before = wal.stats().group_records.count();
        let time = together(threads, || (0..each).try_for_each(|_| wal.append(&PAYLOAD).map(drop)))?;
        let groups = wal.stats().group_records.count() - before;
        sizes.push(Round::alone((threads * each) as f64 / groups.max(1) as f64));
        Ok(per_second(threads * each, time))
    };
    let mut plain = || {
        let time = together(threads, || (0..each).try_for_each(|_| floor.append(&PAYLOAD).map_err(failed)))?;
        Ok(per_second(threads * each, time))
    };
    let rounds = ground.interleave([&mut ours, &mut plain])?;
    let rounds = rounds.into_iter().map(|[ours, floor]| Round::beside(ours, floor)).collect();
    let what = format!("append, Sync, 128 B, {threads} threads");
    let rate = Row::new(format!("group-{threads}"), what.clone(), Unit::Rate, Goal::High(Some(1.3)));
    let half = Goal::High(Some(0.5 * threads as f64));
    let size = Row::new(format!("group-{threads}-size"), format!("{what}, records for a sync"), Unit::Count, half);
    Ok([rate.floor(format!("a plain leader and followers over {way}")).rounds(rounds), size.rounds(sizes)])
}

/// Has `threads` threads do the same at once, and returns how long it took all of them.
fn together<E: Into<Failure> + Send>(
    threads: u64,
    work: impl Fn() -> Result<(), E> + Sync,
) -> Result<Duration, Failure> {
    let gate = std::sync::Barrier::new(threads as usize + 1);
    std::thread::scope(|scope| {
        let one = || {
            gate.wait();
            work()
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        gate.wait();
        let start = Instant::now();
        for worker in workers {
            worker.join().expect("a thread that does not panic").map_err(Into::into)?;
        }
        Ok(start.elapsed())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn all_threads_work_and_a_failure_of_one_is_told() {
        let count = AtomicU64::new(0);
        let counted = || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<(), Failure>(())
        };
        assert!(together(4, counted).is_ok());
        assert_eq!(count.load(Ordering::Relaxed), 4);
        let fails = || if count.fetch_add(1, Ordering::Relaxed) == 5 { Err(Failure::new(1, "failed")) } else { Ok(()) };
        assert!(together(4, fails).is_err());
    }
}
