//! Wrong input: what is refused, and how.

use std::path::Path;
use std::process::Stdio;

use crate::fixture::{Fixture, command, lines, ran, run, run_with, writable};

#[test]
fn a_command_line_that_makes_no_sense_exits_with_64() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let wrong: [&[&str]; 17] = [
        &[],
        &["nonsense"],
        &["append"],
        &["append", &log, "--sync-mode", "often"],
        &["append", &log, "--segment-size", "4KiB"],
        &["append", &log, "--segment-size", "64Kxb"],
        &["append", &log, "--batch", "0"],
        &["append", &log, "--sync-records", "0"],
        &["append", &log, "--sync-delay", "10"],
        &["replay", &log, "--with-seq", "--json"],
        &["checkpoint", &log],
        &["checkpoint", &log, "-1"],
        &["truncate", &log],
        &["dump", &log, "first"],
        // It would find no loss where nothing was tried, and a loss where nothing could be.
        &["crash-test", &log, "--rounds", "0"],
        &["crash-test", &log, "--segment-size", "4KiB"],
        &["crash-test", &log, "--segment-size", "17GiB"],
    ];
    for args in wrong {
        let refused = run(args);
        assert_eq!((refused.code, refused.stdout.as_str()), (64, ""), "{args:?}: {}", refused.stderr);
    }
    assert!(!fixture.path("log").exists());
    assert!(run(&["--help"]).ok().contains("crash-test"));
    assert!(run(&["append", "--help"]).ok().contains("--sync-delay"));
    assert!(run(&["--version"]).ok().starts_with("mmap-wal "));
}

#[test]
fn no_command_but_append_makes_anything_where_no_log_is() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path("empty")).expect("a directory");
    std::fs::write(fixture.path("file"), b"").expect("a file");
    for (name, part) in [("empty", "there is no log"), ("absent", "No such file"), ("file", "Not a directory")] {
        let dir = fixture.path(name).to_string_lossy().into_owned();
        let out = fixture.path("out").to_string_lossy().into_owned();
        let commands: [&[&str]; 8] = [
            &["replay", &dir],
            &["repair", &dir, "--write"],
            &["salvage", &dir, &out],
            &["stat", &dir],
            &["verify", &dir],
            &["dump", &dir],
            &["checkpoint", &dir, "1"],
            &["truncate", &dir, "--up-to", "1"],
        ];
        for args in commands {
            assert_eq!(run(args).failed(3, part), "", "{args:?}");
        }
    }
    run(&["append", &fixture.path("file").to_string_lossy()]).failed(3, "Not a directory");
    assert_eq!(std::fs::read_dir(fixture.path("empty")).expect("the directory").count(), 0);
    assert!(!fixture.path("absent").exists() && !fixture.path("out").exists());
}

#[test]
fn append_makes_no_log_among_foreign_files() {
    let fixture = Fixture::new();
    let at = |name: &str| fixture.path(name).to_string_lossy().into_owned();
    let append = |name: &str, input: &[u8]| run_with(&["append", &at(name), "--segment-size", "12KiB"], input);
    for name in ["notes.txt", ".hidden", "MANIFEST.orig", "1.wal", "dir/", "lost+found.txt"] {
        let dir = fixture.path("foreign");
        std::fs::create_dir_all(&dir).expect("a directory");
        match name.strip_suffix('/') {
            Some(name) => std::fs::create_dir(dir.join(name)).expect("a directory"),
            None => std::fs::write(dir.join(name), b"mine").expect("a file"),
        }
        let refused = append("foreign", b"one\n");
        let part = format!("{} holds no log, but other files ({})", at("foreign"), name.trim_end_matches('/'));
        assert_eq!(refused.failed(1, &part), "", "{name}");
        assert_eq!(std::fs::read_dir(&dir).expect("the directory").count(), 1, "{name}: nothing was made");
        std::fs::remove_dir_all(&dir).expect("a removal");
    }
    std::fs::create_dir(fixture.path("many")).expect("a directory");
    for name in 1..=9 {
        std::fs::write(fixture.path("many").join(name.to_string()), b"mine").expect("a file");
    }
    append("many", b"one\n").failed(1, "(1, 2, 3 and 6 more); give a directory that is empty");
    // What a file system has at its root, and what an unfinished creation leaves, is in nobody's way.
    for name in ["empty", "root", "begun"] {
        let dir = fixture.path(name);
        std::fs::create_dir(&dir).expect("a directory");
        match name {
            "root" => std::fs::create_dir(dir.join("lost+found")).expect("a directory"),
            "begun" => {
                let blank = format!("{:020}.wal", 1);
                for (name, len) in [("LOCK", 0), ("READERS", 0), ("STATS", 0), ("MANIFEST.tmp", 0), (&blank, 12_288)] {
                    std::fs::write(dir.join(name), vec![0; len]).expect("a file");
                }
            }
            _ => {}
        }
        assert_eq!(append(name, b"one\n").ok(), "1\n", "{name}");
        // In a log other names are nobody's business.
        std::fs::write(dir.join("notes.txt"), b"mine").expect("a file");
        assert_eq!(append(name, b"two\n").ok(), "2\n", "{name}");
    }
    assert_eq!(append("absent/below", b"one\n").ok(), "1\n");
}

#[test]
fn a_manifest_that_does_not_verify_or_is_gone_exits_with_2() {
    let fixture = Fixture::with_lines(300);
    let log = fixture.log();
    let commands: [&[&str]; 7] = [
        &["append", &log],
        &["replay", &log],
        &["stat", &log],
        &["verify", &log],
        &["dump", &log],
        &["checkpoint", &log, "1"],
        &["truncate", &log, "--up-to", "1"],
    ];
    for args in commands {
        std::fs::write(fixture.path("log/MANIFEST"), b"garbage").expect("a write");
        run(args).failed(2, "MANIFEST");
        std::fs::remove_file(fixture.path("log/MANIFEST")).expect("a removal");
        run(args).failed(2, "MANIFEST");
    }
}

#[test]
fn a_truncated_segment_exits_with_2() {
    let fixture = Fixture::with_lines(300);
    writable(&fixture.segment(2)).set_len(9000).expect("a truncation");
    let log = fixture.log();
    for args in [&["append", &log][..], &["stat", &log], &["checkpoint", &log, "1"], &["verify", &log]] {
        run(args).failed(2, "2.wal of 12288 bytes that the manifest names is 9000 bytes long");
    }
    assert_eq!(run(&["replay", &log]).failed(2, "9000 bytes long"), lines(1..=128));
}

#[test]
fn output_to_a_full_device_exits_with_5() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let fixture = Fixture::with_lines(300);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("the full device");
    let output = command(&["replay", &fixture.log()]).stdout(full).stderr(Stdio::piped()).output().expect("a run");
    ran(output).failed(5, "no space for the output");
}

/// Of yesterday's backup only the MANIFEST is put back.
#[test]
fn an_older_manifest_exits_with_2_everywhere_and_is_repaired() {
    let fixture = Fixture::with_lines(20);
    let log = fixture.log();
    let older = std::fs::read(fixture.path("log/MANIFEST")).expect("the manifest");
    run_with(&["append", &log, "--segment-size", "12KiB"], lines(21..=600).as_bytes()).ok();
    std::fs::write(fixture.path("log/MANIFEST"), older).expect("a file");
    let out = fixture.path("out").to_string_lossy().into_owned();
    let commands: [&[&str]; 7] = [
        &["verify", &log],
        &["stat", &log],
        &["replay", &log],
        &["tail", &log, "--after", "0"],
        &["copy", &log, &out],
        &["append", &log],
        &["checkpoint", &log, "20"],
    ];
    for args in commands {
        run(args).failed(2, "is older than the segments");
    }
    let planned = run(&["repair", &log]);
    assert!(planned.code == 2 && planned.stdout.contains("older MANIFEST"), "{}", planned.stdout);
    run(&["repair", &log, "--write"]).ok();
    assert_eq!(run(&["replay", &log]).ok(), lines(1..=600));
    assert_eq!(run_with(&["append", &log], b"601\n").ok(), "601\n");
}
