//! Makes the golden logs, the same in every run: by writing logs, and by damaging their bytes where no writer makes such.
//! It is run only to add a log; the committed bytes are the truth.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use mmap_wal::{Act, Background, Observer, Options, SyncMode, Wal};

use crate::fixture::{is_manifest, segment};
use crate::golden_files::{Files, Fixed, files_of};
use crate::reference::build::{self, Entry, Manifest, Segment, directory};
use crate::reference::{Tail, Verdict, crc, parse};

/// A golden log: its name, and what makes it.
pub type Maker = (&'static str, fn() -> Files);

/// Takes the files at an act, as a crash would leave them then.
struct Camera {
    fixed: Fixed,
    dir: PathBuf,
    at: fn(&Act<'_>) -> bool,
    /// `None` until it is to look.
    taken: Mutex<Option<Files>>,
    armed: std::sync::atomic::AtomicBool,
}

impl Observer for Camera {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        if self.armed.load(std::sync::atomic::Ordering::SeqCst) && (self.at)(act) {
            self.taken.lock().expect("a lock").get_or_insert_with(|| files_of(&self.dir));
        }
        Ok(())
    }
    fn after(&self, _act: &Act<'_>) {}
    fn random(&self) -> Option<u64> {
        self.fixed.random()
    }
    fn now(&self) -> Option<u64> {
        self.fixed.now()
    }
}

fn options() -> Options {
    Options::new().segment_size(12 << 10).sync_mode(SyncMode::Sync).background(Background::Caller)
}

fn log(write: impl FnOnce(&Wal), close: bool) -> Files {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = options().open_observed(dir.path(), Some(Arc::new(Fixed::default()))).expect("a log");
    write(&wal);
    if close {
        wal.close().expect("a close");
    }
    files_of(dir.path())
}

fn killed(write: impl FnOnce(&Wal)) -> Files {
    log(write, false)
}

fn closed(write: impl FnOnce(&Wal)) -> Files {
    log(write, true)
}

/// What stands there when `last` first comes to an act of the kind `at`.
fn killed_at(at: fn(&Act<'_>) -> bool, write: impl FnOnce(&Wal), last: impl FnOnce(&Wal)) -> Files {
    let dir = tempfile::tempdir().expect("a directory");
    let camera = Arc::new(Camera {
        fixed: Fixed::default(),
        dir: dir.path().to_owned(),
        at,
        taken: Mutex::default(),
        armed: false.into(),
    });
    let wal = options().open_observed(dir.path(), Some(camera.clone())).expect("a log");
    write(&wal);
    camera.armed.store(true, std::sync::atomic::Ordering::SeqCst);
    last(&wal);
    camera.taken.lock().expect("a lock").take().expect("an act")
}

fn append(wal: &Wal, payloads: &[&str]) {
    for payload in payloads {
        wal.append(payload.as_bytes()).expect("an append");
    }
}

/// One record that leaves no room for a second one like it.
fn append_large(wal: &Wal, byte: u8) {
    wal.append(&[byte; 3000]).expect("an append");
}

fn four(wal: &Wal) {
    append(wal, &["one", "two", "three", "four"]);
}

/// Two sealed segments, the first with a batch, and an active one.
fn three_segments(wal: &Wal) {
    append(wal, &["one"]);
    wal.append_batch(&["two", "three"]).expect("a batch");
    append_large(wal, 0x5A);
    append_large(wal, 0xA5);
    append_large(wal, 0xC3);
    append(wal, &["last"]);
}

fn is_sync(act: &Act<'_>) -> bool {
    matches!(act, Act::SyncRange { .. })
}

fn is_update(act: &Act<'_>) -> bool {
    matches!(act, Act::Write { path, .. } if is_manifest(path))
}

/// The log goes on in segment 2, and the manifest does not know.
fn rotated() -> Files {
    killed_at(is_update, |wal| (append(wal, &["one"]), append_large(wal, 0x5A)).0, |wal| append_large(wal, 0xA5))
}

/// The same, and nothing of it was synced.
fn rotated_unsynced() -> Files {
    killed_at(is_sync, |wal| (append(wal, &["one"]), append_large(wal, 0x5A)).0, |wal| append_large(wal, 0xA5))
}

fn file(files: &mut Files, ordinal: u64) -> &mut Vec<u8> {
    files.get_mut(&segment(ordinal)).expect("the segment")
}

fn flip(mut files: Files, ordinal: u64, at: usize) -> Files {
    file(&mut files, ordinal)[at] ^= 0x10;
    files
}

fn zero(mut files: Files, ordinal: u64, range: std::ops::Range<usize>) -> Files {
    file(&mut files, ordinal)[range].fill(0);
    files
}

/// Changes both slots, and puts their CRCs right.
fn with_slots(mut files: Files, change: impl Fn(&mut [u8])) -> Files {
    let manifest = files.get_mut("MANIFEST").expect("the manifest");
    let half = manifest.len() / 2;
    for slot in manifest.chunks_mut(half) {
        change(slot);
        let number = |at: usize| u32::from_le_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]) as usize;
        let end = 88 + number(80).next_multiple_of(8) + 48 * number(84);
        let crc = crc::salted(0, &slot[..end]);
        slot[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    }
    files
}

fn with(mut files: Files, name: &str, bytes: Vec<u8>) -> Files {
    files.insert(name.to_owned(), bytes);
    files
}

fn without(mut files: Files, name: &str) -> Files {
    files.remove(name).expect("the file");
    files
}

/// The manifest of `log` over the segments of `files`.
fn under_manifest_of(files: Files, mut log: Files) -> Files {
    with(files, "MANIFEST", log.remove("MANIFEST").expect("the manifest"))
}

fn foreign(mut files: Files, ordinal: u64) -> Files {
    let other = build::identity(&Entry::active(ordinal, 1), *b"of another's log");
    file(&mut files, ordinal)[512..640].copy_from_slice(&other);
    files
}

/// Where the frame `index` of `four` stands.
const fn frame(index: usize) -> usize {
    8192 + 32 * index
}

fn recycled() -> Files {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = options().open_observed(dir.path(), Some(Arc::new(Fixed::default()))).expect("a log");
    // Each record fills most of a segment, and each is shorter than the one before.
    for len in (2100..3000).rev().step_by(100) {
        let seq = wal.append(&vec![(len / 100) as u8; len]).expect("an append");
        wal.truncate_front(seq - 1).expect("a truncation");
        wal.maintain().expect("maintenance");
        let files = files_of(dir.path());
        if matches!(parse(&files).verdict, Verdict::Ok { tail: Tail::EarlierLife, .. }) {
            return files;
        }
    }
    panic!("no file was used again");
}

fn gap() -> Files {
    let entries = [Entry::sealed(1, 1, 8192 + 64, 2), Entry::active(2, 7), Entry::spare(3)];
    let segments = [
        Segment::of(&entries[0]).begin(1).append(1, b"one").append(2, b"two"),
        Segment::of(&entries[1]).begin(7).append(7, b"seven"),
        Segment::of(&entries[2]),
    ];
    directory(&Manifest::of(&entries), &segments)
}

fn two_spares_begun() -> Files {
    let entries = [Entry::active(1, 1), Entry::spare(2), Entry::spare(3)];
    let segments = [
        Segment::of(&entries[0]).append(1, b"one"),
        Segment::of(&entries[1]).begin(2).append(2, b"two"),
        Segment::of(&entries[2]).begin(3).append(3, b"three"),
    ];
    directory(&Manifest::of(&entries), &segments)
}

/// A copy of another log's file in a record, frame and claim included, is a payload.
fn copied() -> Files {
    let inner = killed(four)[&segment(1)][8192..8192 + 128].to_vec();
    killed(|wal| {
        wal.append(&inner).expect("an append");
        append(wal, &["on"]);
    })
}

/// The active segment with two records, and a spare, as built.
fn pair(spare: fn(Segment) -> Segment) -> Files {
    let entries = [Entry::active(1, 1), Entry::spare(2)];
    let active = Segment::of(&entries[0]).append(1, b"one").append(2, b"two");
    directory(&Manifest::of(&entries), &[active, spare(Segment::of(&entries[1]))])
}

/// One record, a hole, and what stands behind it.
fn hole(behind: fn(Segment) -> Segment) -> Files {
    let entries = [Entry::active(1, 1), Entry::spare(2)];
    let active = behind(Segment::of(&entries[0]).append(1, b"one").skip(32));
    directory(&Manifest::of(&entries), &[active, Segment::of(&entries[1])])
}

/// Two slots that were not written together.
fn two_slots(first: u64, second: u64, version: u32) -> Files {
    let entry = Entry::active(1, 1);
    let one = Manifest { generation: first, meta: b"first".to_vec(), ..Manifest::of(std::slice::from_ref(&entry)) };
    let two = Manifest { generation: second, version, meta: b"second".to_vec(), ..one.clone() };
    let files = directory(&one, &[Segment::of(&entry).append(1, b"one")]);
    with(files, "MANIFEST", [one.slot(), two.slot()].concat())
}

/// The two slots are of two moments: the second one is a truncation further.
fn slots_apart() -> Files {
    let (mut before, after) = (killed(four), killed(|wal| (four(wal), wal.truncate_front(2).expect("a truncation")).0));
    let half = after["MANIFEST"].len() / 2;
    let manifest = before.get_mut("MANIFEST").expect("the manifest");
    manifest[half..].copy_from_slice(&after["MANIFEST"][half..]);
    before
}

pub const MAKERS: &[Maker] = &[
    ("batch", || {
        killed(|wal| {
            append(wal, &["alone"]);
            wal.append_batch(&["one", "", "three"]).expect("a batch");
            append(wal, &["after"]);
        })
    }),
    ("begun-by-its-first-copy", || zero(pair(|spare| spare.begin(3)), 2, 4672..4688)),
    ("begun-by-its-frame", || zero(zero(rotated(), 2, 4160..4176), 2, 4672..4688)),
    ("begun-by-its-second-copy", || zero(pair(|spare| spare.begin(3)), 2, 4160..4176)),
    ("begun-one-copy", || flip(rotated(), 2, 4168)),
    ("checkpoint", || killed(|wal| (four(wal), wal.checkpoint(3).expect("a checkpoint")).0)),
    ("claim-behind-a-hole", || hole(|segment| segment.append_claiming(3, 8256))),
    ("claim-of-what-is-there", || hole(|segment| segment.append_claiming(3, 8224))),
    ("claim-of-a-number-too-high", || hole(|segment| segment.append_claiming(4, 8256))),
    ("closed", || closed(four)),
    ("closed-before-frames", || under_manifest_of(killed(four), closed(|wal| append(wal, &["one", "two"])))),
    ("closed-beyond-frames", || under_manifest_of(killed(|wal| append(wal, &["one", "two"])), closed(four))),
    ("copied-into-a-payload", copied),
    ("corrupt", || flip(killed(four), 1, frame(1) + 24)),
    ("corrupt-header", || flip(killed(four), 1, frame(1) + 4)),
    ("corrupt-sealed", || flip(killed(three_segments), 1, frame(0) + 24)),
    ("corrupt-sealed-batch", || flip(killed(three_segments), 1, frame(2) + 24)),
    ("corrupt-tag", || flip(killed(four), 1, frame(1) + 22)),
    ("cut", || {
        killed(|wal| {
            four(wal);
            wal.truncate_back(2).expect("a cut");
            append(wal, &["again"]);
        })
    }),
    ("durable-and-lost", || zero(killed(four), 1, frame(3)..frame(4))),
    ("durable-one-slot", || zero(zero(killed(four), 1, 4224..4240), 1, frame(3)..frame(4))),
    ("empty", || killed(|_| {})),
    ("empty-record", || {
        killed(|wal| {
            append(wal, &["", "x", ""]);
            wal.append_batch(&["", ""]).expect("a batch");
        })
    }),
    ("first-seq-beyond", || {
        under_manifest_of(
            killed(|wal| append(wal, &["one", "two"])),
            killed(|wal| (four(wal), wal.truncate_front(4).expect("a truncation")).0),
        )
    }),
    ("foreign", || foreign(killed(four), 1)),
    ("foreign-sealed", || foreign(killed(three_segments), 2)),
    ("full", || {
        killed(|wal| {
            wal.append(&[0x5A; 4096 - 24]).expect("an append");
        })
    }),
    ("gap", gap),
    ("identity-one-copy", || zero(killed(four), 1, 0..512)),
    ("identity-swapped", || {
        let files = killed(four);
        let (one, two) = (files[&segment(1)].clone(), files[&segment(2)].clone());
        let swap = |mut to: Vec<u8>, from: &[u8]| (to[..4096].copy_from_slice(&from[..4096]), to).1;
        with(with(files, &segment(1), swap(one.clone(), &two)), &segment(2), swap(two, &one))
    }),
    ("left-over", || {
        let manifest = killed(four)["MANIFEST"].clone();
        with(
            with(with(killed(four), "MANIFEST.tmp", manifest), &segment(9), vec![7; 12288]),
            "notes",
            b"other".to_vec(),
        )
    }),
    ("manifest-lost", || without(killed(four), "MANIFEST")),
    ("manifest-of-another-length", || with(killed(four), "MANIFEST", killed(four)["MANIFEST"][..4096].to_vec())),
    ("meta", || {
        killed(|wal| {
            wal.set_meta(b"a vote, a term, and more").expect("a meta");
            append(wal, &["one"]);
            wal.set_meta(b"a vote").expect("a meta");
        })
    }),
    ("mixed", || {
        closed(|wal| {
            append(wal, &["hi"]);
            wal.append_batch(&["one", "", "three"]).expect("a batch");
            wal.append_tagged(0xBEEF, &[IoSlice::new(b"tag"), IoSlice::new(b"ged")]).expect("an append");
            append_large(wal, 0x5A);
            append_large(wal, 0xA5);
            wal.checkpoint(4).expect("a checkpoint");
            wal.set_meta(b"a vote, a term").expect("a meta");
            wal.truncate_front(2).expect("a truncation");
        })
    }),
    ("oversized", || {
        killed(|wal| {
            append(wal, &["before"]);
            wal.append(&[0x5A; 20_000]).expect("an append");
            append(wal, &["after"]);
        })
    }),
    ("padding", || flip(killed(four), 1, frame(1) + 31)),
    ("published-wrong", || with_word(killed(four), 4096, u64::MAX)),
    ("recycled", recycled),
    ("reset", || {
        killed(|wal| {
            four(wal);
            wal.reset(1000).expect("a reset");
            append(wal, &["a thousand"]);
        })
    }),
    ("rotated", rotated),
    ("rotated-and-lost", || flip(rotated_unsynced(), 1, 8192 + 32 + 24)),
    ("rotated-witnessed-and-lost", || flip(rotated(), 1, 8192 + 32 + 24)),
    ("salt", || {
        // The active segment's; the identities go with it, so that only the frames are of another life.
        let salted = with_slots(killed(four), |slot| slot[96] ^= 1);
        zero(salted, 1, 0..4096)
    }),
    ("sealed", || killed(three_segments)),
    ("segment-missing", || without(killed(three_segments), &segment(1))),
    ("segment-short", || {
        let short = killed(four)[&segment(2)][..8192].to_vec();
        with(killed(four), &segment(2), short)
    }),
    ("slot-of-version-2", || two_slots(1, 2, 2)),
    ("slots-of-one-generation", || two_slots(5, 5, 1)),
    ("slot-damaged", || {
        let mut files = killed(|wal| (four(wal), wal.checkpoint(3).expect("a checkpoint")).0);
        files.get_mut("MANIFEST").expect("the manifest")[70] ^= 1;
        files
    }),
    ("slots-apart", slots_apart),
    ("slots-damaged", || {
        let mut files = killed(four);
        let half = files["MANIFEST"].len() / 2;
        let manifest = files.get_mut("MANIFEST").expect("the manifest");
        (manifest[70], manifest[half + 30]) = (9, 9);
        files
    }),
    ("spare-begun-high", || pair(|spare| spare.begin(4).append(4, b"four"))),
    ("spare-begun-low", || pair(|spare| spare.begin(2).append(2, b"again"))),
    ("spare-claims-its-start", || pair(|spare| spare.mark_durable(8192))),
    ("spare-claims-its-start-and-is-begun-high", || pair(|spare| spare.begin(4).append_claiming(4, 8192))),
    ("spares-begun-both", two_spares_begun),
    ("start-of-spare-lost", || zero(zero(zero(rotated(), 2, 4160..4176), 2, 4672..4688), 2, 8192..8216)),
    ("tag", || {
        killed(|wal| {
            for tag in [1, 0xBEEF, u16::MAX] {
                wal.append_tagged(tag, &[IoSlice::new(b"tagged")]).expect("an append");
            }
            append(wal, &["not"]);
        })
    }),
    ("torn", || {
        let files = killed_at(
            is_sync,
            |wal| append(wal, &["kept"]),
            |wal| {
                wal.append_batch(&["x".repeat(600), "y".repeat(600), "z".repeat(600)]).expect("a batch");
            },
        );
        // The second of three frames is where its sectors did not reach the disk.
        zero(files, 1, 9216..9728)
    }),
    ("truncated", || {
        killed(|wal| {
            three_segments(wal);
            wal.truncate_front(2).expect("a truncation");
        })
    }),
    ("truncated-segments", || {
        killed(|wal| {
            three_segments(wal);
            wal.truncate_front(5).expect("a truncation");
        })
    }),
    ("uncommitted", || {
        let files = killed_at(
            is_sync,
            |wal| append(wal, &["kept"]),
            |wal| {
                wal.append_batch(&["one", "two", "three"]).expect("a batch");
            },
        );
        zero(files, 1, frame(3)..frame(4))
    }),
    ("unfinished-creation", || {
        let prepared = without(killed(|_| {}), "MANIFEST");
        zero(zero(prepared, 1, 4096..12288), 2, 4096..12288)
    }),
    ("unknown-feature", || with_slots(killed(four), |slot| slot[12] = 4)),
    ("unknown-flag", || {
        let frame = build::frame(0, 0, 0, 0, [0, 0], 0, b"");
        assert_eq!(frame.len(), 24);
        let entry = Entry::active(1, 1).virgin();
        let mut one = Segment::of(&entry).append(1, b"one");
        let flagged = build::frame(entry.salt, 8224, 2, build::NO_CLAIM, [3, 0], 0, b"flag");
        one.put(8224, &flagged);
        directory(&Manifest::of(&[entry, Entry::spare(2)]), &[one, Segment::of(&Entry::spare(2))])
    }),
    ("version-2", || with_slots(killed(four), |slot| slot[8] = 2)),
];

fn with_word(mut files: Files, at: usize, value: u64) -> Files {
    file(&mut files, 1)[at..at + 8].copy_from_slice(&value.to_le_bytes());
    files
}
