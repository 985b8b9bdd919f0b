//! `tail` and `replay --follow`.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Stdio};

use mmap_wal::{Background, Options, Wal};
use serde_json::Value;

use crate::fixture::{Fixture, command, kill, lines, living_writer, run, run_with};

/// A tail that is running, and what it prints.
fn following(args: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a tail");
    let stdout = child.stdout.take().expect("its output");
    (child, BufReader::new(stdout).lines())
}

fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    lines.next().expect("a line").expect("text")
}

fn open(fixture: &Fixture) -> Wal {
    let options = Options::new().segment_size(12 << 10).background(Background::Caller);
    options.open(fixture.path("log")).expect("the log")
}

#[test]
fn records_are_printed_as_they_are_appended_over_rotations_and_a_killed_writer() {
    let fixture = Fixture::new();
    let (mut writer, mut acks) = living_writer(&fixture, 3, &["--sync-mode", "none"]);
    let (mut tail, mut printed) = following(&["tail", &fixture.log(), "--after", "1", "--with-seq"]);
    assert_eq!([next(&mut printed), next(&mut printed)], ["2\t2", "3\t3"]);
    let stdin = writer.stdin.as_mut().expect("its input");
    stdin.write_all(lines(4..=900).as_bytes()).expect("lines");
    for seq in 4..=900 {
        assert_eq!(next(&mut printed), format!("{seq}\t{seq}"));
    }
    let mut line = String::new();
    while line != "900\n" {
        line.clear();
        acks.read_line(&mut line).expect("an acknowledgement");
    }
    kill(writer);
    assert_eq!(run_with(&["append", &fixture.log(), "--quiet"], b"after the kill\n").ok(), "");
    assert_eq!(next(&mut printed), "901\tafter the kill");
    tail.kill().expect("a kill");
    tail.wait().expect("an end");
}

#[test]
fn without_a_number_it_begins_at_the_end_and_with_a_count_it_ends() {
    let fixture = Fixture::with_lines(40);
    let log = fixture.log();
    assert_eq!(run(&["tail", &log, "--after", "38", "--count", "2"]).ok(), "39\n40\n");
    assert_eq!(
        run(&["tail", &log, "--after", "39", "--count", "1", "--json"]).ok(),
        "{\"seq\":40,\"len\":2,\"payload\":\"40\"}\n"
    );
    assert_eq!(run(&["tail", &log, "--count", "0"]).ok(), "");
    run(&["tail", &log, "--after", "41"]).failed(1, "40");
}

#[test]
fn it_waits_for_a_log_that_is_not_there_if_told() {
    let fixture = Fixture::new();
    let log = fixture.log();
    run(&["tail", &log]).failed(3, "log");
    let (mut tail, mut printed) = following(&["tail", &log, "--wait", "--after", "0", "--durable", "--count", "2"]);
    assert_eq!(run_with(&["append", &log], b"a\nb\n").ok(), "1\n2\n");
    assert_eq!([next(&mut printed), next(&mut printed)], ["a", "b"]);
    assert!(tail.wait().expect("an end").success());
}

#[test]
fn what_is_truncated_or_cut_off_is_told_and_it_goes_on_behind() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let wal = open(&fixture);
    wal.append(b"one").expect("an append");
    let (tail, mut printed) = following(&["replay", &log, "--follow", "--with-seq"]);
    assert_eq!(next(&mut printed), "1\tone");
    wal.append(b"two").expect("an append");
    assert_eq!(next(&mut printed), "2\ttwo");
    wal.truncate_back(1).expect("a cut");
    wal.append(b"another two").expect("an append");
    assert_eq!(next(&mut printed), "2\tanother two");
    wal.reset(100).expect("a reset");
    wal.append(b"hundred").expect("an append");
    assert_eq!(next(&mut printed), "100\thundred");
    let mut tail = tail;
    tail.kill().expect("a kill");
    let said = tail.wait_with_output().expect("its output").stderr;
    let said = String::from_utf8(said).expect("text");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let fixture = Fixture::with_lines(5);
    let log = fixture.log();
    let (tail, printed) = following(&["tail", &log, "--after", "0"]);
    drop(printed);
    run_with(&["append", &log, "--quiet"], lines(6..=2000).as_bytes()).ok();
    let output = tail.wait_with_output().expect("an end");
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn a_living_log_is_shown_with_its_readers() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let wal = open(&fixture);
    run(&["stat", "--live", &log]).ok();
    wal.append(b"one").expect("an append");
    wal.maintain().expect("maintenance");
    let (mut tail, mut printed) = following(&["tail", &log, "--after", "0", "--announce"]);
    assert_eq!(next(&mut printed), "one");
    wal.append(b"two").expect("an append");
    assert_eq!(next(&mut printed), "two");
    wal.maintain().expect("maintenance");
    let shown: Value = serde_json::from_str(&run(&["stat", "--live", "--json", &log]).ok()).expect("JSON");
    assert_eq!((shown["last_seq"].as_u64(), shown["pid"].as_u64()), (Some(2), Some(std::process::id().into())));
    assert_eq!(shown["readers"][0]["pid"].as_u64(), Some(tail.id().into()));
    let top = run(&["top", &log, "--count", "2", "--interval", "1ms"]).ok();
    assert_eq!(top.matches("records     1 to 2, checkpoint 0").count(), 2, "{top}");
    assert!(top.contains("records/s") && top.contains(&format!("process {} at", tail.id())), "{top}");
    tail.kill().expect("a kill");
    tail.wait().expect("an end");
    wal.close().expect("a close");
    assert!(run(&["stat", "--live", &log]).ok().contains("closed, sync mode"));
}
