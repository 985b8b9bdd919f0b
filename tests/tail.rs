//! Proves that a tail shows every record in order, over rotations, truncation, cuts, resets and the death of the writer,
//! from the writing handle and from the files, published or durable only; and that it says so when it cannot.
//! Does not prove how fast it is, nor what happens while many threads write: that is the stress suite's.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mmap_wal::{Act, Background, Error, Observer, Options, Reader, SyncMode, Tail, Wal};

const LONG: Duration = Duration::from_secs(60);

fn small() -> Options {
    Options::new().segment_size(12 << 10).background(Background::Caller).sync_mode(SyncMode::None)
}

fn record(seq: u64) -> Vec<u8> {
    format!("record {seq} {}", "x".repeat(seq as usize % 700)).into_bytes()
}

fn append(wal: &Wal, count: u64) {
    for _ in 0..count {
        let seq = wal.positions().last + 1;
        assert_eq!(wal.append(&record(seq)).expect("an append"), seq);
    }
}

/// Both kinds of tails of a log.
fn tails(wal: &Wal, dir: &Path, after: u64) -> [Tail; 2] {
    let files = Reader::open(dir).expect("a reader").tail(after).expect("a tail of the files");
    [wal.tail(after).expect("a tail of the handle"), files]
}

/// Takes what is there and checks that it is the records `from` to `to`.
fn expect(tail: &mut Tail, from: u64, to: u64) {
    for seq in from..=to {
        let next = tail.try_next().expect("a tail that goes on").expect("a record");
        assert_eq!((next.seq(), next.payload()), (seq, &record(seq)[..]));
    }
    assert!(tail.try_next().expect("the end").is_none());
    assert_eq!(tail.position(), to);
}

#[test]
fn every_record_is_shown_over_rotations() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    for mut tail in tails(&wal, dir.path(), 0) {
        expect(&mut tail, 1, wal.positions().last);
        for _ in 0..20 {
            let last = wal.positions().last;
            append(&wal, 17);
            expect(&mut tail, last + 1, last + 17);
        }
    }
}

#[test]
fn a_tail_begins_behind_any_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    append(&wal, 100);
    for after in [0, 1, 50, 99, 100] {
        for mut tail in tails(&wal, dir.path(), after) {
            expect(&mut tail, after + 1, 100);
        }
    }
    assert!(matches!(wal.tail(101), Err(Error::Ahead { last_seq: 100 })));
    wal.truncate_front(60).expect("a truncation");
    assert!(matches!(wal.tail(40), Err(Error::Truncated { first_seq: 61 })));
}

#[test]
fn what_is_available_is_an_iterator_that_can_be_left_and_taken_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    append(&wal, 200);
    for mut tail in tails(&wal, dir.path(), 0) {
        let mut seen = Vec::new();
        while seen.len() < 200 {
            let before = seen.len();
            let take = tail.available().expect("a tail").take(7);
            seen.extend(take.map(|record| record.expect("a record").seq()));
            assert!(seen.len() > before);
        }
        assert!(seen.iter().copied().eq(1..=200));
        assert!(tail.available().expect("a tail").next().is_none());
    }
}

#[test]
fn a_batch_is_shown_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    let mut both = tails(&wal, dir.path(), 0);
    wal.submit_batch(&[record(1), record(2), record(3)]).expect("a batch").wait().expect("durable");
    both.iter_mut().for_each(|tail| expect(tail, 1, 3));
}

#[test]
fn what_was_truncated_before_it_was_shown_is_told_and_the_tail_can_go_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    append(&wal, 10);
    let mut both = tails(&wal, dir.path(), 0);
    append(&wal, 200);
    wal.truncate_front(150).expect("a truncation");
    for tail in &mut both {
        // What stands in the segment that the tail has mapped is shown in any case.
        let first_seq = loop {
            match tail.try_next() {
                Ok(Some(record)) => assert!(record.seq() < 150),
                Ok(None) => panic!("records that were truncated are missing"),
                Err(Error::Truncated { first_seq }) => break first_seq,
                Err(e) => panic!("{e}"),
            }
        };
        assert_eq!(first_seq, 151);
        tail.seek(first_seq - 1).expect("a way on");
        expect(tail, 151, 210);
    }
}

#[test]
fn a_truncation_up_to_where_the_tail_stands_changes_nothing_for_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    let mut both = tails(&wal, dir.path(), 0);
    for _ in 0..20 {
        let last = wal.positions().last;
        append(&wal, 13);
        both.iter_mut().for_each(|tail| expect(tail, last + 1, last + 13));
        wal.truncate_front(last + 13).expect("a truncation");
        both.iter_mut().for_each(|tail| assert!(tail.try_next().expect("the end").is_none()));
    }
}

#[test]
fn records_that_were_shown_and_cut_off_are_told() {
    for (shown, kept) in [(100, 40), (100, 99), (41, 40), (100, 1)] {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = small().open(dir.path()).expect("a new log");
        append(&wal, shown);
        let mut both = tails(&wal, dir.path(), 0);
        both.iter_mut().for_each(|tail| expect(tail, 1, shown));
        wal.truncate_back(kept).expect("a cut");
        append(&wal, 80);
        for tail in &mut both {
            let cut = tail.try_next().expect_err("records that are gone");
            let Error::TruncatedBack { last_seq } = cut else { panic!("{cut}") };
            assert_eq!(last_seq, kept);
            tail.seek(last_seq).expect("a way on");
            expect(tail, last_seq + 1, wal.positions().last);
        }
    }
}

#[test]
fn records_behind_a_cut_that_were_not_shown_are_the_new_ones() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    append(&wal, 30);
    let mut both = tails(&wal, dir.path(), 0);
    both.iter_mut().for_each(|tail| expect(tail, 1, 30));
    append(&wal, 60);
    wal.truncate_back(40).expect("a cut");
    append(&wal, 80);
    both.iter_mut().for_each(|tail| expect(tail, 31, 120));
}

#[test]
fn records_that_were_cut_off_are_told_even_if_those_in_their_place_are_truncated_before_the_next_look() {
    for (shown, kept) in [(100, 40), (100, 99), (100, 1), (13, 2)] {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = small().open(dir.path()).expect("a new log");
        append(&wal, shown);
        let mut both = tails(&wal, dir.path(), 0);
        both.iter_mut().for_each(|tail| expect(tail, 1, shown));
        wal.truncate_back(kept).expect("a cut");
        append(&wal, shown - kept);
        // Goes into a segment of its own, so that the front can go up to exactly where the tails stand.
        wal.append(&[7; 4000]).expect("an append");
        wal.truncate_front(shown).expect("a truncation");
        for tail in &mut both {
            let cut = tail.try_next().expect_err("records that are gone");
            let Error::TruncatedBack { last_seq } = cut else { panic!("{cut}") };
            assert!(last_seq <= kept, "{last_seq}");
            tail.seek(last_seq.max(wal.positions().first - 1)).expect("a way on");
            assert_eq!(tail.try_next().expect("a tail").map(|record| record.seq()), Some(shown + 1));
        }
    }
}

#[test]
fn a_cut_that_was_there_before_is_not_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    append(&wal, 60);
    wal.truncate_back(40).expect("a cut");
    append(&wal, 60);
    let mut both = tails(&wal, dir.path(), 39);
    for tail in &mut both {
        assert_eq!(tail.try_next().expect("a tail").map(|record| record.seq()), Some(40));
    }
    // Up to exactly the place of the cut, behind which the tails have not looked yet.
    wal.truncate_front(40).expect("a truncation");
    both.iter_mut().for_each(|tail| expect(tail, 41, 100));
}

#[test]
fn a_reset_is_told_as_a_truncation() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    append(&wal, 30);
    let mut both = tails(&wal, dir.path(), 0);
    both.iter_mut().for_each(|tail| expect(tail, 1, 30));
    wal.reset(1000).expect("a reset");
    wal.append(&record(1000)).expect("an append");
    let [handle, files] = &mut both;
    // The handle knows that everything was dropped, what was shown with it.
    assert!(matches!(handle.try_next(), Err(Error::TruncatedBack { last_seq: 0 })));
    assert!(matches!(files.try_next(), Err(Error::Truncated { first_seq: 1000 })));
    for tail in &mut both {
        tail.seek(999).expect("a way on");
        expect(tail, 1000, 1000);
    }
}

#[test]
fn a_tail_of_the_files_goes_on_when_the_writer_dies_or_closes_and_another_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(small().open(dir.path()).expect("a new log"));
    let mut tail = Reader::open(dir.path()).expect("a reader").tail(0).expect("a tail");
    let mut last = 0;
    for (looks, dies) in [(true, false), (false, true), (true, true), (false, false), (true, true), (false, true)] {
        let device = Arc::new(Device::default());
        let wal = small().open_observed(dir.path(), Some(Arc::clone(&device) as _)).expect("the log");
        append(&wal, 23);
        if looks {
            expect(&mut tail, last + 1, last + 23);
        }
        device.dead.store(dies, Ordering::SeqCst);
        append(&wal, 2);
        assert_eq!(wal.close().is_err(), dies);
        drop(wal);
        expect(&mut tail, if looks { last + 24 } else { last + 1 }, last + 25);
        last += 25;
    }
}

/// A device that takes nothing any more once it is dead: what closes a log then leaves it as a kill does.
#[derive(Default)]
struct Device {
    dead: AtomicBool,
}

impl Observer for Device {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        let writes = matches!(act, Act::Write { .. } | Act::SyncRange { .. } | Act::SyncFile(_) | Act::SyncDir(_));
        if writes && self.dead.load(Ordering::SeqCst) { Err(std::io::Error::other("a dead device")) } else { Ok(()) }
    }
    fn after(&self, _act: &Act<'_>) {}
}

#[test]
fn a_wait_ends_with_the_record_and_not_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    for mut tail in tails(&wal, dir.path(), 0) {
        let last = wal.positions().last;
        while tail.try_next().expect("a tail").is_some() {}
        assert!(!tail.wait(Duration::from_millis(2)).expect("a wait"));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                assert!(tail.wait(LONG).expect("a wait"));
                expect(&mut tail, last + 1, last + 1);
            });
            append(&wal, 1);
            waiter.join().expect("the waiter");
        });
    }
}

#[test]
fn a_tail_of_what_is_durable_shows_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    let mut both = tails(&wal, dir.path(), 0).map(|tail| tail.durable_only(true));
    for _ in 0..10 {
        let last = wal.positions().last;
        append(&wal, 31);
        for tail in &mut both {
            let durable = wal.positions().durable;
            let mut shown = tail.position();
            while let Some(record) = tail.try_next().expect("a tail") {
                shown = record.seq();
            }
            assert!(shown <= durable && shown >= last, "{last} {shown} {durable}");
        }
        wal.sync().expect("a sync");
        for tail in &mut both {
            let from = tail.position() + 1;
            expect(tail, from, last + 31);
        }
    }
}

#[test]
fn a_tail_ends_where_its_log_was_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    append(&wal, 50);
    let mut tail = wal.tail(0).expect("a tail");
    wal.close().expect("a close");
    drop(wal);
    expect(&mut tail, 1, 50);
    assert!(matches!(tail.wait(LONG), Err(Error::Closed)));
}

#[test]
fn damage_below_what_is_published_is_an_error_and_not_an_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    append(&wal, 20);
    wal.sync().expect("a sync");
    let mut both = tails(&wal, dir.path(), 10);
    let file = dir.path().join("00000000000000000001.wal");
    let mut bytes = std::fs::read(&file).expect("the segment");
    let at = (8192..bytes.len()).rfind(|at| bytes[*at] == b'x').expect("a payload");
    bytes[at] ^= 1;
    overwrite(&file, at as u64, bytes[at]);
    for tail in &mut both {
        let mut shown = BTreeMap::new();
        let e = loop {
            match tail.try_next() {
                Ok(Some(record)) => drop(shown.insert(record.seq(), record.payload().to_vec())),
                Ok(None) => panic!("a silent end after {shown:?}"),
                Err(e) => break e,
            }
        };
        assert!(matches!(e, Error::Corrupt(_)), "{e}");
        assert!(shown.iter().all(|(seq, payload)| *payload == record(*seq)));
    }
}

fn overwrite(file: &Path, at: u64, byte: u8) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(file).expect("the segment");
    file.write_all_at(&[byte], at).expect("a write");
}

#[test]
fn records_that_were_cut_are_told_behind_a_second_cut() {
    for (first, second) in [(40, 90), (60, 20)] {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = small().open(dir.path()).expect("a new log");
        append(&wal, 80);
        let mut both = tails(&wal, dir.path(), 0);
        both.iter_mut().for_each(|tail| expect(tail, 1, 80));
        wal.truncate_back(first).expect("a cut");
        append(&wal, 60);
        wal.truncate_back(second).expect("another cut");
        append(&wal, 100);
        for tail in &mut both {
            let Err(Error::TruncatedBack { last_seq }) = tail.try_next() else { panic!("record 80 was cut off") };
            assert_eq!(last_seq, first.min(second));
            tail.seek(last_seq).expect("a way on");
            expect(tail, last_seq + 1, wal.positions().last);
        }
    }
}

/// A copy of the files as a killed process would leave them.
fn killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(dir).expect("the directory") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copy");
    }
    copy
}

/// Rotates, and leaves the next segment empty.
fn fail_behind_a_rotation(wal: &Wal) {
    let failed = wal.append_with(1000, |bytes| {
        bytes.fill(0xEE);
        Err::<usize, _>("changed its mind")
    });
    assert_eq!(failed.expect("a rotation"), Err("changed its mind"));
}

/// What follows learns from the segment alone that it ends: it asks the manifest only then.
#[test]
fn tail_passes_a_segment_left_empty() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    let mut both = tails(&wal, dir.path(), 0);
    for round in 0..3 {
        let seq = wal.append(&[7; 4000]).expect("an append");
        both.iter_mut().for_each(|tail| {
            assert_eq!(tail.try_next().expect("a tail").map(|record| record.seq()), Some(seq));
            assert!(tail.try_next().expect("the end").is_none());
        });
        fail_behind_a_rotation(&wal);
        let whole = small().strict(true).open(killed(dir.path()).path()).expect("nothing of the fill is left");
        assert_eq!(whole.positions().last, seq);
        both.iter_mut().for_each(|tail| assert!(tail.try_next().expect("the end").is_none()));
        // Too large for the empty segment, which stays in the log without a record.
        let next = wal.append(&[8; 20_000]).expect("an append");
        for tail in &mut both {
            let record = tail.try_next().expect("a tail").map(|record| (record.seq(), record.payload().len()));
            assert_eq!(record, Some((next, 20_000)), "{round}");
        }
    }
    wal.close().expect("a close");
    let wal = small().open(dir.path()).expect("the log");
    assert_eq!(wal.snapshot().replay(0).expect("a replay").filter(Result::is_ok).count(), 6);
    let verified = mmap_wal::inspect::Log::open(dir.path()).and_then(|log| log.verify(|_| {})).expect("a look");
    assert!(verified.damages.is_empty(), "{:?}", verified.damages);
}

/// The segment before is closed with the first record behind it; after a cut there is no such record, and to close it then
/// would take the mark of the cut away.
#[test]
fn cut_behind_a_failed_fill_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    for seq in 1..=4 {
        assert_eq!(wal.append(&[seq; 900]).expect("an append"), u64::from(seq));
    }
    let mut both = tails(&wal, dir.path(), 0);
    for tail in &mut both {
        for seq in 1..=4 {
            assert_eq!(tail.try_next().expect("a tail").map(|record| record.seq()), Some(seq));
        }
    }
    fail_behind_a_rotation(&wal);
    wal.truncate_back(2).expect("a cut");
    wal.append(&[13; 900]).expect("an append");
    wal.append(&[14; 900]).expect("an append");
    // Into a segment of its own, so that nothing is left of what says where the cut was.
    wal.append(&[15; 9000]).expect("an append");
    wal.truncate_front(4).expect("a truncation");
    for tail in &mut both {
        let told = tail.try_next().map(|record| record.map(|record| record.seq()));
        assert!(matches!(told, Err(Error::TruncatedBack { last_seq: 0..=2 })), "{told:?}: 3 and 4 were cut off");
    }
}

#[test]
fn tail_that_seeks_still_shows_only_what_is_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    append(&wal, 10);
    wal.sync().expect("a sync");
    append(&wal, 5);
    for tail in tails(&wal, dir.path(), 0) {
        let mut tail = tail.durable_only(true);
        tail.seek(7).expect("a place");
        expect(&mut tail, 8, 10);
    }
}

/// Holds the third write of the manifest up: the first two announce a segment, and the next seal the one before.
#[derive(Default)]
struct Held {
    /// Whether writes are held up, and how many have come since.
    state: std::sync::Mutex<(bool, u32)>,
    changed: std::sync::Condvar,
}

impl Held {
    fn set(&self, held: bool) {
        self.state.lock().expect("the state").0 = held;
        self.changed.notify_all();
    }
}

impl Observer for Held {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        if matches!(act, Act::Write { path, .. } if path.ends_with("MANIFEST")) {
            let mut state = self.state.lock().expect("the state");
            state.1 += u32::from(state.0);
            drop(self.changed.wait_while(state, |(held, writes)| *held && *writes > 2).expect("the state"));
        }
        Ok(())
    }
    fn after(&self, _act: &Act<'_>) {}
}

/// The first record of a log may not fit its first segment, which then stays empty: both begin with the same number.
#[test]
fn record_behind_an_empty_first_segment_is_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let held = Arc::new(Held::default());
    let options = Options::new().segment_size(12 << 10).sync_mode(SyncMode::None);
    let wal = options.open_observed(dir.path(), Some(Arc::clone(&held) as _)).expect("a new log");
    let mut both = tails(&wal, dir.path(), 0);
    held.set(true);
    let appended = wal.append(&[7; 20_000]);
    let view = Reader::open(dir.path()).and_then(|reader| reader.snapshot());
    let seen = both.each_mut().map(|tail| tail.try_next().map(|record| record.map(|record| record.seq())));
    held.set(false);
    assert_eq!((appended.expect("an append"), view.expect("a view").last_seq()), (1, 1));
    assert_eq!(seen.map(|seen| seen.expect("a tail")), [Some(1); 2]);
}
