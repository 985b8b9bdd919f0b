//! Proves what a log asks of the operating system beyond reading and writing: that with `lock_memory` exactly the segments
//! that are or will be appended to stay in memory, that a refusal is an error which loses nothing, that pages are made
//! writable before they are stored to, that the files of a log on btrfs are overwritten in place, and that spares which an open
//! did not find are made once something is appended.
//! Does not prove that any of this is faster. On btrfs it proves nothing where it may not mount one: it says `SKIPPED`.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::{Before, is_segment, locked, rotate, turn};
use mmap_wal::{Act, Background, Error, Event, Operation, Options, SyncMode};

const SEGMENT: u64 = 1 << 20;
/// Longer than anything here takes, and shorter than anybody waits.
const PATIENCE: Duration = Duration::from_secs(60);

fn small() -> Options {
    Options::new().segment_size(SEGMENT).sync_mode(SyncMode::None)
}

#[test]
fn the_segments_that_are_appended_to_are_kept_in_memory_and_no_others() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let before = locked();
    let wal = match small().lock_memory(true).background(Background::Caller).open(dir.path()) {
        // Not everybody may keep two megabytes.
        Err(Error::Io(failure)) => return println!("SKIPPED: {failure}"),
        opened => opened.expect("a log"),
    };
    assert_eq!(locked() - before, 2 * SEGMENT, "the active segment and one spare");
    for _ in 0..3 {
        rotate(&wal);
        wal.maintain().expect("a segment");
        assert_eq!(locked() - before, 2 * SEGMENT, "a sealed segment is let go");
    }
    wal.truncate_back(3).expect("a cut");
    wal.maintain().expect("a segment");
    assert_eq!(locked() - before, 2 * SEGMENT, "what was cut off is let go");
    wal.close().expect("a close");
    drop(wal);
    assert_eq!(locked(), before);
}

#[test]
fn nothing_is_kept_in_memory_unless_that_is_asked_for() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let before = locked();
    let wal = small().open(dir.path()).expect("a log");
    rotate(&wal);
    assert_eq!(locked(), before);
}

#[test]
fn memory_that_may_not_be_locked_is_an_error_that_says_so_and_loses_nothing() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let refuse = Before::new(false, |act: &Act<'_>| match act {
        Act::LockMemory(_) => Err(io::Error::from_raw_os_error(12)),
        _ => Ok(()),
    });
    let options = small().lock_memory(true).background(Background::Caller);
    refuse.arm(true);
    let refused = options.open_observed(dir.path(), Some(Arc::clone(&refuse) as _)).map(drop).expect_err("a refusal");
    assert!(refused.to_string().contains("lock in memory"), "{refused}");
    refuse.arm(false);
    let wal = match options.open_observed(dir.path(), Some(Arc::clone(&refuse) as _)) {
        Err(Error::Io(failure)) => return println!("SKIPPED: {failure}"),
        opened => opened.expect("what was not created is created now"),
    };
    refuse.arm(true);
    let mut kept = 0;
    let refused = loop {
        match wal.append(&[7; 60_000]) {
            Ok(seq) => kept = seq,
            Err(e) => break e,
        }
    };
    assert!(matches!(&refused, Error::Io(failure) if failure.operation == Operation::LockMemory), "{refused}");
    assert_eq!(wal.positions().last, kept, "no number is used");
    refuse.arm(false);
    assert_eq!(wal.append(b"again").expect("an append"), kept + 1);
    wal.close().expect("a close");
    assert_eq!(
        small().open(dir.path()).expect("the log").snapshot().replay(0).expect("a replay").count(),
        kept as usize + 1
    );
}

fn prepared(events: &Receiver<Event>) -> bool {
    matches!(events.recv_timeout(PATIENCE), Ok(Event::Prepared { .. }))
}

#[test]
fn spares_that_an_open_did_not_find_are_made_once_something_is_appended() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(small().open(dir.path()).expect("a log"));
    let segments = || {
        let names = std::fs::read_dir(dir.path()).expect("the directory");
        names.filter(|entry| is_segment(&entry.as_ref().expect("an entry").path())).count()
    };
    let (tell, events) = channel();
    let tell = Mutex::new(tell);
    let more = small().spare_segments(3).on_event(move |event| {
        // Nobody listens at the end.
        let _ = tell.lock().expect("no panic").send(event.clone());
    });
    drop(more.open(dir.path()).expect("the log"));
    assert_eq!(segments(), 2, "a log that is only opened is left as it is");
    let wal = more.open(dir.path()).expect("the log");
    wal.append(b"one").expect("an append");
    assert!(prepared(&events) && prepared(&events));
    wal.close().expect("a close");
    assert_eq!(segments(), 4);
    assert_eq!(wal.stats().segment_waits, 0);
}

/// A file system in a file, gone when this is dropped.
struct Mounted {
    at: PathBuf,
    _dir: tempfile::TempDir,
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let ran = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    if ran.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}

impl Mounted {
    fn btrfs() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (image, at) = (dir.path().join("image"), dir.path().join("mounted"));
        std::fs::create_dir(&at).map_err(|e| e.to_string())?;
        let file = std::fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(128 << 20).map_err(|e| e.to_string())?;
        run("mkfs.btrfs", &[Path::new("-q"), &image])?;
        run("mount", &[Path::new("-o"), Path::new("loop"), &image, &at])?;
        Ok(Self { at, _dir: dir })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if run("umount", &[&self.at]).is_err() {
            // A test that failed may hold a file there.
            let _ = run("umount", &[Path::new("-l"), &self.at]);
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn on_btrfs_every_file_of_a_log_is_overwritten_in_place() {
    use rustix::fs::{IFlags, ioctl_getflags};
    let disk = match Mounted::btrfs() {
        Err(reason) => return println!("SKIPPED: {reason}"),
        Ok(disk) => disk,
    };
    let log = disk.at.join("log");
    let wal = small().open(&log).expect("a log");
    rotate(&wal);
    wal.sync().expect("a sync");
    wal.close().expect("a close");
    drop(wal);
    let mut seen = 0;
    for entry in std::fs::read_dir(&log).expect("the log") {
        let path = entry.expect("an entry").path();
        let file = std::fs::File::open(&path).expect("a file");
        let flags = ioctl_getflags(&file).expect("its flags");
        assert!(flags.contains(IFlags::NOCOW), "{}", path.display());
        seen += usize::from(is_segment(&path));
    }
    assert!(seen >= 2, "{seen}");
    assert!(small().open(&log).expect("the log").positions().last > 1);
}

#[test]
fn pages_are_made_writable_before_each_store_of_a_thread_and_once_for_threads_that_share_a_sync() {
    let dir = tempfile::tempdir().expect("a directory");
    let asked = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&asked);
    let count = move |act: &Act<'_>| {
        *seen.lock().expect("a count") += u32::from(matches!(act, Act::Prefault { .. }));
        Ok(())
    };
    let options = small().sync_mode(SyncMode::Sync).background(Background::Caller);
    let wal = options.open_observed(dir.path(), Some(Before::new(true, count))).expect("a log");
    let asked_by = |append: &dyn Fn()| {
        let before = *asked.lock().expect("a count");
        append();
        *asked.lock().expect("a count") - before
    };
    // Behind the first page of frames, which is next to the one of `published`.
    wal.append(&[7; 5000]).expect("an append");
    for _ in 0..3 {
        assert_eq!(asked_by(&|| assert!(wal.append(b"synced").is_ok())), 3, "its page, and twice the one of the words");
    }
    assert_eq!(asked_by(&|| assert!(wal.submit(b"first").is_ok())), 2);
    let more = || (0..10).for_each(|_| assert!(wal.submit(b"more").is_ok()));
    assert_eq!(asked_by(&more), 20, "the system may have written them back meanwhile");
    assert_eq!(asked_by(&|| assert!(wal.submit(&[7; 5000]).is_ok())), 2, "another page");
    let beside = |between: &dyn Fn()| {
        drop(wal.submit(b"by this thread").expect("a record"));
        between();
        let submit = || assert!(wal.submit(b"by another").is_ok());
        std::thread::scope(|scope| scope.spawn(|| asked_by(&submit)).join().expect("a count"))
    };
    // For a moment only, which a busy machine may take longer than.
    assert!((0..10_000).any(|_| beside(&|| ()) == 0));
    assert_eq!(beside(&|| wal.sync().map(drop).expect("a sync")), 2);
}
