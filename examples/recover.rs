//! A counter that survives restarts: every addition is logged, the state is saved now and then, and after a restart only
//! what came after the saved state is replayed.
//!
//! `cargo run --example recover [DIR]`; without DIR it uses a temporary directory.

use std::path::Path;

use mmap_wal::{Error, Wal};

/// The state of the program, and where a real one would keep it: in a file of its own, saved before the checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counter {
    sum: u64,
    applied: u64,
}

impl Counter {
    fn apply(&mut self, seq: u64, payload: &[u8]) {
        let number = payload.try_into().map(u64::from_le_bytes).unwrap_or_default();
        self.sum = self.sum.wrapping_add(number);
        self.applied = seq;
    }
}

/// The first life of the program: adds 1 to 100, saves its state after 60, and loses what it held in memory.
fn first_life(dir: &Path) -> Result<(Counter, Counter), Error> {
    let wal = Wal::open(dir)?;
    let mut counter = Counter { applied: wal.positions().last, sum: 0 };
    let mut saved = counter;
    for number in 1..=100_u64 {
        let payload = number.to_le_bytes();
        // First the log, then the state: what was not logged must not be seen.
        let seq = wal.append(&payload)?;
        counter.apply(seq, &payload);
        if number == 60 {
            saved = counter;
            wal.checkpoint(counter.applied)?;
            wal.truncate_front(counter.applied)?;
        }
    }
    Ok((saved, counter))
}

/// The next life: starts from the saved state and replays what the log holds after it.
fn next_life(dir: &Path, saved: Counter) -> Result<Counter, Error> {
    let wal = Wal::open(dir)?;
    println!("{}", wal.recovery());
    let mut counter = saved;
    for record in wal.snapshot().replay(wal.positions().checkpoint)? {
        let record = record?;
        counter.apply(record.seq(), record.payload());
    }
    wal.close()?;
    Ok(counter)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map_or_else(|| temporary.path().join("log"), Into::into);
    let (saved, before) = first_life(&dir)?;
    let after = next_life(&dir, saved)?;
    println!("saved {saved:?}, replayed to {after:?}");
    assert_eq!(after, before, "the replay gives the state of before the restart");
    Ok(())
}
