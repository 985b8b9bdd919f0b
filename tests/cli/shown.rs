//! What `stat`, `top`, `verify` and `copy` say of logs at their extremes: killed writers, process numbers used again, other
//! pid namespaces, no records, truncated and missing ones, clocks that stand anywhere.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use mmap_wal::{Background, Options, Wal};
use serde_json::Value;

use crate::fixture::{Fixture, kill, lines, living_writer, run};

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&run(args).ok()).expect("JSON")
}

fn live(fixture: &Fixture) -> Value {
    json(&["stat", "--live", "--json", &fixture.log()])
}

fn live_text(fixture: &Fixture) -> String {
    run(&["stat", "--live", &fixture.log()]).ok()
}

/// A log that a killed writer has left, and the writer's number.
fn killed() -> (Fixture, u32) {
    let fixture = Fixture::new();
    let (child, _acks) = living_writer(&fixture, 40, &[]);
    let pid = child.id();
    while live(&fixture)["last_seq"] != 40 {
        std::thread::yield_now();
    }
    assert_eq!((&live(&fixture)["pid"], &live(&fixture)["state"]), (&pid.into(), &"open".into()));
    kill(child);
    (fixture, pid)
}

/// Changes the stats page of the log, whose checksums stay right.
fn change_page(fixture: &Fixture, change: impl FnOnce(&mut [u8])) {
    let path = fixture.path("log/STATS");
    let mut page = std::fs::read(&path).expect("the page");
    change(&mut page);
    let crc = crc32fast::hash(&page[..696]);
    page[696..700].copy_from_slice(&crc.to_le_bytes());
    for slot in page[2048..].chunks_exact_mut(64).filter(|slot| slot[..32] != [0; 32]) {
        let crc = crc32fast::hash(&slot[..32]);
        slot[32..36].copy_from_slice(&crc.to_le_bytes());
    }
    std::fs::write(path, page).expect("a page");
}

fn quiet_writer(fixture: &Fixture) -> Wal {
    let options = Options::new().segment_size(12 << 10).background(Background::Caller);
    options.open(fixture.path("log")).expect("the log")
}

#[test]
fn a_killed_writer_is_not_shown_as_open() {
    let (fixture, pid) = killed();
    let shown = live(&fixture);
    assert_eq!((&shown["pid"], &shown["state"]), (&Value::Null, &"gone".into()));
    assert_eq!((&shown["shown_by"], &shown["last_seq"]), (&pid.into(), &40.into()));
    let ended = format!("writer      none, process {pid} ended without closing the log");
    assert!(live_text(&fixture).starts_with(&ended), "{}", live_text(&fixture));
    let top = run(&["top", &fixture.log(), "--count", "2", "--interval", "1ms"]).ok();
    assert_eq!(top.matches(&ended).count(), 2, "{top}");
    let stat = fixture.stat();
    assert_eq!((&stat["writer"], &stat["writer_lock"]), (&Value::Null, &"free".into()));
}

#[test]
fn a_process_that_got_the_number_of_a_killed_writer_is_not_taken_for_it() {
    let (fixture, _) = killed();
    let here = std::process::id();
    change_page(&fixture, |page| page[12..16].copy_from_slice(&here.to_le_bytes()));
    assert_eq!((&live(&fixture)["pid"], &live(&fixture)["state"]), (&Value::Null, &"gone".into()));
    run(&["verify", &fixture.log()]).ok();
}

#[test]
fn a_writer_that_has_shown_nothing_is_open_and_the_figures_are_anothers() {
    let (fixture, _) = killed();
    let wal = quiet_writer(&fixture);
    let here = std::process::id();
    let shown = live(&fixture);
    assert_eq!((&shown["pid"], &shown["is_current"]), (&here.into(), &false.into()));
    let expected = format!("writer      process {here} has shown nothing yet; by the writer before it");
    assert!(live_text(&fixture).starts_with(&expected), "{}", live_text(&fixture));
    wal.append(b"x").expect("an append");
    wal.maintain().expect("maintenance");
    assert_eq!((&live(&fixture)["pid"], &live(&fixture)["is_current"]), (&here.into(), &true.into()));
    wal.close().expect("a close");
    assert_eq!((&live(&fixture)["pid"], &live(&fixture)["state"]), (&Value::Null, &"closed".into()));
    let wal = quiet_writer(&fixture);
    assert_eq!((&live(&fixture)["pid"], &live(&fixture)["is_current"]), (&here.into(), &false.into()));
    wal.close().expect("a close");
}

fn unshared(program: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).args(program);
    command
}

#[test]
fn a_writer_in_another_pid_namespace_is_seen_or_not_known() {
    let can = unshared(&["true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !can || !cfg!(target_os = "linux") {
        println!("SKIPPED: no new pid namespace may be made here");
        return;
    }
    let program = env!("CARGO_BIN_EXE_mmap-wal");
    let fixture = Fixture::new();
    let log = fixture.log();
    // The writer is process 1 of its namespace, and listed here with another number.
    let mut inner = unshared(&[program, "append", &log, "--segment-size", "12KiB"]);
    let mut inner = inner.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a writer");
    let mut stdin = inner.stdin.take().expect("its input");
    stdin.write_all(b"one\n").expect("a line");
    let mut acks = BufReader::new(inner.stdout.take().expect("its output"));
    let mut line = String::new();
    acks.read_line(&mut line).expect("an acknowledgement");
    let shown = live(&fixture);
    assert_eq!((&shown["state"], &shown["shown_by"], &shown["is_current"]), (&"open".into(), &1.into(), &true.into()));
    assert!(shown["pid"].as_u64().is_some_and(|pid| pid > 1), "{shown}");
    assert_eq!(shown["pid"], fixture.stat()["writer"]);
    drop(stdin);
    assert!(inner.wait().expect("an end").success());
    // A writer here is not listed there.
    let (outer, _acks) = living_writer(&fixture, 2, &[]);
    let look = |args: &[&str]| {
        let output = unshared(&[&[program][..], args, &[&log]].concat()).output().expect("a look");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    while live(&fixture)["is_current"] != true {
        std::thread::yield_now();
    }
    let shown = look(&["stat", "--live", "--json"]);
    assert_eq!((&shown["state"], &shown["pid"]), (&"unknown".into(), &Value::Null));
    assert_eq!(look(&["stat", "--json"])["writer_lock"], "unknown");
    kill(outer);
    assert_eq!(live(&fixture)["state"], "gone");
}

#[test]
fn a_log_without_records_says_which_number_is_next() {
    let fixture = Fixture::with_lines(5);
    run(&["truncate", &fixture.log(), "--up-to", "5"]).ok();
    assert!(live_text(&fixture).contains("records     none, the next is 6, checkpoint 0\n"), "{}", live_text(&fixture));
    assert!(run(&["stat", &fixture.log()]).ok().starts_with("records     none, the next is 6\n"));
    assert_eq!(fixture.stat()["records"], 0);
    let wal = quiet_writer(&fixture);
    assert!(wal.recovery().to_string().starts_with("recovered a log without records, 6 is next"), "{}", wal.recovery());
    wal.reset((1 << 62) - 1).expect("a reset");
    wal.close().expect("a close");
    let next = "4611686018427387903";
    assert!(live_text(&fixture).contains(&format!("records     none, the next is {next},")), "{}", live_text(&fixture));
    assert!(run(&["stat", &fixture.log()]).ok().starts_with(&format!("records     none, the next is {next}\n")));
    run(&["verify", &fixture.log()]).ok();
}

#[test]
fn records_that_a_repair_left_out_are_not_counted() {
    let fixture = Fixture::with_lines(300);
    let log = fixture.log();
    fixture.flip(2, 8192 + 32 + 25);
    run(&["repair", &log, "--write"]).ok();
    let stat = fixture.stat();
    assert_eq!((&stat["records"], &stat["last_seq"]), (&298.into(), &300.into()));
    assert_eq!(stat["gaps"], serde_json::json!([{ "first_seq": 130, "last_seq": 131 }]));
    let text = run(&["stat", &log]).ok();
    assert!(text.starts_with("records     1 to 300 (298)\nmissing     130 to 131 (2), lost in a repair\n"), "{text}");
    let copy = fixture.path("copy").to_string_lossy().into_owned();
    let copied = run(&["copy", &log, &copy]).ok();
    assert!(copied.contains("the copy holds records 1 to 300 (298, 2 were lost in a repair), verified"), "{copied}");
    let copied = json(&["copy", &log, &copy, "--json"]);
    assert_eq!((&copied["held"], &copied["missing"]), (&298.into(), &2.into()));
    // In front of the first record nothing is missing.
    run(&["truncate", &log, "--up-to", "130"]).ok();
    assert_eq!((&fixture.stat()["records"], &fixture.stat()["gaps"]), (&169.into(), &Value::Array(Vec::new())));
}

#[test]
fn a_log_of_which_a_repair_left_nothing_has_no_records() {
    let fixture = Fixture::with_lines(100);
    let log = fixture.log();
    std::fs::remove_file(fixture.segment(1)).expect("a removal");
    run(&["repair", &log, "--write"]).ok();
    let stat = fixture.stat();
    let last = stat["last_seq"].as_u64().expect("a number");
    assert_eq!((&stat["records"], &stat["gaps"][0]["first_seq"]), (&0.into(), &1.into()));
    let text = run(&["stat", &log]).ok();
    let expected = format!("records     none, the next is {}\nmissing     1 to {last} ({last}), lost", last + 1);
    assert!(text.starts_with(&expected), "{text}");
    let copy = fixture.path("copy").to_string_lossy().into_owned();
    assert!(run(&["copy", &log, &copy]).ok().contains(&format!("the copy holds no record, {} is next", last + 1)));
}

#[test]
fn truncated_records_that_a_segment_still_holds_are_not_counted_as_there() {
    let fixture = Fixture::with_lines(300);
    let log = fixture.log();
    run(&["truncate", &log, "--up-to", "200"]).ok();
    let found = json(&["verify", "--json", &log]);
    assert_eq!((&found["records"], &found["truncated"]), (&100.into(), &72.into()));
    let text = "ok: 100 records and 72 truncated ones of 5504 bytes verified in 2 segments, clean end\n";
    assert_eq!(run(&["verify", &log]).ok(), text);
    assert_eq!(run(&["replay", &log]).ok(), lines(201..=300));
    run(&["truncate", &log, "--up-to", "300"]).ok();
    let found = json(&["verify", "--json", &log]);
    assert_eq!((&found["records"], &found["truncated"]), (&0.into(), &44.into()));
}

#[test]
fn a_time_that_is_not_known_or_still_to_come_has_no_age() {
    let (fixture, _) = killed();
    let future = 4_000_000_000_000_000_000_u64;
    for (nanos, is_known) in [(0, false), (u64::MAX, false), (future, true)] {
        change_page(&fixture, |page| {
            page[16..24].copy_from_slice(&nanos.to_le_bytes());
            page[24..32].copy_from_slice(&nanos.to_le_bytes());
        });
        let shown = live(&fixture);
        assert_eq!([&shown["opened"], &shown["updated"]].map(Value::is_number), [is_known; 2], "{nanos}");
        let text = live_text(&fixture);
        assert!(text.lines().next().is_some_and(|line| line.ends_with("shown at a time that is not known")), "{text}");
    }
}

#[test]
fn readers_are_shown_wherever_they_say_that_they_are() {
    let (fixture, _) = killed();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    // Who says nothing for 10 s is not shown: this is as late as can be.
    let now = u64::try_from(now.as_nanos()).expect("a time before 2554") + 9_900_000_000;
    let seqs = [0, 39, 40, 41, u64::MAX];
    change_page(&fixture, |page| {
        for (slot, seq) in page[2048..].chunks_exact_mut(64).zip(seqs) {
            for (at, number) in [1, u64::MAX, seq, now].into_iter().enumerate() {
                slot[8 * at..8 * at + 8].copy_from_slice(&number.to_le_bytes());
            }
        }
    });
    let text = live_text(&fixture);
    let places: Vec<&str> = text.lines().filter(|line| line.starts_with("reader")).collect();
    let ahead = format!("{} ahead of the figures", u64::MAX - 40);
    let expected = ["40 behind", "1 behind", "0 behind", "1 ahead of the figures", &ahead];
    assert_eq!(places.len(), seqs.len(), "{text}");
    for ((place, expected), seq) in places.iter().zip(expected).zip(seqs) {
        assert!(place.starts_with(&format!("reader      process {} at {seq}, {expected}, said ", u64::MAX)), "{place}");
    }
    assert_eq!(live(&fixture)["readers"][4]["seq"], u64::MAX);
}
