//! Proves the plain life of a log: append, replay, rotate, reopen, checkpoint, truncate, errors of use.
//! Does not prove what a crash leaves: that is the simulator's.
#![allow(missing_docs)]

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mmap_wal::{Act, Background, Error, Observer, Options, Reader, Snapshot, SyncMode, TailState, Wal};

/// What users rely on when they move these between threads; a change would not compile.
const _: () = {
    const fn shared<T: Send + Sync + 'static>() {}
    const fn sent<T: Send>() {}
    const fn cloned<T: Clone + Send + Sync + 'static>() {}
    const fn copied<T: Copy + Send + Sync>() {}
    shared::<mmap_wal::Wal>();
    shared::<mmap_wal::Reader>();
    shared::<mmap_wal::Pending>();
    shared::<mmap_wal::IntoReplay>();
    shared::<mmap_wal::Error>();
    sent::<mmap_wal::Tail>();
    sent::<mmap_wal::Replay<'_>>();
    sent::<mmap_wal::ReplayBack<'_>>();
    cloned::<mmap_wal::Snapshot>();
    cloned::<mmap_wal::PinnedRecord>();
    cloned::<mmap_wal::Options>();
    copied::<mmap_wal::Record<'_>>();
    copied::<mmap_wal::Seqs>();
};

fn small() -> Options {
    Options::new().segment_size(16 << 10)
}

fn payloads(snapshot: &Snapshot, after: u64) -> Vec<(u64, Vec<u8>)> {
    let replay = snapshot.replay(after).expect("a replay");
    replay.map(|record| record.map(|r| (r.seq(), r.payload().to_vec())).expect("a record")).collect()
}

fn fill(wal: &Wal, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        assert_eq!(wal.append(&body(seq)).expect("an append"), seq);
    }
}

fn body(seq: u64) -> Vec<u8> {
    format!("record {seq} ").repeat(1 + seq as usize % 40).into_bytes()
}

fn expected(seqs: std::ops::RangeInclusive<u64>) -> Vec<(u64, Vec<u8>)> {
    seqs.map(|seq| (seq, body(seq))).collect()
}

fn segment_files(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).expect("the directory").map(|e| e.expect("an entry").file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".wal")).count()
}

#[test]
fn what_is_appended_is_replayed_after_a_reopen_in_every_mode() {
    for mode in [SyncMode::Sync, SyncMode::batch(7), SyncMode::None] {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = small().sync_mode(mode).open(dir.path()).expect("a new log");
        assert!(wal.recovery().created);
        fill(&wal, 1..=500);
        assert_eq!(payloads(&wal.snapshot(), 0), expected(1..=500));
        wal.close().expect("a close");
        let wal = small().sync_mode(mode).open(dir.path()).expect("the log");
        assert_eq!(wal.recovery().tail, TailState::Clean);
        assert!(!wal.recovery().created);
        assert_eq!(payloads(&wal.snapshot(), 0), expected(1..=500));
        fill(&wal, 501..=520);
        assert_eq!(payloads(&wal.snapshot(), 490), expected(491..=520));
        assert_eq!(
            payloads(&Reader::open(dir.path()).expect("a reader").snapshot().expect("a view"), 0),
            expected(1..=520)
        );
    }
}

#[test]
fn a_log_that_was_not_closed_is_found_whole_by_a_copy() {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = tempfile::tempdir().expect("a directory");
    // No thread makes a spare while the files are copied one by one.
    let options = small().sync_mode(SyncMode::None).background(Background::Caller);
    let wal = options.open(dir.path()).expect("a new log");
    fill(&wal, 1..=333);
    for entry in std::fs::read_dir(dir.path()).expect("the directory") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copy");
    }
    let copied = small().open(copy.path()).expect("the copy");
    assert_eq!(payloads(&copied.snapshot(), 0), expected(1..=333));
    fill(&copied, 334..=400);
    assert_eq!(payloads(&copied.snapshot(), 300), expected(301..=400));
}

#[test]
fn a_batch_is_dense_and_durable_in_every_mode() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().sync_mode(SyncMode::None).open(dir.path()).expect("a new log");
    let seqs = wal.append_batch(&["a", "b", "c"]).expect("a batch");
    assert_eq!((seqs.first(), seqs.last(), seqs.len()), (Some(1), Some(3), 3));
    assert_eq!(wal.positions().durable, 3);
    let empty: [&[u8]; 0] = [];
    assert!(wal.append_batch(&empty).expect("no batch").is_empty());
    assert_eq!(wal.append(b"d").expect("an append"), 4);
    assert_eq!(wal.durable_snapshot().last_seq(), 3);
    assert_eq!(wal.sync().expect("a sync"), 4);
    assert_eq!(wal.durable_snapshot().last_seq(), 4);
}

#[test]
fn a_record_or_batch_larger_than_a_segment_gets_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    let large = vec![7_u8; 100_000];
    assert_eq!(wal.append(b"small").expect("an append"), 1);
    assert_eq!(wal.append(&large).expect("a large one"), 2);
    assert_eq!(wal.append_batch(&[&large[..50_000], &large[..60_000]]).expect("a large batch").last(), Some(4));
    assert_eq!(wal.append(b"small").expect("an append"), 5);
    wal.close().expect("a close");
    let wal = small().open(dir.path()).expect("the log");
    let lens: Vec<usize> = payloads(&wal.snapshot(), 0).iter().map(|(_, payload)| payload.len()).collect();
    assert_eq!(lens, [5, 100_000, 50_000, 60_000, 5]);
    assert_eq!(wal.append(&large).expect("a large one"), 6);
}

#[test]
fn append_with_writes_in_place_and_an_error_or_panic_appends_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    let done = wal.append_with(100, |bytes| {
        assert!(bytes.len() == 100 && bytes.iter().all(|byte| *byte == 0));
        bytes[..3].copy_from_slice(b"abc");
        bytes[50] = 9;
        Ok::<usize, ()>(3)
    });
    assert_eq!(done.expect("an append"), Ok(1));
    assert_eq!(wal.append_with(8, |_| Err::<usize, &str>("no")).expect("the log is fine"), Err("no"));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wal.append_with(64, |bytes| -> Result<usize, ()> {
            bytes.fill(0xEE);
            panic!("user code")
        })
    }));
    assert!(panicked.is_err());
    let too_long = wal.append_with(8, |_| Ok::<usize, ()>(9));
    assert!(matches!(too_long, Err(Error::RecordTooLarge { len: 9, max: 8 })));
    assert_eq!(
        wal.append_with(200, |bytes| {
            assert!(bytes.iter().all(|b| *b == 0));
            Ok::<_, ()>(0)
        })
        .expect("an append"),
        Ok(2)
    );
    assert_eq!(payloads(&wal.snapshot(), 0), [(1, b"abc".to_vec()), (2, Vec::new())]);
}

#[test]
fn a_call_from_a_callback_is_refused_and_does_not_hang() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    let done = wal.append_with(8, |_| {
        assert!(matches!(wal.append(b"x"), Err(Error::Reentrant)));
        assert!(matches!(wal.sync(), Err(Error::Reentrant)));
        assert!(matches!(wal.close(), Err(Error::Reentrant)));
        assert!(matches!(wal.truncate_front(1), Err(Error::Reentrant)));
        assert_eq!(wal.snapshot().last_seq(), 0);
        Ok::<usize, ()>(1)
    });
    assert_eq!(done.expect("an append"), Ok(1));
}

#[test]
fn a_gathered_record_with_a_tag_comes_back_as_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    wal.append_tagged(513, &[IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cd")]).expect("an append");
    let snapshot = wal.snapshot();
    let record = snapshot.get(1).expect("a read").expect("a record");
    assert_eq!((record.tag(), record.payload()), (513, &b"abcd"[..]));
}

#[test]
fn truncation_removes_exactly_what_was_named_and_views_keep_what_they_show() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    fill(&wal, 1..=400);
    let (before, files) = (wal.snapshot(), segment_files(dir.path()));
    wal.truncate_front(250).expect("a truncation");
    assert!(segment_files(dir.path()) < files);
    assert_eq!(wal.positions().first, 251);
    assert_eq!(payloads(&wal.snapshot(), 0), expected(251..=400));
    assert_eq!(payloads(&before, 0), expected(1..=400));
    assert!(matches!(wal.snapshot().replay(100), Err(Error::Truncated { first_seq: 251 })));
    assert!(matches!(wal.snapshot().replay(401), Err(Error::Ahead { last_seq: 400 })));
    assert_eq!(wal.snapshot().replay(400).expect("nothing").count(), 0);
    drop(wal);
    let wal = small().open(dir.path()).expect("the log");
    assert_eq!(payloads(&wal.snapshot(), 0), expected(251..=400));
    assert_eq!(payloads(&before, 390), expected(391..=400));
}

#[test]
fn a_number_is_never_given_again_after_everything_was_truncated() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    fill(&wal, 1..=100);
    wal.truncate_front(u64::MAX).expect("a truncation");
    for round in 0..3 {
        drop(small().open(dir.path()));
        let wal = match round {
            0 => {
                assert_eq!(wal.positions().first, 101);
                None
            }
            _ => Some(small().open(dir.path())),
        };
        drop(wal);
    }
    drop(wal);
    let wal = small().open(dir.path()).expect("the log");
    assert_eq!((wal.positions().first, wal.positions().last), (101, 100));
    assert_eq!(wal.append(b"next").expect("an append"), 101);
}

#[test]
fn checkpoint_and_meta_survive_a_reopen_and_a_checkpoint_never_goes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    fill(&wal, 1..=10);
    wal.checkpoint(7).expect("a checkpoint");
    wal.checkpoint(3).expect("nothing to do");
    assert!(matches!(wal.checkpoint(11), Err(Error::OutOfRange { seq: 11, last_seq: 10 })));
    wal.set_meta(b"term 4").expect("a meta");
    assert!(matches!(wal.set_meta(&[0; 1025]), Err(Error::RecordTooLarge { .. })));
    drop(wal);
    let wal = small().open(dir.path()).expect("the log");
    assert_eq!((wal.positions().checkpoint, &wal.meta()[..]), (7, &b"term 4"[..]));
    assert_eq!(payloads(&wal.snapshot(), wal.positions().checkpoint), expected(8..=10));
}

#[test]
fn a_point_read_finds_every_record_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    fill(&wal, 1..=1000);
    wal.truncate_front(321).expect("a truncation");
    let snapshot = wal.snapshot();
    for seq in (1..=1000).rev() {
        let found = snapshot.get(seq).expect("a read").map(|record| record.payload().to_vec());
        assert_eq!(found, (seq > 321).then(|| body(seq)), "{seq}");
    }
    assert!(snapshot.get(0).expect("a read").is_none() && snapshot.get(1001).expect("a read").is_none());
}

#[test]
fn pinned_records_outlive_the_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    fill(&wal, 1..=50);
    let pinned: Vec<_> = wal.snapshot().into_replay(40).expect("a replay").map(|r| r.expect("a record")).collect();
    wal.truncate_front(50).expect("a truncation");
    drop(wal);
    drop(dir);
    let bodies: Vec<_> = pinned.iter().map(|record| (record.seq(), record.payload().to_vec())).collect();
    assert_eq!(bodies, expected(41..=50));
}

#[test]
fn a_closed_log_refuses_writes_and_closes_again_in_silence() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    fill(&wal, 1..=3);
    let view = wal.snapshot();
    wal.close().expect("a close");
    wal.close().expect("a second close");
    assert!(matches!(wal.append(b"x"), Err(Error::Closed)));
    assert!(matches!(wal.truncate_front(1), Err(Error::Closed)));
    assert_eq!(payloads(&view, 0), expected(1..=3));
}

#[test]
fn a_second_writer_is_refused_with_the_pid_and_a_reader_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    match small().open(dir.path()) {
        Err(Error::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    Reader::open(dir.path()).expect("a reader");
    drop(wal);
    small().open(dir.path()).expect("the log");
}

#[test]
fn many_threads_append_densely() {
    for mode in [SyncMode::Sync, SyncMode::batch(16), SyncMode::None] {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = small().sync_mode(mode).open(dir.path()).expect("a new log");
        let mut all: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|t| {
                    let wal = &wal;
                    scope.spawn(move || {
                        (0..200)
                            .map(|i| wal.append(format!("{t} {i}").as_bytes()).expect("an append"))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
        });
        all.sort_unstable();
        assert_eq!(all, (1..=1200).collect::<Vec<_>>());
        assert_eq!(wal.snapshot().replay(0).expect("a replay").filter(|r| r.is_ok()).count(), 1200);
    }
}

#[test]
fn an_absent_log_is_not_created_when_that_is_off() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(matches!(Options::new().create(false).open(dir.path().join("no")), Err(Error::Io(_))));
    assert!(!dir.path().join("no").exists());
    assert!(matches!(Options::new().create(false).open(dir.path()), Err(Error::Io(_))));
    assert!(matches!(Reader::open(dir.path()), Err(Error::Io(_))));
    assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 0);
}

#[test]
fn another_user_tag_is_foreign() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(small().user_tag([1; 16]).open(dir.path()).expect("a new log"));
    assert!(matches!(small().user_tag([2; 16]).open(dir.path()), Err(Error::Foreign(_))));
    small().open(dir.path()).expect("no tag asked for");
}

#[test]
fn a_reader_finds_the_end_behind_records_longer_than_what_it_reads_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = Options::new().segment_size(4 << 20).sync_mode(SyncMode::None).open(dir.path()).expect("a log");
    let payload = |seq: u64| vec![seq as u8; [9, 1 << 20, 300_000][seq as usize % 3]];
    for seq in 1..=7 {
        assert_eq!(wal.append(&payload(seq)).expect("an append"), seq);
    }
    let check = || {
        let snapshot = Reader::open(dir.path()).and_then(|reader| reader.snapshot()).expect("a snapshot");
        let shown: Vec<_> = snapshot.replay(0).expect("a replay").map(|record| record.expect("a record")).collect();
        assert_eq!(shown.len(), 7);
        assert!(shown.iter().all(|record| record.payload() == payload(record.seq())));
    };
    // Beside a writer it is read by calls, after a clean close through the map.
    check();
    wal.close().expect("a close");
    check();
}

/// Runs `job`, and fails if it hangs.
fn within<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(job()));
    result.recv_timeout(Duration::from_secs(60)).expect("it panics or hangs")
}

/// Lengths of the segment files, in order.
fn lengths(dir: &Path) -> Vec<u64> {
    let files = std::fs::read_dir(dir).expect("the directory").map(|entry| entry.expect("an entry"));
    let segments = files.filter(|file| file.file_name().to_string_lossy().ends_with(".wal"));
    let mut lengths: Vec<u64> = segments.map(|file| file.metadata().expect("a file").len()).collect();
    lengths.sort_unstable();
    lengths
}

#[test]
fn record_that_just_misses_the_spare_gets_its_own() {
    /// Frames of the smallest segment, and the header of one.
    const ROOM: usize = 4096;
    const HEADER: usize = 24;
    let ways: [fn(&Wal, usize) -> u64; 4] = [
        |wal, len| wal.append(&vec![7; len]).expect("an append"),
        |wal, len| {
            wal.append_batch(&[vec![7; 1000], vec![7; len - 1000 - HEADER]]).expect("a batch").last().expect("two")
        },
        |wal, len| wal.append_with(len, |bytes| Ok::<_, ()>(bytes.len())).expect("an append").expect("a record"),
        |wal, len| wal.submit(&vec![7; len]).expect("a record").wait().expect("durable").last().expect("one"),
    ];
    for (way, append) in ways.into_iter().enumerate() {
        // Both are rounded up to a multiple of 8: the second does not fit by that much.
        for (len, largest, rotations) in
            [(ROOM - HEADER - 7, 12 << 10, 2), (ROOM - HEADER, 12 << 10, 2), (ROOM - HEADER + 1, 16 << 10, 1)]
        {
            let found = within(move || {
                let dir = tempfile::tempdir().expect("a directory");
                let options = Options::new().segment_size(12 << 10).background(Background::Caller);
                let wal = options.open(dir.path()).expect("a new log");
                wal.append(b"in front").expect("an append");
                let last = append(&wal, len);
                assert_eq!(wal.append(b"behind").expect("an append"), last + 1);
                let rotations = wal.stats().rotations;
                wal.close().expect("a close");
                let wal = options.open(dir.path()).expect("the log");
                assert_eq!(payloads(&wal.snapshot(), 0).len() as u64, last + 1);
                (*lengths(dir.path()).last().expect("segments"), rotations)
            });
            // No segment is begun in vain.
            assert_eq!(found, (largest, rotations), "way {way}, {len} bytes");
        }
    }
}

#[test]
fn truncated_record_is_neither_shown_nor_passed_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options::new().segment_size(12 << 10).background(Background::Caller);
    let wal = options.open(dir.path()).expect("a new log");
    // Four fill a segment.
    (0..20).for_each(|_| assert!(wal.append(&[7; 1000]).is_ok()));
    for up_to in [2, 3, 4, 5, 7, 8, 12, 14] {
        wal.truncate_front(up_to).expect("a truncation");
        let segments = mmap_wal::inspect::Log::open(dir.path()).expect("a log").ordinals().expect("its segments").len();
        assert_eq!(segments as u64, 5 - up_to / 4 + 1, "{up_to}: a segment without records goes");
        let read = Reader::open(dir.path()).expect("a reader");
        let again = tempfile::tempdir().expect("a directory");
        for entry in std::fs::read_dir(dir.path()).expect("the directory") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), again.path().join(entry.file_name())).expect("a copy");
        }
        let opened = options.open(again.path()).expect("a copy");
        let first = up_to + 1;
        for snapshot in [wal.snapshot(), read.snapshot().expect("a view"), opened.snapshot()] {
            let next = snapshot.replay(up_to).expect("a replay").next().expect("a record").expect("it");
            assert_eq!(next.seq(), first);
            for after in [up_to - 1, 1] {
                let refused = snapshot.replay(after).err();
                assert!(matches!(refused, Some(Error::Truncated { first_seq }) if first_seq == first), "{refused:?}");
            }
            assert!(snapshot.get(up_to).expect("a lookup").is_none());
            assert_eq!(snapshot.get(first).expect("a lookup").map(|record| record.seq()), Some(first));
            assert_eq!(snapshot.replay_back(first).expect("nothing").count(), 0);
            assert!(matches!(snapshot.replay_back(up_to), Err(Error::Truncated { .. })));
        }
        assert!(matches!(wal.tail(up_to - 1), Err(Error::Truncated { first_seq }) if first_seq == first));
        let mut tail = wal.tail(up_to).expect("a tail");
        assert_eq!(tail.try_next().expect("a tail").map(|record| record.seq()), Some(first));
    }
}

/// A disk on which no new segment fits.
struct NoRoom;

impl Observer for NoRoom {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        match act {
            Act::Allocate { path, len } if path.extension().is_some_and(|name| name == "wal") && *len > 12 << 10 => {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
    fn after(&self, _act: &Act<'_>) {}
}

#[test]
fn largest_record_batch_and_meta_are_not_refused() {
    const LONGEST: usize = u32::MAX as usize - 8192;
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options::new().segment_size(12 << 10).background(Background::Caller);
    let wal = options.open_observed(dir.path(), Some(Arc::new(NoRoom))).expect("a new log");
    let nothing = |_: &mut [u8]| Err::<usize, _>(());
    // There is no space for them, but they would be records.
    assert!(matches!(wal.append_with(LONGEST, nothing), Err(Error::NoSpace(_))));
    for len in [LONGEST + 1, usize::MAX] {
        let refused = wal.append_with(len, nothing).err();
        assert!(matches!(refused, Some(Error::RecordTooLarge { max, .. }) if max == LONGEST as u64), "{refused:?}");
    }
    // Sixteen records of nearly 1 GiB are, with their headers, all that fits the largest segment; no byte is looked at.
    const FRAMES: usize = (16 << 30) - 8192;
    let zeros = vec![0; FRAMES / 16];
    let part = &zeros[..FRAMES / 16 - 24];
    assert!(matches!(wal.append_batch(&[part; 16]), Err(Error::NoSpace(_))));
    let refused = wal.append_batch(&[&[part; 16][..], &[&[]]].concat()).err();
    assert!(matches!(refused, Some(Error::RecordTooLarge { max, .. }) if max == FRAMES as u64), "{refused:?}");
    wal.set_meta(&[9; 1024]).expect("the largest meta");
    assert!(matches!(wal.set_meta(&[9; 1025]), Err(Error::RecordTooLarge { len: 1025, max: 1024 })));
    assert_eq!((wal.append(b"x").expect("an append"), wal.meta().len()), (1, 1024));
}
