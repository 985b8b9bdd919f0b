//! Proves, by trying, that nothing acknowledged is lost when the writer is killed with SIGKILL, in every mode, over many
//! rounds of one log. Does not prove anything about power loss: what the kernel holds survives here.
//!
//! `MMAP_WAL_KILLS` is the number of kills per mode (default 12).
#![allow(missing_docs)]

use std::process::Command;

fn kills() -> String {
    std::env::var("MMAP_WAL_KILLS").unwrap_or_else(|_| "12".to_owned())
}

fn survives(args: &[&str]) {
    let kills = kills();
    let output = Command::new(env!("CARGO_BIN_EXE_mmap-wal"))
        .args(["crash-test", "--rounds", &kills])
        .args(args)
        .output()
        .expect("a run");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stderr.is_empty(), "{stdout}{stderr}");
    let rounds = format!("all: {kills} rounds, ");
    let last = stdout.lines().last().expect("a summary");
    assert!(last.starts_with(&rounds) && last.ends_with(" 0 lost"), "{stdout}");
    assert!(!last.contains(" 0 records appended"), "the writer wrote nothing: {stdout}");
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

#[test]
fn a_directory_that_is_not_empty_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("mine"), b"precious").expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mmap-wal"));
    let output = command.arg("crash-test").arg(dir.path()).output().expect("a run");
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(std::fs::read(dir.path().join("mine")).expect("the file"), b"precious");
}
