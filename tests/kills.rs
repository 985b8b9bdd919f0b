//! Proves, by trying, that nothing acknowledged is lost when the writer is killed with SIGKILL, in every mode, over many
//! rounds of one log: of a writer of lines, and of threads that append, submit, batch, checkpoint, truncate and cut. What
//! was dropped stays dropped, and batches are whole. The same of repairs of damaged logs: whenever one is killed, the log is
//! as before or as repaired, and nothing is lost that the damage did not hit. Does not prove anything about power loss: what
//! the kernel holds survives here.
//!
//! `MMAP_WAL_KILLS` is the number of kills per log (default 2, which makes about 30 in all); a log of the matrix gets half
//! as many, one that is repaired twice as many.
#![allow(missing_docs)]

use std::process::Command;

fn kills() -> usize {
    std::env::var("MMAP_WAL_KILLS").ok().and_then(|value| value.parse().ok()).unwrap_or(2)
}

/// From so many kills on, some come where they should.
const MANY: usize = 12;

fn survives(args: &[&str]) {
    survives_rounds(kills(), 1, args);
}

/// Runs so many rounds in each of so many logs, and returns the summary.
fn survives_rounds(rounds: usize, logs: usize, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_mmap-wal"))
        .args(["crash-test", "--rounds", &rounds.to_string()])
        .args(args)
        .output()
        .expect("a run");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stderr.is_empty(), "{stdout}{stderr}");
    let all = format!("all: {} rounds, ", rounds * logs);
    let last = stdout.lines().last().expect("a summary");
    assert!(last.starts_with(&all) && last.ends_with(" 0 lost"), "{stdout}");
    assert!(rounds * logs < MANY || !last.contains(" 0 records appended"), "the writer wrote nothing: {stdout}");
    last.to_owned()
}

#[test]
fn sync_mode_survives_kills() {
    survives(&["--sync-mode", "sync"]);
}

#[test]
fn batch_mode_survives_kills() {
    survives(&["--sync-mode", "batch"]);
}

#[test]
fn none_mode_survives_kills() {
    survives(&["--sync-mode", "none"]);
}

#[test]
fn batches_are_whole_after_kills() {
    survives(&["--batch", "10"]);
}

#[test]
fn tiny_segments_survive_kills_in_rotations() {
    survives(&["--sync-mode", "none", "--segment-size", "16KiB", "--within", "100ms"]);
}

#[test]
fn a_log_that_is_full_is_begun_anew() {
    survives(&["--sync-mode", "none", "--lines", "500"]);
}

/// Every mode, with one thread and with four, small segments of different sizes, with a thread of the log's own and without.
#[test]
fn threads_that_append_truncate_and_cut_survive_kills_at_any_moment() {
    let rounds = kills().div_ceil(2);
    let summary = survives_rounds(rounds, 6, &["--truncate", "--cut", "--within", "200ms"]);
    let hit = |moment| summary.contains(moment);
    let is_hit = hit("in a truncation") || hit("in a cut");
    assert!(rounds < MANY || is_hit, "the kills came between what they should come in: {summary}");
}

/// Every mode: a writer is killed, what it left is damaged, the repair is killed until it gets through, the writer goes on.
#[test]
fn a_repair_that_is_killed_at_any_moment_loses_nothing_that_was_not_damaged() {
    let rounds = kills() * 2;
    let summary = survives_rounds(rounds, 3, &["--repair", "--within", "100ms"]);
    assert!(summary.contains(" damaged logs repaired, "), "nothing was repaired: {summary}");
    assert!(rounds < MANY || !summary.contains(" 0 within"), "no kill came within a repair: {summary}");
}

#[test]
fn threads_that_only_append_survive_kills() {
    survives(&["--sync-mode", "none", "--threads", "3", "--background", "thread", "--lines", "20000"]);
}

#[test]
fn what_only_the_writer_of_lines_does_is_not_asked_of_the_other_one() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mmap-wal"));
    let output = command.args(["crash-test", "--threads", "2", "--batch", "5"]).output().expect("a run");
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn a_directory_that_is_not_empty_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("mine"), b"precious").expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mmap-wal"));
    let output = command.arg("crash-test").arg(dir.path()).output().expect("a run");
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(std::fs::read(dir.path().join("mine")).expect("the file"), b"precious");
}
