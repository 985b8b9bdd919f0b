//! Proves, as far as searching can, that no crash breaks a promise: every act of many histories is a point at which the
//! power fails, or the process dies, or a sync fails, or there is no space; what the disk then holds is any subset of the
//! sectors and names that were not synced, in any version that they had; the real library opens it, and a model and an
//! independent parser say what it must show. A log that was recovered goes on and crashes again, within recovery too; one
//! that is damaged and repaired crashes within the repair, and is held against what the first plan had promised.
//!
//! Does not prove: that the file system and the device keep what a sync promised; that a sector is written whole; what
//! several threads do at once; bit rot (other tests); crashes in the middle of a sync that is not one of its subsets.
#![allow(missing_docs)]

mod fixture;
mod reference;
mod simulator;

use simulator::campaign::Campaign;
use simulator::directed;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn no_crash_breaks_a_promise() {
    let started = std::time::Instant::now();
    let ran = match env("MMAP_WAL_CRASH_SEED") {
        Some(seed) => Campaign { states: usize::MAX, seeds: 1, threads: 1 }.run(seed),
        None => {
            let states = env("MMAP_WAL_CRASH_STATES").unwrap_or(120_000) as usize;
            Campaign { states, seeds: u64::MAX, threads: 2 }.run(0)
        }
    };
    match ran {
        Ok(histogram) => println!("{histogram}\n{:>8.1?} taken", started.elapsed()),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_slot_of_the_manifest_that_is_lost_after_an_update_loses_nothing() {
    directed::lost_slot().expect("the other slot says the same");
}

#[test]
fn frames_of_another_log_in_a_torn_payload_are_no_evidence() {
    directed::frames_of_another_log().expect("a torn end");
}

#[test]
fn a_log_whose_creation_was_killed_once_survives_a_power_failure() {
    directed::killed_creation().expect("the names above the log are durable");
}

/// A frame that is lost while a copy of it, in the payload of a later record of the same segment, is not: the copy has
/// the same salt, but it stands elsewhere.
#[test]
fn a_copy_of_a_lost_frame_in_a_later_payload_is_no_evidence() {
    directed::copy_of_a_lost_frame().expect("a torn end");
}

#[test]
fn an_older_manifest_is_refused() {
    directed::older_manifest().expect("a refusal");
}
