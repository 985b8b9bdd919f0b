//! Proves that a reader on an overlay file system, which has files of the lower layer mapped, follows the writer that makes
//! the system copy them up, over rotations, and that what it was lent before stays.
//! Does not prove anything where overlay file systems may not be mounted: it says `SKIPPED` then.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mmap_wal::inspect::Log;
use mmap_wal::{Background, Options, Reader, SyncMode, Tail, Wal};

/// What an event is waited for, which comes at once or never.
const BOUND: Duration = Duration::from_secs(60);

/// A directory with a lower layer and a writable one on top of it.
struct Overlay {
    _layers: tempfile::TempDir,
    lower: PathBuf,
    merged: PathBuf,
}

impl Overlay {
    /// On `lower` as `make` leaves it.
    fn mount(make: impl FnOnce(&Path)) -> Result<Self, String> {
        let layers = tempfile::Builder::new().tempdir_in("/dev/shm").map_err(|e| format!("no /dev/shm: {e}"))?;
        let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| layers.path().join(name));
        for dir in [&lower, &upper, &work, &merged] {
            fs::create_dir(dir).map_err(|e| e.to_string())?;
        }
        make(&lower);
        let [l, u, w] = [&lower, &upper, &work].map(|dir| dir.display().to_string());
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &format!("lowerdir={l},upperdir={u},workdir={w}")]).arg(&merged);
        let output = mount.output().map_err(|e| format!("no mount: {e}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(Self { _layers: layers, lower, merged }) } else { Err(said) }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.merged).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "it is unmounted");
    }
}

fn options() -> Options {
    Options::new().segment_size(12 << 10).sync_mode(SyncMode::None).background(Background::Caller)
}

fn append(wal: &Wal, count: u64) {
    for _ in 0..count {
        let seq = wal.positions().last + 1;
        assert_eq!(wal.append(&[seq as u8; 500]).expect("an append"), seq);
    }
}

/// A log of three records in `dir`, closed, or left as a killed writer leaves it.
fn begin(dir: &Path, closed: bool) {
    let wal = options().open(dir).expect("a log");
    append(&wal, 3);
    if closed {
        wal.close().expect("a close");
    } else {
        // As it is now, under other inodes.
        let files: Vec<_> = fs::read_dir(dir).expect("the log").map(|entry| entry.expect("a file").path()).collect();
        let bytes: Vec<_> = files.iter().map(|file| fs::read(file).expect("a file")).collect();
        drop(wal);
        for (file, bytes) in files.iter().zip(bytes) {
            fs::write(file, bytes).expect("a file");
        }
    }
}

/// How the tail is asked.
#[derive(Clone, Copy, Debug)]
enum How {
    Wait,
    Poll,
    Available,
}

/// The next record comes within the bound, and is `seq`.
fn comes(tail: &mut Tail, how: How, seq: u64) {
    let started = Instant::now();
    let expected = Some((seq, [seq as u8; 500].to_vec()));
    loop {
        let next = match how {
            How::Wait => {
                assert!(tail.wait(BOUND).expect("the log"), "{how:?}: record {seq} does not come");
                tail.try_next().expect("the log").map(|record| (record.seq(), record.payload().to_vec()))
            }
            How::Poll => tail.try_next().expect("the log").map(|record| (record.seq(), record.payload().to_vec())),
            How::Available => {
                let record = tail.available().expect("the log").next().transpose().expect("the log");
                record.map(|record| (record.seq(), record.payload().to_vec()))
            }
        };
        if next.is_some() {
            assert_eq!(next, expected, "{how:?}");
            return;
        }
        assert!(started.elapsed() < BOUND, "{how:?}: record {seq} does not come");
        std::thread::yield_now();
    }
}

#[test]
fn a_tail_of_the_lower_layer_follows_the_writer_of_the_upper() {
    for how in [How::Wait, How::Poll, How::Available] {
        for closed in [true, false] {
            let overlay = match Overlay::mount(|lower| begin(lower, closed)) {
                Ok(overlay) => overlay,
                Err(reason) => return println!("SKIPPED: {reason}"),
            };
            let reader = Reader::open(&overlay.merged).expect("a reader");
            let mut tail = reader.tail(0).expect("a tail");
            (1..=3).for_each(|seq| comes(&mut tail, how, seq));
            assert!(tail.try_next().expect("the log").is_none());
            let wal = options().open(&overlay.merged).expect("the log");
            // One by one, and then a few segments at once.
            for seq in 4..=6 {
                append(&wal, 1);
                comes(&mut tail, how, seq);
            }
            append(&wal, 60);
            (7..=66).for_each(|seq| comes(&mut tail, how, seq));
            assert!(tail.try_next().expect("the log").is_none());
            let lower = Reader::open(&overlay.lower).expect("a reader").snapshot().expect("a snapshot");
            assert_eq!(lower.last_seq(), 3, "the lower layer is as it was");
        }
    }
}

#[test]
fn a_tail_that_looks_after_the_rotation_shows_what_was_appended_before_it() {
    let overlay = match Overlay::mount(|lower| begin(lower, true)) {
        Ok(overlay) => overlay,
        Err(reason) => return println!("SKIPPED: {reason}"),
    };
    let mut tail = Reader::open(&overlay.merged).expect("a reader").tail(0).expect("a tail");
    (1..=3).for_each(|seq| comes(&mut tail, How::Poll, seq));
    let wal = options().open(&overlay.merged).expect("the log");
    append(&wal, 60);
    wal.close().expect("a close");
    (4..=63).for_each(|seq| comes(&mut tail, How::Wait, seq));
}

#[test]
fn a_durable_tail_of_the_lower_layer_is_told_what_was_cut_off() {
    let overlay = match Overlay::mount(|lower| begin(lower, true)) {
        Ok(overlay) => overlay,
        Err(reason) => return println!("SKIPPED: {reason}"),
    };
    let mut tail = Reader::open(&overlay.merged).expect("a reader").tail(0).expect("a tail").durable_only(true);
    (1..=3).for_each(|seq| comes(&mut tail, How::Wait, seq));
    let wal = options().open(&overlay.merged).expect("the log");
    append(&wal, 1);
    wal.sync().expect("a sync");
    comes(&mut tail, How::Wait, 4);
    wal.truncate_back(2).expect("a cut");
    let told = tail.wait(BOUND);
    assert!(matches!(told, Err(mmap_wal::Error::TruncatedBack { last_seq: 2 })), "{told:?}");
}

#[test]
fn what_was_lent_from_the_lower_layer_stays_and_new_looks_see_the_upper() {
    let overlay = match Overlay::mount(|lower| begin(lower, false)) {
        Ok(overlay) => overlay,
        Err(reason) => return println!("SKIPPED: {reason}"),
    };
    let reader = Reader::open(&overlay.merged).expect("a reader");
    let (before, log) = (reader.snapshot().expect("a snapshot"), Log::open(&overlay.merged).expect("a log"));
    let pinned = before.get(2).expect("the log").expect("a record").pin();
    let wal = options().open(&overlay.merged).expect("the log");
    append(&wal, 60);
    assert_eq!((before.last_seq(), pinned.payload()), (3, &[2; 500][..]));
    assert_eq!(before.replay(0).expect("a replay").filter(Result::is_ok).count(), 3);
    assert_eq!(reader.snapshot().expect("a snapshot").replay(0).expect("a replay").filter(Result::is_ok).count(), 63);
    assert_eq!(log.stat().expect("the log").last_seq, 63);
    assert!(log.verify(|_| {}).expect("the log").damages.is_empty());
}
