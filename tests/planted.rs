//! Proves that the simulator catches what it is for: each planted bug breaks one rule of the design, and the campaign or
//! a directed history must fail with it and pass without it. Built only under `--cfg mmap_wal_planted`:
//!
//! ```text
//! RUSTFLAGS="--cfg mmap_wal_planted" CARGO_TARGET_DIR=target/planted cargo test --test planted -- --nocapture
//! ```
//!
//! Does not prove that other bugs would be caught.
#![cfg(mmap_wal_planted)]
#![allow(missing_docs)]

mod fixture;
mod reference;
mod simulator;

use std::time::Instant;

use mmap_wal::planted::{Bug, plant};
use simulator::campaign::Campaign;
use simulator::directed;

const BUGS: [Bug; 21] = [
    Bug::RecycleKeepsSalt,
    Bug::AckBeforeSync,
    Bug::NoDirectorySync,
    Bug::NoScrub,
    Bug::ScrubNotSynced,
    Bug::CrcWithoutSalt,
    Bug::BatchWithoutCommit,
    Bug::WatermarkTooHigh,
    Bug::SealBeforeSync,
    Bug::AnnounceBeforeSync,
    Bug::OneSlot,
    Bug::NoRedirty,
    Bug::SeqRestarts,
    Bug::RecycleNotSynced,
    Bug::RestartBeforeCut,
    Bug::NumberWithoutSpace,
    Bug::NoSpaceNoSeal,
    Bug::RepairRemovesFirst,
    Bug::RepairNotSynced,
    Bug::RepairNamesNotSynced,
    Bug::BelieveOlderManifest,
];

/// What is wrong, and how it was found; `Ok` says how much was tried in vain.
fn search(bug: Bug) -> Result<String, String> {
    let named = |name: &str, ran: Result<(), String>| ran.map_err(|message| format!("{name}: {message}"));
    match bug {
        Bug::OneSlot => named("lost_slot", directed::lost_slot()).map(|()| "lost_slot".to_owned()),
        Bug::CrcWithoutSalt => {
            named("frames_of_another_log", directed::frames_of_another_log()).map(|()| "frames_of_another_log".into())
        }
        Bug::BelieveOlderManifest => {
            named("older_manifest", directed::older_manifest()).map(|()| "older_manifest".to_owned())
        }
        Bug::RecycleKeepsSalt => {
            let ran = directed::frames_of_a_previous_generation();
            named("frames_of_a_previous_generation", ran).map(|()| "frames_of_a_previous_generation".to_owned())
        }
        // Without a bug there is no end to it, and it has a test of its own.
        Bug::None => campaign(15_000),
        _ => campaign(60_000),
    }
}

fn campaign(states: usize) -> Result<String, String> {
    match (Campaign { states, seeds: u64::MAX, threads: 2 }).run(0) {
        Ok(histogram) => Ok(format!("{} states", histogram.total())),
        Err(failure) => Err(format!("{} states, seed {}: {}", failure.states, failure.seed, failure.message)),
    }
}

/// One test, because a bug is planted for the whole process.
#[test]
fn every_planted_bug_is_caught() {
    let mut missed = Vec::new();
    for bug in BUGS {
        plant(bug);
        let started = Instant::now();
        let found = search(bug);
        let what = match &found {
            Err(how) => how.chars().take(150).collect(),
            Ok(tried) => format!("NOT CAUGHT by {tried}"),
        };
        println!("{:<20} {:>5.1} s  {what}", format!("{bug:?}"), started.elapsed().as_secs_f64());
        missed.extend(found.is_ok().then_some(bug));
    }
    plant(Bug::None);
    assert!(missed.is_empty(), "not caught: {missed:?}");
    for bug in [Bug::RecycleKeepsSalt, Bug::OneSlot, Bug::CrcWithoutSalt, Bug::None] {
        search(bug).expect("without a bug there is nothing to catch");
    }
}
