//! `repair` and `salvage`.

use serde_json::Value;

use crate::fixture::{Fixture, kill, lines, living_writer, run, run_with};

/// Records of 32 bytes, 128 in a segment, of which the 130th is damaged.
fn damaged() -> Fixture {
    let fixture = Fixture::with_lines(300);
    fixture.flip(2, 8192 + 32 + 25);
    fixture
}

#[test]
fn a_repair_is_said_first_and_carried_out_when_asked_for() {
    let fixture = damaged();
    let log = fixture.log();
    run(&["verify", &log]).failed(2, "`mmap-wal repair`");
    let said = run(&["repair", &log]);
    assert_eq!((said.code, said.stderr.as_str()), (2, ""));
    let expected = "00000000000000000002.wal as 00000000000000000002.wal.damaged";
    assert!(said.stdout.starts_with("lost       records 130 to 131, of a segment prepared 20"), "{}", said.stdout);
    assert!(said.stdout.contains(expected) && said.stdout.ends_with("add --write\n"), "{}", said.stdout);
    assert!(!fixture.path("log/00000000000000000002.wal.damaged").exists());
    let json: Value = serde_json::from_str(&run(&["repair", "--json", &log]).stdout).expect("JSON");
    assert_eq!((&json["needed"], &json["written"], &json["left_out"]), (&true.into(), &false.into(), &1.into()));
    assert_eq!((&json["lost"][0]["first_seq"], &json["lost"][0]["last_seq"]), (&130.into(), &131.into()));
    let done = run(&["repair", &log, "--write"]).ok();
    assert!(done.ends_with("repaired\n"), "{done}");
    assert_eq!(run(&["repair", &log]).ok(), "nothing to repair\n");
    assert_eq!(run(&["repair", &log, "--write"]).ok(), "nothing to repair\n");
    run(&["verify", &log]).ok();
    let replayed = run(&["replay", &log]).failed(1, "the records 130 to 131 were lost in a repair");
    assert_eq!(replayed, lines(1..=129) + &lines(132..=300));
    assert_eq!(run_with(&["append", &log], b"more\n").ok(), "301\n");
    assert_eq!(fixture.stat()["others"][0], "00000000000000000002.wal.damaged");
}

#[test]
fn a_lost_manifest_is_rebuilt_with_the_tag_that_is_given() {
    let fixture = Fixture::with_lines(300);
    let log = fixture.log();
    std::fs::write(fixture.path("log/MANIFEST"), b"garbage").expect("a write");
    let tag = "0123456789abcdef0123456789ABCDEF";
    run(&["repair", &log, "--write", "--user-tag", tag]).ok();
    assert_eq!(fixture.stat()["user_tag"], tag.to_lowercase());
    assert_eq!(run(&["replay", &log]).ok(), lines(1..=300));
    assert_eq!(std::fs::read(fixture.path("log/MANIFEST.damaged")).expect("it"), b"garbage");
    assert_eq!(run(&["repair", &log, "--user-tag", "12"]).code, 64);
}

#[test]
fn a_repair_beside_a_writer_is_refused() {
    let fixture = Fixture::new();
    let (child, _acks) = living_writer(&fixture, 300, &[]);
    fixture.flip(1, 8192 + 32 + 24);
    assert_eq!(run(&["repair", &fixture.log()]).code, 2);
    run(&["repair", &fixture.log(), "--write"]).failed(4, &format!("process {}", child.id()));
    let salvaged = run(&["salvage", &fixture.log(), &fixture.path("out").to_string_lossy()]).ok();
    assert!(salvaged.starts_with("copied   299 records of "), "{salvaged}");
    kill(child);
}

#[test]
fn a_salvage_copies_what_verifies() {
    let fixture = damaged();
    let (log, out) = (fixture.log(), fixture.path("out").to_string_lossy().into_owned());
    let said = run(&["salvage", &log, &out]).ok();
    let expected = "copied   299 records of 9568 bytes\npartial  1 of them, whose batch may not be whole\n\
                    missing  records 130 to 130\nnext     record 301\n";
    assert_eq!(said, expected);
    assert_eq!(run(&["replay", &out]).failed(1, "130 to 130"), lines(1..=129) + &lines(131..=300));
    run(&["salvage", &log, &out]).failed(1, "is not empty; give a directory");
    run(&["salvage", &out, &fixture.path("third").to_string_lossy()]).ok();
}

#[test]
fn a_manifest_that_nothing_can_rebuild_exits_with_2() {
    let fixture = Fixture::with_lines(3);
    for ordinal in [1, 2] {
        std::fs::write(fixture.segment(ordinal), [7; 12288]).expect("a write");
    }
    std::fs::remove_file(fixture.path("log/MANIFEST")).expect("a removal");
    run(&["repair", &fixture.log(), "--write"]).failed(2, "restore the whole directory from one backup");
}
