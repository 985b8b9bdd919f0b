//! Proves that the tests of threads under the model checker catch what they are for: each planted bug breaks one rule that
//! only threads can break, and a scenario or a crash must show it. Built only under both cfgs:
//!
//! ```text
//! RUSTFLAGS="--cfg mmap_wal_shuttle --cfg mmap_wal_planted" CARGO_TARGET_DIR=target/shuttle \
//!     cargo test --test planted_threads -- --nocapture
//! ```
//!
//! Proves also that an order which fails can be repeated: it is noted, run again, and must fail in the same place.
//!
//! Does not prove that other bugs would be caught.
#![cfg(all(mmap_wal_shuttle, mmap_wal_planted))]
#![allow(missing_docs)]

mod fixture;
mod reference;
mod schedules;
mod simulator;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mmap_wal::planted::{Bug, plant};
use schedules::{Failure, Scenario, replay, scenarios, search};
use shuttle::FailurePersistence;
use simulator::threads::Campaign;

/// What shows a bug of threads without a crash.
const SHOWN: [(Bug, Scenario); 16] = [
    (Bug::SyncWakesNobody, scenarios::group_commit),
    (Bug::LeaderNotPassedOn, scenarios::impatient),
    (Bug::DurableBeforeSync, scenarios::group_commit),
    (Bug::TwoLeaders, scenarios::group_commit),
    (Bug::SyncedTooFar, scenarios::group_commit),
    (Bug::FailureWakesNobody, scenarios::failed_sync),
    (Bug::LeaderEndsBeforePoison, scenarios::failed_sync),
    (Bug::SyncForgetsWakers, scenarios::awaited),
    (Bug::RotateBeforeSeal, scenarios::rotation),
    (Bug::CloseWakesNobody, scenarios::close),
    (Bug::EpochIgnored, scenarios::cut),
    (Bug::NoBackPressure, scenarios::window),
    (Bug::AttemptWaits, scenarios::attempt),
    (Bug::AppendTellsNobody, scenarios::tail),
    (Bug::RecycleUnderView, scenarios::views),
    (Bug::CutBesideLeader, scenarios::cut),
];

/// What a crash shows, in what it leaves.
const CRASHED: [Bug; 8] = [
    Bug::AckBeforeSync,
    Bug::SealBeforeSync,
    Bug::DurableBeforeSync,
    Bug::SyncedTooFar,
    Bug::TwoLeaders,
    Bug::LeaderEndsBeforePoison,
    Bug::WatermarkOverRotation,
    Bug::CutBesideLeader,
];

const SCHEDULES: usize = 6000;
const STATES: usize = 60_000;

fn tell(bug: Bug, by: &str, started: Instant, found: &Result<String, String>) -> Option<String> {
    let what = match found {
        Err(how) => how.lines().next().unwrap_or_default().chars().take(150).collect(),
        Ok(tried) => format!("NOT CAUGHT by {tried}"),
    };
    println!("{:<24} {by:<10} {:>5.1} s  {what}", format!("{bug:?}"), started.elapsed().as_secs_f64());
    found.is_ok().then(|| format!("{bug:?} by {by}"))
}

/// The order in which `scenario` failed is in the first file of `notes`; what is run again is noted again.
fn must_fail_again(scenario: Scenario, failure: &Failure, notes: &Path) {
    let files = || -> BTreeSet<PathBuf> {
        std::fs::read_dir(notes).expect("the directory").map(|entry| entry.expect("an entry").path()).collect()
    };
    let schedule = std::fs::read_to_string(files().first().expect("a note")).expect("a schedule");
    let again = replay(scenario, &schedule).expect_err("an order that failed fails again");
    files().iter().for_each(|file| std::fs::remove_file(file).expect("a removal"));
    // What follows names directories that are others by now.
    let place = |message: &str| message.split(": ").next().map(str::to_owned);
    assert_eq!(place(&again), place(&failure.message), "an order that failed fails in the same place again");
}

/// One test, because a bug is planted for the whole process.
#[test]
fn every_planted_bug_of_threads_is_caught() {
    let mut missed = Vec::new();
    // The model checker keeps to the first place that it is told of.
    let notes = tempfile::tempdir().expect("a directory");
    for (bug, scenario) in SHOWN {
        plant(bug);
        let started = Instant::now();
        let found = search(scenario, SCHEDULES, 1, &FailurePersistence::File(Some(notes.path().to_owned())));
        if let Err(failure) = &found {
            must_fail_again(scenario, failure, notes.path());
        }
        let found = found.map(|tried| format!("{tried} orders")).map_err(|e| e.to_string());
        missed.extend(tell(bug, "schedules", started, &found));
    }
    for bug in CRASHED {
        plant(bug);
        let started = Instant::now();
        let campaign = Campaign { states: STATES, seeds: u64::MAX, threads: 2 };
        let found = campaign.run(0).map(|histogram| format!("{} states", histogram.total()));
        let found = found.map_err(|e| format!("{} states, seed {}: {}", e.states, e.seed, e.message));
        missed.extend(tell(bug, "crashes", started, &found));
    }
    plant(Bug::None);
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
