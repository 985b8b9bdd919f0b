//! Proves the contract of the command line: what each command prints, and its exit code, for right and for wrong input,
//! beside a living writer and after a kill. Does not prove that nothing is lost: `kills.rs` tries that.
#![allow(missing_docs)]

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/copy.rs"]
mod copy;
#[path = "cli/fixture.rs"]
mod fixture;
#[path = "cli/limits.rs"]
mod limits;
#[path = "cli/refusals.rs"]
mod refusals;
#[path = "cli/repair.rs"]
mod repair;
#[path = "cli/shown.rs"]
mod shown;
#[path = "cli/tail.rs"]
mod tail;

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use mmap_wal::{Options, SyncMode, Wal};
use serde_json::Value;

use crate::fixture::{Fixture, command, kill, lines, living_writer, ran, run, run_with, writable};

// append

#[test]
fn every_line_is_a_record_and_its_number_is_printed() {
    let fixture = Fixture::new();
    let log = fixture.log();
    assert_eq!(run_with(&["append", &log], b"one\n\nthree\xff\nlast").ok(), "1\n2\n3\n4\n");
    assert_eq!(run_with(&["append", &log], b"").ok(), "");
    assert_eq!(run_with(&["append", &log], b"\n").ok(), "5\n");
    let replayed = command(&["replay", &log]).output().expect("a replay");
    assert_eq!(replayed.stdout, b"one\n\nthree\xff\nlast\n\n");
}

#[test]
fn records_end_with_nul_if_told() {
    let fixture = Fixture::new();
    let log = fixture.log();
    assert_eq!(run_with(&["append", &log, "--null"], b"a\nb\0\0c").ok(), "1\n2\n3\n");
    assert_eq!(run(&["replay", &log, "--null"]).ok(), "a\nb\0\0c\0");
}

#[test]
fn a_batch_is_acknowledged_by_its_last_number() {
    let fixture = Fixture::new();
    let log = fixture.log();
    assert_eq!(run_with(&["append", &log, "--batch", "4"], lines(1..=10).as_bytes()).ok(), "4\n8\n10\n");
    let dump = run(&["dump", &log, "1"]).ok();
    let committed = dump.lines().skip(1).filter(|line| line.contains("\tcommit\t"));
    let seqs: Vec<&str> = committed.filter_map(|line| line.split('\t').nth(1)).collect();
    assert_eq!(seqs, ["4", "8", "10"]);
}

#[test]
fn every_mode_and_kind_of_acknowledgement_keeps_every_line() {
    for mode in ["sync", "batch", "none"] {
        for ack in ["published", "durable"] {
            let fixture = Fixture::new();
            let log = fixture.log();
            let args = ["append", &log, "--sync-mode", mode, "--ack", ack, "--segment-size", "12KiB"];
            let more = ["--sync-records", "7", "--sync-delay", "1ms"];
            let printed = run_with(&[&args[..], &more].concat(), lines(1..=700).as_bytes()).ok();
            assert!(printed == lines(1..=700), "{mode} {ack}");
            assert!(run(&["replay", &log]).ok() == lines(1..=700), "{mode} {ack}");
        }
    }
}

#[test]
fn an_acknowledgement_comes_before_more_input_does() {
    for extra in [&["--ack", "durable", "--sync-mode", "none"][..], &["--sync-mode", "batch"], &[]] {
        let fixture = Fixture::new();
        let (mut child, _acks) = living_writer(&fixture, 5, extra);
        drop(child.stdin.take());
        assert!(child.wait().expect("an end").success());
    }
}

#[test]
fn what_a_killed_append_acknowledged_is_replayed() {
    for mode in ["sync", "batch", "none"] {
        let fixture = Fixture::new();
        let (child, _) = living_writer(&fixture, 900, &["--sync-mode", mode]);
        kill(child);
        assert_eq!(run(&["replay", &fixture.log()]).ok(), lines(1..=900), "{mode}");
        assert_eq!(run_with(&["append", &fixture.log()], b"901\n").ok(), "901\n");
        assert_eq!(run(&["replay", &fixture.log()]).ok(), lines(1..=901), "{mode}");
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let fixture = Fixture::with_lines(30_000);
    for args in [&["replay"][..], &["replay", "--json"], &["dump"]] {
        let mut child = command(&[args, &[&fixture.log()]].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut byte = [0];
        child.stdout.take().expect("its output").read_exact(&mut byte).expect("a byte");
        ran(child.wait_with_output().expect("its end")).ok();
    }
    let mut child = command(&["append", &fixture.log()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child");
    drop(child.stdout.take());
    child.stdin.take().expect("its input").write_all(b"more\n").expect("a line");
    ran(child.wait_with_output().expect("its end")).ok();
    assert_eq!(fixture.stat()["last_seq"], 30_001);
}

// replay

#[test]
fn replay_shows_numbers_and_json() {
    let fixture = Fixture::new();
    let log = fixture.log();
    run_with(&["append", &log], b"a\"\xc3\xa9\n\xff\xfe\n").ok();
    assert_eq!(run(&["replay", &log, "--with-seq", "--after", "0"]).ok(), "1\ta\"\u{e9}\n2\t\u{fffd}\u{fffd}\n");
    let json = run(&["replay", &log, "--json"]).ok();
    let expected =
        "{\"seq\":1,\"len\":4,\"payload\":\"a\\\"\u{e9}\"}\n{\"seq\":2,\"len\":2,\"payload_base64\":\"//4=\"}\n";
    assert_eq!(json, expected);
    assert_eq!(run(&["replay", &log, "--json", "--after", "2"]).ok(), "");
    run(&["replay", &log, "--after", "3"]).failed(1, "ends at 2");
}

#[test]
fn replay_of_a_damaged_log_prints_what_is_before_and_exits_with_2() {
    for (ordinal, offset) in [(2, 8192 + 32 * 5 + 25), (3, 8192 + 2), (8, 8192 + 32 * 3 + 24)] {
        let fixture = Fixture::with_lines(1000);
        fixture.flip(ordinal, offset);
        let lost = (ordinal - 1) * 128 + (offset - 8192) / 32 + 1;
        let place =
            format!("{ordinal:020}.wal is damaged at byte {}, where record {lost}", offset - (offset - 8192) % 32);
        assert_eq!(run(&["replay", &fixture.log()]).failed(2, &place), lines(1..=lost - 1));
        assert_eq!(run(&["replay", &fixture.log(), "--after", "990"]).code, if ordinal == 8 { 2 } else { 0 });
    }
}

#[test]
fn replay_without_a_segment_prints_what_is_before_it() {
    let fixture = Fixture::with_lines(1000);
    std::fs::remove_file(fixture.segment(4)).expect("a removal");
    assert_eq!(
        run(&["replay", &fixture.log()]).failed(2, "4.wal of 12288 bytes that the manifest names is not there"),
        lines(1..=384)
    );
}

// stat, verify, dump

#[test]
fn stat_tells_what_the_log_is() {
    let fixture = Fixture::with_lines(300);
    std::fs::write(fixture.path("log/notes.txt"), b"mine").expect("a file");
    std::fs::write(fixture.path("log/00000000000000000099.wal"), [0; 12288]).expect("a file");
    std::fs::write(fixture.path("log/00000000000000000098.wal"), b"another's").expect("a file");
    let stat = fixture.stat();
    let expected = [("schema", 1), ("first_seq", 1), ("last_seq", 300), ("checkpoint_seq", 0)];
    expected.iter().for_each(|(field, value)| assert_eq!(stat[field], *value, "{field}"));
    assert_eq!((&stat["tail"], &stat["writer"], &stat["closed"]), (&"clean".into(), &Value::Null, &true.into()));
    assert_eq!((&stat["others"][0], &stat["leftovers"][0]), (&"notes.txt".into(), &"00000000000000000099.wal".into()));
    assert_eq!(stat["kept"][0], "00000000000000000098.wal");
    let segments = stat["segments"].as_array().expect("segments");
    let roles: Vec<&str> = segments.iter().filter_map(|segment| segment["role"].as_str()).collect();
    // A spare follows, if the end left time to prepare one.
    assert_eq!(roles[..3], ["sealed", "sealed", "active"]);
    assert!(roles[3..].iter().all(|role| *role == "spare"));
    assert_eq!((&segments[1]["base_seq"], &segments[1]["last_seq"]), (&129.into(), &256.into()));
    assert_eq!((&segments[2]["end_offset"], &segments[2]["capacity"]), (&(8192 + 44 * 32).into(), &12288.into()));
    let text = run(&["stat", &fixture.log()]).ok();
    assert!(text.starts_with("records     1 to 300 (300)\n"), "{text}");
}

#[test]
fn stat_and_verify_and_replay_work_beside_a_living_writer_and_name_it() {
    let fixture = Fixture::new();
    let (child, _acks) = living_writer(&fixture, 400, &["--sync-mode", "none"]);
    let stat = fixture.stat();
    assert_eq!(stat["last_seq"], 400);
    if cfg!(target_os = "linux") {
        assert_eq!(stat["writer"], child.id());
    }
    run(&["verify", &fixture.log()]).ok();
    assert_eq!(run(&["replay", &fixture.log(), "--after", "398"]).ok(), "399\n400\n");
    let pid = format!("process {}", child.id());
    for args in [&["append"][..], &["checkpoint"], &["truncate", "--up-to", "3"]] {
        let mut args = args.to_vec();
        let log = fixture.log();
        args.insert(1, &log);
        if args[0] == "checkpoint" {
            args.push("3");
        }
        run(&args).failed(4, &pid);
    }
    kill(child);
    assert_eq!(fixture.stat()["writer"], Value::Null);
}

#[test]
fn two_hundred_stats_beside_two_hundred_opens_disturb_neither() {
    let fixture = Fixture::with_lines(200);
    let options = Options::new().segment_size(12 << 10).sync_mode(SyncMode::None);
    let (dir, done) = (fixture.path("log"), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..200 {
                let wal = options.open(&dir).expect("never locked by a reader");
                wal.append(b"more").expect("an append");
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        let mut stats = 0;
        let mut last_seq = 0;
        while stats < 200 || !done.load(std::sync::atomic::Ordering::Acquire) {
            let now = fixture.stat()["last_seq"].as_u64().expect("a number");
            assert!(now >= last_seq, "{now} after {last_seq}");
            (stats, last_seq) = (stats + 1, now);
        }
        writer.join().expect("the writer");
    });
    assert_eq!(fixture.stat()["last_seq"], 400);
}

#[test]
fn verify_counts_and_tells_a_torn_end_from_damage() {
    let fixture = Fixture::with_lines(1000);
    let sound = run(&["verify", &fixture.log()]).ok();
    assert_eq!(sound, "ok: 1000 records of 32000 bytes verified in 8 segments, clean end\n");
    let json: Value = serde_json::from_str(&run(&["verify", "--json", &fixture.log()]).ok()).expect("JSON");
    assert_eq!((&json["ok"], &json["records"], &json["schema"]), (&true.into(), &1000.into(), &1.into()));
    for ordinal in [2, 5] {
        fixture.flip(ordinal, 8192 + 24);
    }
    let found = run(&["verify", &fixture.log()]);
    assert_eq!((found.code, found.stderr.lines().count()), (2, 2), "{}", found.stderr);
    assert!(found.stderr.contains("2.wal is damaged at byte 8192, where record 129"), "{}", found.stderr);
    assert!(found.stderr.contains("5.wal is damaged at byte 8192, where record 513"), "{}", found.stderr);
    assert_eq!(found.stdout, "2 damages: 744 records of 23808 bytes verified in 6 segments, clean end\n");
}

#[test]
fn verify_of_a_torn_log_exits_with_1_until_it_is_opened() {
    let fixture = Fixture::new();
    let (child, _) = living_writer(&fixture, 50, &["--sync-mode", "none"]);
    kill(child);
    writable(&fixture.segment(1)).write_all_at(b"half a record", 8192 + 50 * 32 + 8).expect("a write");
    let found =
        run(&["verify", &fixture.log()]).failed(1, "21 torn bytes with 0 whole records at byte 9792 of segment 1");
    assert_eq!(found, "torn: 50 records of 1600 bytes verified in 1 segments, torn end\n");
    let stat = fixture.stat();
    assert_eq!((&stat["tail"], &stat["cut"]["offset"]), (&"torn".into(), &9792.into()));
    assert_eq!(run(&["replay", &fixture.log()]).ok(), lines(1..=50));
    assert_eq!(run_with(&["append", &fixture.log()], b"51\n").ok(), "51\n");
    run(&["verify", &fixture.log()]).ok();
}

#[test]
fn dump_shows_good_and_bad_frames() {
    let fixture = Fixture::with_lines(300);
    let sound = run(&["dump", &fixture.log(), "1"]).ok();
    assert!(sound.starts_with("# segment 1\n8192\t1\t1\tcommit\t0\t8192\tok\t\"1\"\n"), "{sound}");
    fixture.flip(2, 8192 + 32);
    fixture.flip(2, 8192 + 5 * 32 + 4);
    let damaged = run(&["dump", &fixture.log(), "00000000000000000002.wal"]).ok();
    let bad: Vec<&str> = damaged.lines().filter(|line| line.contains("\tbad\t")).collect();
    assert_eq!(bad.len(), 2, "{damaged}");
    assert!(bad[0].starts_with("8224\t130\t3\t") && bad[1].starts_with("8352\t134\t67\t"), "{damaged}");
    assert_eq!(damaged.lines().filter(|line| line.contains("\tok\t")).count(), 126);
    let all = run(&["dump", &fixture.log()]).ok();
    // Three with records, and a spare if the end left time to prepare one.
    let segments = fixture.stat()["segments"].as_array().expect("segments").len();
    assert_eq!(all.lines().filter(|line| line.starts_with('#')).count(), segments);
    run(&["dump", &fixture.log(), "77"]).failed(3, "77.wal");
}

// checkpoint, truncate

#[test]
fn a_checkpoint_is_kept_and_never_goes_back() {
    let fixture = Fixture::with_lines(300);
    run(&["checkpoint", &fixture.log(), "200"]).ok();
    run(&["checkpoint", &fixture.log(), "100"]).ok();
    assert_eq!(fixture.stat()["checkpoint_seq"], 200);
    run(&["checkpoint", &fixture.log(), "301"]).failed(1, "the log ends at 300");
}

#[test]
fn truncate_removes_from_the_front_and_numbers_go_on() {
    let fixture = Fixture::with_lines(300);
    run(&["truncate", &fixture.log(), "--up-to", "150"]).ok();
    assert_eq!(run(&["replay", &fixture.log()]).ok(), lines(151..=300));
    run(&["replay", &fixture.log(), "--after", "7"]).failed(1, "begins at 151");
    run(&["truncate", &fixture.log(), "--up-to", "9999"]).ok();
    assert_eq!(run(&["replay", &fixture.log()]).ok(), "");
    assert_eq!(run_with(&["append", &fixture.log()], b"x").ok(), "301\n");
}

#[test]
fn the_log_of_the_library_is_the_log_of_the_command_line() {
    let fixture = Fixture::with_lines(10);
    let wal = Wal::open(fixture.path("log")).expect("the log");
    assert_eq!(wal.append(b"eleven").expect("an append"), 11);
    wal.set_meta(b"term 7").expect("meta");
    drop(wal);
    assert!(run(&["replay", &fixture.log()]).ok().ends_with("10\neleven\n"));
    assert_eq!(fixture.stat()["meta_base64"], "dGVybSA3");
}
