//! Proves, as far as searching can, that what threads do to a log together is right in every order: a model checker runs
//! one thread at a time, decides at every lock, atomic and act of the disk who goes on, and finds deadlocks by itself.
//! The library is the real one, on real files and on the simulated disk of the power-loss tests. Built only under
//! `--cfg mmap_wal_shuttle`:
//!
//! ```text
//! RUSTFLAGS="--cfg mmap_wal_shuttle --cfg mmap_wal_planted" CARGO_TARGET_DIR=target/shuttle \
//!     cargo test --test interleavings
//! ```
//!
//! `MMAP_WAL_SCHEDULES` orders of each scenario are run, from `MMAP_WAL_SCHEDULE_SEED` on. An order that fails is printed;
//! `MMAP_WAL_SCHEDULE`, set to what was printed, repeats it in the test that is named beside it.
//!
//! Does not prove: orders that were not run; what weaker memory orders than the strongest allow (every atomic is taken for
//! sequentially consistent); how long anything takes.
#![cfg(mmap_wal_shuttle)]
#![allow(missing_docs)]

mod fixture;
mod reference;
mod schedules;
mod simulator;

use schedules::{Scenario, replay, scenarios, search};
use shuttle::FailurePersistence;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

fn in_every_order(scenario: Scenario) {
    if let Ok(schedule) = std::env::var("MMAP_WAL_SCHEDULE") {
        return replay(scenario, schedule.trim()).expect("this order fails no more");
    }
    let schedules = number("MMAP_WAL_SCHEDULES").unwrap_or(400) as usize;
    match search(scenario, schedules, number("MMAP_WAL_SCHEDULE_SEED").unwrap_or(1), &FailurePersistence::Print) {
        Ok(schedules) => println!("{schedules} orders"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn appends_share_syncs_and_none_is_acknowledged_before_its_own() {
    in_every_order(scenarios::group_commit);
}

#[test]
fn whoever_loses_patience_leaves_nobody_waiting() {
    in_every_order(scenarios::impatient);
}

#[test]
fn nobody_in_a_crowd_waits_for_ever_whatever_ends_it() {
    in_every_order(scenarios::crowd);
}

#[test]
fn a_failed_sync_is_told_to_everybody_who_waits() {
    in_every_order(scenarios::failed_sync);
}

#[test]
fn whoever_awaits_is_woken_whoever_syncs() {
    in_every_order(scenarios::awaited);
}

#[test]
fn rotations_go_on_beside_appends_and_through_want_of_space() {
    in_every_order(scenarios::rotation);
}

#[test]
fn a_close_leaves_nobody_behind() {
    in_every_order(scenarios::close);
}

#[test]
fn a_number_that_is_given_again_is_acknowledged_for_its_new_record_alone() {
    in_every_order(scenarios::cut);
}

#[test]
fn the_window_of_batch_mode_is_kept() {
    in_every_order(scenarios::window);
}

#[test]
fn views_show_what_was_there_for_as_long_as_anybody_looks() {
    in_every_order(scenarios::views);
}

#[test]
fn a_reader_sees_what_was_there() {
    in_every_order(scenarios::reader);
}

#[test]
fn a_tail_is_woken_for_every_record() {
    in_every_order(scenarios::tail);
}

#[test]
fn an_attempt_does_not_wait_for_an_append_under_way() {
    in_every_order(scenarios::attempt);
}

#[test]
fn attempts_do_not_wait_for_segments() {
    in_every_order(scenarios::attempts);
}
