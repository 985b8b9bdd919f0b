//! Proves what `SECURITY.md` says of the directory of a log and of other names in it: who may read what is created, under any
//! umask; that nothing is written through a link or into a file that has another name; that a log refuses what is no
//! directory of its own.
//! Does not prove that hostile bytes do no harm (`flips`, `reference_golden`, the fuzz targets), that links, pipes and
//! sockets in place of files are refused (`defects`), or anything about processes that write into mapped files.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use fixture::{files_of, ordinal, scratch, segment};
use mmap_wal::{Background, Options, Reader, SyncMode, Wal};

/// Where the child makes its log.
const DIR: &str = "MMAP_WAL_SECURITY_DIR";
/// With which mode.
const MODE: &str = "MMAP_WAL_SECURITY_MODE";
/// 24 bytes of header and this are a frame of 256 bytes: 16 fill the smallest segment.
const BODY: [u8; 232] = [7; 232];

fn options() -> Options {
    Options::new().segment_size(12 << 10).sync_mode(SyncMode::None).background(Background::Caller)
}

fn fill(wal: &Wal, segments: u64) {
    for _ in 0..16 * segments {
        wal.append(&BODY).expect("an append");
    }
    wal.maintain().expect("maintenance");
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[test]
#[ignore = "it is the child of the test behind it, which gives it a umask"]
fn this_process_makes_a_log() {
    let (Some(dir), Ok(mode)) = (std::env::var_os(DIR), std::env::var(MODE)) else { return };
    let mode = u32::from_str_radix(&mode, 8).expect("a mode");
    let wal = options().file_mode(mode).open(Path::new(&dir).join("above").join("log")).expect("a new log");
    // Segments that are created, dropped and used again.
    for _ in 0..3 {
        fill(&wal, 4);
        wal.truncate_front(wal.positions().last).expect("a truncation");
    }
    fill(&wal, 3);
    assert!(wal.stats().recycled > 0 && wal.stats().prepared > 2);
    wal.close().expect("a close");
}

/// A umask belongs to the process, so each case has a process of its own.
#[test]
fn what_is_created_is_for_the_owner_and_for_whom_the_options_name() {
    let this = std::env::current_exe().expect("this program");
    for (umask, mode, files, dirs) in [
        ("000", "600", 0o600, 0o700),
        ("022", "600", 0o600, 0o700),
        ("000", "640", 0o640, 0o750),
        ("027", "664", 0o640, 0o750),
        ("077", "666", 0o600, 0o700),
    ] {
        let dir = scratch();
        let child = Command::new("sh")
            .args(["-c", "umask \"$0\" && exec \"$@\"", umask])
            .arg(&this)
            .args(["--exact", "this_process_makes_a_log", "--ignored"])
            .envs([(DIR, dir.path().as_os_str()), (MODE, mode.as_ref())])
            .output()
            .expect("a child");
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        let log = dir.path().join("above").join("log");
        assert_eq!((mode_of(&log), mode_of(log.parent().expect("above"))), (dirs, dirs), "umask {umask}, mode {mode}");
        let entries: Vec<_> =
            fs::read_dir(&log).expect("a directory").map(|entry| entry.expect("one").path()).collect();
        assert!(entries.len() > 5, "{entries:?}");
        for path in entries {
            assert_eq!(mode_of(&path), files, "{}, umask {umask}, mode {mode}", path.display());
        }
    }
}

#[test]
fn a_directory_that_is_there_keeps_its_mode() {
    let dir = scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    options().open(dir.path()).expect("a new log").close().expect("a close");
    assert_eq!(mode_of(dir.path()), 0o755);
}

#[test]
fn nothing_is_written_through_a_link_that_stands_where_a_file_will_be_made() {
    let (dir, elsewhere) = (scratch(), scratch());
    let victim = elsewhere.path().join("victim");
    fs::write(&victim, b"precious").expect("a file");
    drop(options().open(dir.path()).expect("a new log"));
    let last = files_of(dir.path()).keys().filter_map(|name| ordinal(Path::new(name))).max().expect("segments");
    let planted: Vec<String> =
        (last + 1..last + 4).map(segment).chain(["MANIFEST.tmp".into(), "STATS".into()]).collect();
    for name in &planted {
        let _ = fs::remove_file(dir.path().join(name));
        symlink(&victim, dir.path().join(name)).expect("a link");
    }
    let wal = options().open(dir.path()).expect("the log");
    fill(&wal, 6);
    // Enough for a larger manifest, which is made under another name first.
    wal.set_meta(&[1; 1024]).expect("metadata");
    wal.truncate_front(50).expect("a truncation");
    fill(&wal, 6);
    wal.close().expect("a close");
    assert_eq!(fs::read(&victim).expect("the file"), b"precious");
    assert_eq!(fs::metadata(&victim).expect("the file").nlink(), 1);
}

#[test]
fn a_file_that_has_another_name_is_not_used_again() {
    let (dir, copy) = (scratch(), scratch());
    let wal = options().open(dir.path()).expect("a new log");
    fill(&wal, 3);
    // What `cp -al` does.
    for name in files_of(dir.path()).keys().filter(|name| ordinal(Path::new(name)).is_some()) {
        fs::hard_link(dir.path().join(name), copy.path().join(name)).expect("a link");
    }
    let sealed: Vec<String> = [1, 2].map(segment).into();
    let before: Vec<Vec<u8>> = sealed.iter().map(|name| fs::read(copy.path().join(name)).expect("a copy")).collect();
    let recycled = wal.stats().recycled;
    wal.truncate_front(33).expect("a truncation");
    fill(&wal, 3);
    assert_eq!(wal.stats().recycled, recycled, "they are in the copy");
    for (name, before) in sealed.iter().zip(before) {
        assert!(!dir.path().join(name).exists(), "{name} was removed here");
        assert_eq!(fs::read(copy.path().join(name)).expect("a copy"), before, "{name} is as it was there");
    }
    // Segments that were made since are used again.
    wal.truncate_front(wal.positions().last).expect("a truncation");
    fill(&wal, 3);
    wal.truncate_front(wal.positions().last).expect("a truncation");
    fill(&wal, 3);
    assert!(wal.stats().recycled > recycled);
    assert_eq!(wal.snapshot().replay(0).expect("a replay").filter(Result::is_ok).count(), 48);
}

#[test]
fn a_log_is_reached_through_a_link_to_its_directory() {
    let dir = scratch();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    options().open(&real).expect("a new log").append(b"one").expect("an append");
    symlink(&real, &link).expect("a link");
    let wal = options().open(&link).expect("the log");
    assert_eq!(wal.positions().last, 1);
    assert!(matches!(options().open(&real), Err(mmap_wal::Error::Locked { .. })), "it is the same log");
    assert_eq!(Reader::open(&link).and_then(|reader| reader.snapshot()).expect("a view").last_seq(), 1);
}

#[test]
fn a_file_in_place_of_the_directory_is_an_error_that_names_it() {
    let dir = scratch();
    let path = dir.path().join("log");
    fs::write(&path, b"precious").expect("a file");
    for outcome in [options().open(&path).map(drop), Reader::open(&path).map(drop)] {
        let error = outcome.expect_err("no log").to_string();
        assert!(error.contains("log"), "{error}");
    }
    assert_eq!(fs::read(&path).expect("the file"), b"precious");
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("SECURITY.md")).expect("the page");
    let suites = fs::read_dir(root.join("tests")).expect("the tests").map(|entry| entry.expect("one").path());
    let suites: String =
        suites.filter(|path| path.is_file()).map(|path| fs::read_to_string(path).expect("a suite")).collect();
    let quoted = page.split('`').skip(1).step_by(2);
    let names: Vec<&str> = quoted.filter(|name| name.matches('_').count() > 3 && !name.contains(' ')).collect();
    assert!(names.len() > 6, "{names:?}");
    for name in names {
        assert!(suites.contains(&format!("fn {name}(")), "there is no test {name}");
    }
}
