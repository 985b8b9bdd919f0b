//! `copy`.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::fixture::{Fixture, Ran, command, kill, lines, living_writer, ran, run, run_with};

fn copy_of(fixture: &Fixture) -> String {
    fixture.path("copy").to_string_lossy().into_owned()
}

#[test]
fn a_copy_says_what_it_holds_and_a_later_one_adds_to_it() {
    let fixture = Fixture::with_lines(300);
    let (log, copy) = (fixture.log(), copy_of(&fixture));
    run(&["checkpoint", &log, "7"]).ok();
    let said = run(&["copy", &log, &copy]).ok();
    assert_eq!(said, "copied 300 records of 9600 bytes in 3 segments; the copy holds records 1 to 300, verified\n");
    assert_eq!(run(&["replay", &copy, "--with-seq"]).ok(), run(&["replay", &log, "--with-seq"]).ok());
    let verified = run(&["verify", &copy]).ok();
    assert!(verified.starts_with("ok: 300 records of 9600 bytes") && verified.ends_with("clean end\n"), "{verified}");
    run_with(&["append", &log], b"301\n302\n").ok();
    let json: Value = serde_json::from_str(&run(&["copy", &log, &copy, "--json"]).ok()).expect("JSON");
    let expected = r#"{"schema":1,"first_seq":1,"last_seq":302,"checkpoint_seq":7,"held":302,"missing":0,
        "name_synced":true,"records":2,"bytes":64,"segments":1}"#;
    assert_eq!(json, serde_json::from_str::<Value>(expected).expect("JSON"));
    assert_eq!(run(&["replay", &copy]).ok(), lines(1..=302));
    let nothing = run(&["copy", &log, &copy]).ok();
    assert_eq!(nothing, "copied 0 records of 0 bytes in 0 segments; the copy holds records 1 to 302, verified\n");
    assert_eq!(run_with(&["append", &copy], b"a life of its own\n").ok(), "303\n");
}

#[test]
fn a_part_is_what_is_behind_a_number() {
    let fixture = Fixture::with_lines(300);
    let (log, copy) = (fixture.log(), copy_of(&fixture));
    let said = run(&["copy", &log, &copy, "--after", "290"]).ok();
    assert!(said.ends_with("the copy holds records 291 to 300, verified\n"), "{said}");
    assert_eq!(run(&["replay", &copy]).ok(), lines(291..=300));
    let empty = run(&["copy", &log, &fixture.path("empty").to_string_lossy(), "--after", "300"]).ok();
    assert!(empty.ends_with("the copy holds no record, 301 is next, verified\n"), "{empty}");
    run(&["copy", &log, &copy]).failed(1, "`--after 290`");
    run(&["copy", &log, &copy, "--after", "301"]).failed(1, "the log ends at 300");
    run_with(&["append", &log, "--batch", "5"], b"1\n2\n3\n4\n5\n").ok();
    run(&["copy", &log, &fixture.path("other").to_string_lossy(), "--after", "303"]).failed(1, "inside a batch");
    run(&["truncate", &log, "--up-to", "300"]).ok();
    run(&["copy", &log, &fixture.path("other").to_string_lossy(), "--after", "200"]).failed(1, "were truncated");
    assert!(!fixture.path("other").exists());
}

#[test]
fn wrong_places_are_refused_with_a_sentence() {
    let fixture = Fixture::with_lines(3);
    let (log, copy) = (fixture.log(), copy_of(&fixture));
    run(&["copy", &log, &log]).failed(1, "the directory of the log; give another one");
    run(&["copy", &log, &format!("{log}/copy")]).failed(1, "lies in the directory of the log; give one outside");
    std::os::unix::fs::symlink("elsewhere", &copy).expect("a link");
    run(&["copy", &log, &copy]).failed(1, "symbolic link; give the directory");
    std::fs::remove_file(&copy).expect("a removal");
    std::fs::write(&copy, "").expect("a file");
    run(&["copy", &log, &copy]).failed(1, "not a directory; give one");
    run(&["copy", &log, &format!("{copy}/below")]).failed(3, "cannot open");
    std::fs::remove_file(&copy).expect("a removal");
    std::fs::create_dir(&copy).expect("a directory");
    std::fs::write(fixture.path("copy/mine"), "").expect("a file");
    run(&["copy", &log, &copy]).failed(1, "not empty, and holds no copy of this log; give a directory");
    let other = Fixture::with_lines(3);
    run(&["copy", &log, &other.log()]).failed(1, "not a copy of this one; give another directory");
    run(&["copy", &copy_of(&other), &fixture.path("new").to_string_lossy()]).failed(3, "check the path");
    run(&["copy", &copy, &fixture.path("new").to_string_lossy()]).failed(3, "append something to create one");
    assert!(!fixture.path("new").exists());
    for wrong in [&["copy"][..], &["copy", &log], &["copy", &log, ""], &["copy", &log, &copy, "--after", "x"]] {
        assert_eq!(run(wrong).code, 64, "{wrong:?}");
    }
}

#[test]
fn a_copy_beside_a_writer_and_onto_one() {
    let fixture = Fixture::new();
    let (child, _acks) = living_writer(&fixture, 900, &["--sync-mode", "none"]);
    let copy = copy_of(&fixture);
    let said = run(&["copy", &fixture.log(), &copy]).ok();
    assert!(said.ends_with("the copy holds records 1 to 900, verified\n"), "{said}");
    assert_eq!(run(&["replay", &copy]).ok(), lines(1..=900));
    let other = Fixture::with_lines(3);
    let theirs = run(&["copy", &other.log(), &fixture.log()]);
    theirs.failed(1, "not a copy of this one");
    kill(child);
    let opened = mmap_wal::Wal::open(&copy).expect("the copy");
    run(&["copy", &fixture.log(), &copy]).failed(4, &format!("process {}", std::process::id()));
    opened.close().expect("a close");
    run(&["copy", &fixture.log(), &copy]).ok();
}

#[test]
fn damage_exits_with_2_and_leaves_no_copy_that_anybody_opens() {
    let fixture = Fixture::with_lines(300);
    let (log, copy) = (fixture.log(), copy_of(&fixture));
    fixture.flip(2, 8192 + 32 + 25);
    let said = run(&["copy", &log, &copy]);
    said.failed(2, "00000000000000000002.wal is damaged at byte 8224, where record 130 should be");
    for args in [&["replay", &copy][..], &["stat", &copy], &["append", &copy], &["repair", &copy, "--write"]] {
        run(args).failed(2, "was not finished; make the same copy again, or remove the directory");
    }
    run(&["repair", &log, "--write"]).ok();
    run(&["copy", &log, &copy]).ok();
    assert_eq!(run(&["replay", &copy]).failed(1, "130 to 131"), run(&["replay", &log]).failed(1, "130 to 131"));
    // Damage of the copy is the copy's.
    run_with(&["append", &log], b"301\n").ok();
    std::fs::remove_file(fixture.path("copy/00000000000000000001.wal")).expect("a removal");
    run(&["copy", &log, &copy]).failed(2, "copy/00000000000000000001.wal");
}

/// Starts the copy again and again, kills it at some moment, and looks, until one comes to its end; how often it was
/// killed.
fn copy_under_kills(fixture: &Fixture, mut look: impl FnMut(Ran)) -> u64 {
    let (log, copy) = (fixture.log(), copy_of(fixture));
    let (mut kills, mut delay) = (0, Duration::from_micros(500));
    loop {
        let mut child =
            command(&["copy", &log, &copy]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a copy");
        // A moment, not a condition: whatever has come to pass by then is right.
        std::thread::sleep(delay);
        // Each attempt reads again what the ones before have written.
        delay = delay * 5 / 4;
        if child.try_wait().expect("a look").is_none() {
            child.kill().expect("a kill");
        }
        let output = child.wait_with_output().expect("its end");
        if output.status.code().is_some() {
            let said = ran(output).ok();
            assert!(said.ends_with("verified\n"), "{said}");
            return kills;
        }
        kills += 1;
        look(run(&["replay", &copy]));
    }
}

#[test]
fn a_copy_that_is_killed_again_and_again_comes_to_its_end() {
    let fixture = Fixture::with_lines(8_000);
    let mut kills = copy_under_kills(&fixture, |replayed| {
        // Nothing yet, or nothing whole.
        if replayed.code != 0 {
            let unfinished = replayed.code == 2 && replayed.stderr.contains("was not finished");
            assert!(unfinished || replayed.code == 3, "{}", replayed.stderr);
        } else {
            assert!(replayed.stdout == lines(1..=8_000));
        }
    });
    assert_eq!(run(&["replay", &copy_of(&fixture)]).ok(), lines(1..=8_000));
    for round in 1..=2 {
        let (before, after) = (4_000 + 4_000 * round, 8_000 + 4_000 * round);
        let log = fixture.log();
        let args = ["append", &log, "--segment-size", "12KiB", "--sync-mode", "none", "--quiet"];
        run_with(&args, lines(before + 1..=after).as_bytes()).ok();
        kills += copy_under_kills(&fixture, |replayed| {
            let shown = replayed.ok();
            assert!(shown == lines(1..=before) || shown == lines(1..=after));
        });
        assert!(run(&["replay", &copy_of(&fixture)]).ok() == lines(1..=after));
        run(&["verify", &copy_of(&fixture)]).ok();
    }
    println!("{kills} copies were killed");
    assert!(kills > 3, "{kills}");
}
