//! Where figures are taken: directories, logs, how much is done, and the order of the rounds.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mmap_wal::{Options, SyncMode, Wal};

use crate::bench::latency::Summary;
use crate::bench::row::Row;
use crate::failure::{FAILED, Failure};

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// As little as shows that it can be done.
    Quick,
    /// What the targets are stated for.
    Normal,
    /// As `Normal`, and more where that takes much time or space.
    Full,
}

impl Scale {
    /// A word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Normal => "normal",
            Self::Full => "full",
        }
    }
}

/// What all figures share.
pub(crate) struct Ground {
    /// A directory of this run's own.
    dir: PathBuf,
    pub(crate) scale: Scale,
    pub(crate) rounds: usize,
}

/// What a figure comes to.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) rows: Vec<Row>,
    pub(crate) latencies: Vec<Summary>,
    /// What could not be measured here, and why.
    pub(crate) notes: Vec<String>,
}

/// What is measured in turn: one value for each call.
pub(crate) type Kind<'a> = &'a mut dyn FnMut() -> Result<f64, Failure>;

impl Ground {
    /// Makes a directory in `dir`, which is gone when this is.
    pub(crate) fn new(dir: &Path, scale: Scale, rounds: usize) -> Result<Self, Failure> {
        let dir = dir.join(format!("mmap-wal-bench-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&dir).map_err(|e| {
            Failure::new(FAILED, format!("cannot use {}: {e}; give a directory that is there", dir.display()))
        })?;
        Ok(Self { dir, scale, rounds })
    }

    /// Chooses by how much is done.
    pub(crate) fn pick<T>(&self, quick: T, normal: T, full: T) -> T {
        match self.scale {
            Scale::Quick => quick,
            Scale::Normal => normal,
            Scale::Full => full,
        }
    }

    /// Bytes of a segment.
    pub(crate) fn segment(&self) -> u64 {
        self.pick(4 << 20, 64 << 20, 64 << 20)
    }

    /// An empty directory.
    pub(crate) fn scratch(&self, name: &str) -> Result<Scratch, Failure> {
        let dir = self.dir.join(name);
        DirBuilder::new().mode(0o700).create(&dir).map_err(failed)?;
        Ok(Scratch { dir })
    }

    /// The options of a log, apart from what a figure is about.
    pub(crate) fn options(&self, mode: SyncMode) -> Options {
        Options::new().sync_mode(mode).segment_size(self.segment())
    }

    /// A new log, and its directory. What was written before is settled first; the log's own pages are left as it has
    /// prepared them, because to write them back would make each fault at its first store.
    pub(crate) fn log(&self, name: &str, mode: SyncMode) -> Result<(Scratch, Wal), Failure> {
        self.settle()?;
        let scratch = self.scratch(name)?;
        let wal = self.options(mode).open(scratch.path())?;
        Ok((scratch, wal))
    }

    /// Has everything written that is to be written, so that it does not come in the way of what is measured next.
    pub(crate) fn settle(&self) -> Result<(), Failure> {
        #[cfg(target_os = "linux")]
        {
            let dir = std::fs::File::open(&self.dir).map_err(failed)?;
            rustix::fs::syncfs(&dir).map_err(|e| failed(e.into()))
        }
        #[cfg(not(target_os = "linux"))]
        {
            rustix::fs::sync();
            Ok(())
        }
    }

    /// Takes each of `kinds` in turn, once a round, and another one first each round: what drifts falls on all of them.
    pub(crate) fn interleave<const N: usize>(&self, kinds: [Kind<'_>; N]) -> Result<Vec<[f64; N]>, Failure> {
        let mut rounds = Vec::with_capacity(self.rounds);
        for round in 0..self.rounds {
            let mut values = [0.0; N];
            for turn in 0..N {
                let kind = (round + turn) % N;
                values[kind] = kinds[kind]()?;
            }
            rounds.push(values);
        }
        Ok(rounds)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // What is left there has the name of this program.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A directory that is gone when this is.
pub(crate) struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The run's own directory goes at the end, with whatever is left in it.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The system did not do what is measured.
pub(crate) fn failed(e: io::Error) -> Failure {
    Failure::new(FAILED, format!("cannot measure: {e}; check the directory and the disk, and try again"))
}

/// Nanoseconds for each of `count` operations.
pub(crate) fn per_operation(time: Duration, count: u64) -> f64 {
    time.as_nanos() as f64 / count.max(1) as f64
}

/// So much a second.
pub(crate) fn per_second(amount: u64, time: Duration) -> f64 {
    amount as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn kinds_take_turns_and_each_is_first_as_often_as_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let ground = Ground::new(dir.path(), Scale::Quick, 3).unwrap();
        let order = RefCell::new(String::new());
        let taken = |name: char| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok(f64::from(u32::from(name)))
            }
        };
        let (mut a, mut b, mut c) = (taken('a'), taken('b'), taken('c'));
        let rounds = ground.interleave([&mut a, &mut b, &mut c]).unwrap();
        assert_eq!(*order.borrow(), "abcbcacab");
        assert_eq!(rounds, vec![[97.0, 98.0, 99.0]; 3]);
    }

    #[test]
    fn nothing_is_left_in_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let ground = Ground::new(dir.path(), Scale::Quick, 1).unwrap();
        let (scratch, wal) = ground.log("log", SyncMode::None).unwrap();
        wal.append(b"x").unwrap();
        drop((wal, ground));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(scratch);
    }

    #[test]
    fn amounts_are_divided_by_what_they_took() {
        assert_eq!(per_operation(Duration::from_micros(5), 100), 50.0);
        assert_eq!(per_second(1000, Duration::from_millis(500)), 2000.0);
    }
}
