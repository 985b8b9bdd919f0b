//! Proves, as far as searching can, that no crash breaks a promise made to any of several threads: writers, one who
//! truncates, cuts and resets, and the log's own thread run under a model checker; at any act and between any two steps
//! the power fails or the process dies; what the disk then holds is any subset of what was not synced; the real library
//! opens it, and a ledger of what every thread was told, and an independent parser, say what it must show. Built only
//! under `--cfg mmap_wal_shuttle`:
//!
//! ```text
//! RUSTFLAGS="--cfg mmap_wal_shuttle --cfg mmap_wal_planted" CARGO_TARGET_DIR=target/shuttle \
//!     cargo test --test power_loss_threads -- --nocapture
//! ```
//!
//! `MMAP_WAL_CRASH_STATES` is how many distinct states are opened; `MMAP_WAL_CRASH_SEED` repeats one history.
//!
//! Does not prove: what `power_loss` does not prove either; crashes of a log that goes on after a crash with threads; what
//! weaker memory orders than the strongest allow.
#![cfg(mmap_wal_shuttle)]
#![allow(missing_docs)]

mod fixture;
mod reference;
mod simulator;

use simulator::threads::Campaign;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn no_crash_breaks_a_promise_to_any_thread() {
    let started = std::time::Instant::now();
    let ran = match env("MMAP_WAL_CRASH_SEED") {
        Some(seed) => Campaign { states: usize::MAX, seeds: 1, threads: 1 }.run(seed),
        None => {
            let states = env("MMAP_WAL_CRASH_STATES").unwrap_or(20_000) as usize;
            Campaign { states, seeds: u64::MAX, threads: 2 }.run(0)
        }
    };
    match ran {
        Ok(histogram) => println!("{histogram}\n{:>8.1?} taken", started.elapsed()),
        Err(failure) => panic!("{failure}"),
    }
}
