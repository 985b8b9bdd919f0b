//! What an adversary found. Each test states what should hold.
#![allow(missing_docs)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mmap_wal::{Act, Background, Observer, Options, Snapshot, SyncMode, Wal};

fn tiny(mode: SyncMode) -> Options {
    Options::new().segment_size(12 << 10).sync_mode(mode)
}

fn body(seq: u64) -> Vec<u8> {
    format!("{seq:0>1500}").into_bytes()
}

fn seqs(snapshot: &Snapshot) -> Vec<u64> {
    snapshot.replay(0).expect("a replay").map(|r| r.expect("a record").seq()).collect()
}

#[derive(Default)]
struct Gate {
    armed: bool,
    waiting: bool,
    open: bool,
}

/// Blocks one thread at an act, and fails others.
#[derive(Default)]
struct Spy {
    gate: Mutex<Gate>,
    changed: Condvar,
    fail_sync_range: AtomicBool,
    full_sync_dir: AtomicUsize,
    full_identity: AtomicUsize,
    full_create_wal: AtomicBool,
    fail_create_lock: AtomicBool,
    closed: AtomicBool,
    after_close: Mutex<Vec<String>>,
    dirs: Mutex<Vec<PathBuf>>,
}

fn take(counter: &AtomicUsize) -> bool {
    counter.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok()
}

fn is_wal(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "wal")
}

impl Observer for Spy {
    fn before(&self, act: &Act<'_>) -> io::Result<()> {
        match act {
            Act::Populate(path) if is_wal(path) => {
                let mut gate = self.gate.lock().unwrap();
                if gate.armed {
                    gate.armed = false;
                    gate.waiting = true;
                    self.changed.notify_all();
                    while !gate.open {
                        gate = self.changed.wait(gate).unwrap();
                    }
                }
            }
            Act::SyncRange { .. } if self.fail_sync_range.load(SeqCst) => return Err(io::Error::from_raw_os_error(5)),
            Act::SyncDir(_) if take(&self.full_sync_dir) => return Err(io::ErrorKind::StorageFull.into()),
            Act::Write { path, offset: 0, .. } if is_wal(path) && take(&self.full_identity) => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Act::Create(path) if !path.ends_with("LOCK") && self.full_create_wal.load(SeqCst) => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Act::Create(path) if path.ends_with("LOCK") && self.fail_create_lock.load(SeqCst) => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            _ => {}
        }
        if self.closed.load(SeqCst) && matches!(act, Act::Write { .. } | Act::Create(_)) {
            self.after_close.lock().unwrap().push(format!("{act:?}"));
        }
        Ok(())
    }

    fn after(&self, act: &Act<'_>) {
        if let Act::SyncDir(dir) = act {
            self.dirs.lock().unwrap().push(dir.to_path_buf());
        }
    }
}

/// P1, P11: after a failed sync, `close` gives the lock back while another thread still is in a manifest update.
#[test]
fn a_poisoned_close_waits_for_whoever_writes_the_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let spy = Arc::new(Spy::default());
    let wal = Arc::new(tiny(SyncMode::None).open_observed(dir.path(), Some(spy.clone())).unwrap());
    spy.gate.lock().unwrap().armed = true;
    let rotating = {
        let wal = Arc::clone(&wal);
        std::thread::spawn(move || (1..=3).for_each(|seq| drop(wal.append(&body(seq)))))
    };
    {
        let mut gate = spy.gate.lock().unwrap();
        while !gate.waiting {
            gate = spy.changed.wait(gate).unwrap();
        }
    }
    spy.fail_sync_range.store(true, SeqCst);
    assert!(wal.sync().is_err() || wal.append_batch(&[b"x"]).is_err());
    let closing = {
        let wal = Arc::clone(&wal);
        std::thread::spawn(move || drop(wal.close()))
    };
    std::thread::sleep(Duration::from_millis(100));
    if !closing.is_finished() {
        // A right close waits for the update.
        spy.gate.lock().unwrap().open = true;
        spy.changed.notify_all();
        return;
    }
    let second = tiny(SyncMode::Sync).open(dir.path()).expect("the lock was given back");
    let first_new = second.positions().last + 1;
    for seq in first_new..first_new + 20 {
        assert_eq!(second.append(&body(seq)).unwrap(), seq);
    }
    second.checkpoint(first_new + 19).unwrap();
    second.close().unwrap();
    spy.gate.lock().unwrap().open = true;
    spy.changed.notify_all();
    rotating.join().unwrap();
    closing.join().unwrap();
    let third = tiny(SyncMode::Sync).open(dir.path()).expect("the log of the second writer");
    assert_eq!(third.positions().last, first_new + 19);
    assert_eq!(seqs(&third.snapshot()).len() as u64, first_new + 19);
}

/// P11: nothing is written after `close` has returned.
#[test]
fn nothing_is_written_after_a_close() {
    for round in 0..300_u64 {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let spy = Arc::new(Spy::default());
        let wal = Arc::new(tiny(SyncMode::None).open_observed(dir.path(), Some(spy.clone())).unwrap());
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let wal = Arc::clone(&wal);
                std::thread::spawn(move || while wal.append(&[7; 1900]).is_ok() {})
            })
            .collect();
        std::thread::sleep(Duration::from_micros(200 + round * 37 % 3000));
        wal.close().unwrap();
        spy.closed.store(true, SeqCst);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let after = spy.after_close.lock().unwrap();
        assert!(after.is_empty(), "round {round}: {after:?}");
    }
}

/// The manifest of the log in `dir` again, in slots of 4 KiB, which the format allows.
fn shrink_manifest(dir: &Path) {
    let path = dir.join("MANIFEST");
    let bytes = std::fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    let mut small = bytes[..4096].to_vec();
    small.extend_from_slice(&bytes[half..half + 4096]);
    std::fs::write(&path, small).unwrap();
}

/// P9, P1: a full disk at the directory sync behind the rename of a grown manifest, and from then on.
#[test]
fn a_full_disk_while_the_manifest_grows_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    tiny(SyncMode::Sync).open(dir.path()).unwrap().close().unwrap();
    shrink_manifest(dir.path());
    let spy = Arc::new(Spy::default());
    let wal = tiny(SyncMode::Sync).open_observed(dir.path(), Some(spy.clone())).unwrap();
    spy.full_sync_dir.store(1, SeqCst);
    let mut acknowledged = 0;
    while let Ok(seq) = wal.append(&body(acknowledged + 1)) {
        acknowledged = seq;
        if spy.full_sync_dir.load(SeqCst) == 0 {
            spy.full_create_wal.store(true, SeqCst);
        }
    }
    let meta = wal.set_meta(b"my vote").is_ok();
    let _ = wal.close();
    drop(wal);
    let again = tiny(SyncMode::Sync).open(dir.path()).expect("the log");
    assert_eq!(again.positions().last, acknowledged, "records");
    assert!(!meta || *again.meta() == *b"my vote", "meta");
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

/// P5, P6: what an open has made durable is known to be durable.
#[test]
fn damage_to_what_an_earlier_open_made_durable_is_no_torn_end() {
    let options = Options::new().segment_size(1 << 20).sync_mode(SyncMode::None);
    let dir = tempfile::tempdir().unwrap();
    let wal = options.open(dir.path()).unwrap();
    (1..=100).for_each(|seq| {
        wal.append(&body(seq)).unwrap();
    });
    let killed = copy(dir.path());
    let recovered = options.open(killed.path()).unwrap();
    assert_eq!(recovered.positions().durable, 100);
    let killed = copy(killed.path());
    let path = killed.path().join("00000000000000000001.wal");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8192 + 50 * 1524] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let opened = options.open(killed.path());
    assert!(matches!(opened, Err(mmap_wal::Error::Corrupt(_))), "{:?}", opened.map(|wal| wal.recovery().clone()));
}

/// A log whose manifest and first sector group are lost is not an unfinished creation.
#[test]
fn records_behind_a_lost_identity_are_not_deleted_when_the_manifest_is_lost_too() {
    let dir = tempfile::tempdir().unwrap();
    let wal = tiny(SyncMode::Sync).open(dir.path()).unwrap();
    wal.append(b"acknowledged").unwrap();
    drop(wal);
    std::fs::remove_file(dir.path().join("MANIFEST")).unwrap();
    let path = dir.path().join("00000000000000000001.wal");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..4096].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let opened = tiny(SyncMode::Sync).open(dir.path());
    assert!(matches!(opened, Err(mmap_wal::Error::NoManifest { .. })), "{:?}", opened.map(|w| w.recovery().clone()));
}

/// P10, P1: a stray file name takes the next ordinal out of the range that the manifest may hold.
#[test]
fn a_stray_file_with_a_large_ordinal_does_not_spoil_the_manifest() {
    for name in ["09223372036854775807.wal", "18446744073709551615.wal"] {
        let dir = tempfile::tempdir().unwrap();
        tiny(SyncMode::Sync).open(dir.path()).unwrap().close().unwrap();
        std::fs::write(dir.path().join(name), b"").unwrap();
        let wal = tiny(SyncMode::Sync).open(dir.path()).unwrap();
        let acknowledged = (1..=10).map_while(|seq| wal.append(&body(seq)).ok()).last();
        let _ = wal.close();
        drop(wal);
        let again = tiny(SyncMode::Sync).open(dir.path()).expect(name);
        assert_eq!(Some(again.positions().last), acknowledged, "{name}");
    }
}

/// P9: attempts to append on a full disk do not fill it further.
#[test]
fn a_spare_that_does_not_fit_is_gone_again_wherever_the_disk_was_full() {
    let dir = tempfile::tempdir().unwrap();
    let spy = Arc::new(Spy::default());
    let wal = tiny(SyncMode::Sync).open_observed(dir.path(), Some(spy.clone())).unwrap();
    spy.full_identity.store(1000, SeqCst);
    let mut refused = 0;
    for seq in 1.. {
        if wal.append(&body(seq)).is_err() {
            break;
        }
    }
    let files = || std::fs::read_dir(dir.path()).unwrap().filter(|e| is_wal(&e.as_ref().unwrap().path())).count();
    let before = files();
    for _ in 0..10 {
        refused += usize::from(wal.append(&body(0)).is_err());
    }
    assert_eq!((refused, files()), (10, before), "each attempt left a file");
}

/// P1: directories that an earlier, failed open made.
#[test]
fn the_names_of_directories_that_a_failed_open_made_are_synced_by_the_next() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a").join("b").join("c");
    let spy = Arc::new(Spy::default());
    spy.fail_create_lock.store(true, SeqCst);
    assert!(tiny(SyncMode::Sync).open_observed(&dir, Some(spy.clone())).is_err());
    spy.fail_create_lock.store(false, SeqCst);
    let wal = tiny(SyncMode::Sync).open_observed(&dir, Some(spy.clone())).unwrap();
    wal.append(b"acknowledged").unwrap();
    let synced = spy.dirs.lock().unwrap().clone();
    for above in [root.path().to_owned(), root.path().join("a"), root.path().join("a/b")] {
        assert!(synced.contains(&above), "{} was not synced: {synced:?}", above.display());
    }
}

/// P9: a spare is announced, so the append needs no space.
#[test]
fn a_full_disk_is_no_error_of_an_append_that_has_its_spare() {
    let dir = tempfile::tempdir().unwrap();
    let spy = Arc::new(Spy::default());
    let options = tiny(SyncMode::Sync).spare_segments(2).background(Background::Caller);
    let wal = options.open_observed(dir.path(), Some(spy.clone())).unwrap();
    // Rotations until two spares are announced.
    (1..=6).for_each(|seq| {
        wal.append(&body(seq)).unwrap();
    });
    spy.full_create_wal.store(true, SeqCst);
    // Rotates, then fails: the rotation stays unsealed.
    assert!(wal.append_with(3000, |_| Ok::<_, ()>(3001)).is_err());
    (7..=8).for_each(|seq| {
        wal.append(&body(seq)).unwrap();
    });
    wal.append(&body(9)).expect("a spare is there");
}

/// The slice that `fill` gets is zero, as documented.
#[test]
fn append_with_gives_zeros_after_a_clean_close_and_a_power_loss() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let wal = tiny(SyncMode::Sync).open(dir.path()).unwrap();
    wal.append(b"one").unwrap();
    // The kernel may write the page out inside `fill`; nothing syncs the zeros that follow, not even `close`.
    let _ = wal.append_with(64, |bytes| {
        bytes.fill(0xEE);
        Err::<usize, ()>(())
    });
    wal.close().unwrap();
    // The disk as the power loss leaves it: the sector as it was inside `fill`.
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("00000000000000000001.wal")).unwrap();
    file.write_all_at(&[0xEE; 64], 8192 + 32 + 24).unwrap();
    let wal = tiny(SyncMode::Sync).open(dir.path()).unwrap();
    let seq = wal.append_with(64, |bytes| Ok::<_, ()>(bytes.len())).unwrap().unwrap();
    assert_eq!(wal.snapshot().get(seq).unwrap().unwrap().payload(), [0; 64]);
}

/// P10: a manifest whose numbers promise more records than the segment can hold.
#[test]
fn a_manifest_that_promises_too_many_records_is_no_panic() {
    const SEGMENT: usize = 64 << 20;
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_size(SEGMENT as u64).sync_mode(SyncMode::None);
    let wal = options.open(dir.path()).unwrap();
    wal.append(&vec![1; SEGMENT - 8192 - 24]).unwrap();
    // Rotates and leaves the next segment empty.
    assert!(wal.append_with(8, |_| Err::<usize, ()>(())).unwrap().is_err());
    wal.close().unwrap();
    drop(wal);
    patch_manifest(dir.path(), |slot| {
        slot[88 + 40..][..8].copy_from_slice(&5_u64.to_le_bytes());
        slot[88 + 48 + 24..][..8].copy_from_slice(&6_u64.to_le_bytes());
    });
    let wal = options.open(dir.path()).unwrap();
    assert!(wal.snapshot().get(3).is_err());
}

/// P10: numbers at their bound.
#[test]
fn a_generation_at_its_bound_does_not_destroy_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let wal = tiny(SyncMode::Sync).open(dir.path()).unwrap();
    wal.append(b"one").unwrap();
    wal.close().unwrap();
    drop(wal);
    patch_manifest(dir.path(), |slot| slot[16..24].copy_from_slice(&(u64::MAX >> 1).to_le_bytes()));
    if let Ok(wal) = tiny(SyncMode::Sync).open(dir.path()) {
        wal.append(b"two").unwrap();
        drop(wal);
        assert_eq!(tiny(SyncMode::Sync).open(dir.path()).expect("it opened before").positions().last, 2);
    }
}

/// P1: meta that does not fit a small slot beside its entries.
#[test]
fn a_small_manifest_that_is_full_is_not_overrun_by_meta() {
    let dir = tempfile::tempdir().unwrap();
    let wal = tiny(SyncMode::None).open(dir.path()).unwrap();
    // 83 entries fit 4 KiB without meta.
    (1..=160).for_each(|seq| {
        wal.append(&body(seq)).unwrap();
    });
    wal.close().unwrap();
    drop(wal);
    shrink_manifest(dir.path());
    let wal = tiny(SyncMode::None).open(dir.path()).expect("a manifest of the format");
    let _ = wal.set_meta(&[1; 1024]);
    let _ = wal.close();
    drop(wal);
    tiny(SyncMode::None).open(dir.path()).expect("the log");
}

fn patch_manifest(dir: &Path, patch: impl Fn(&mut [u8])) {
    let path = dir.join("MANIFEST");
    let mut bytes = std::fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    for slot in bytes.chunks_exact_mut(half) {
        patch(slot);
        let meta = u32::from_le_bytes(slot[80..84].try_into().unwrap()) as usize;
        let count = u32::from_le_bytes(slot[84..88].try_into().unwrap()) as usize;
        let end = 88 + meta.next_multiple_of(8) + 48 * count;
        let crc = crc32fast::hash(&slot[..end]);
        slot[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
}

/// P11: of two that create a log at once, one has it and the other is told so.
#[test]
fn two_that_create_at_once_get_the_log_and_locked() {
    for _ in 0..200 {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let open = || tiny(SyncMode::None).open(dir.path());
        let results: Vec<Result<Wal, mmap_wal::Error>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for e in results.iter().filter_map(|r| r.as_ref().err()) {
            assert!(matches!(e, mmap_wal::Error::Locked { .. }), "{e}");
        }
    }
}
