//! The way to a record by its number: its place is told by the index if all around it are of one size, or it is walked to,
//! over headers, from one in front of it.

use crate::error::Result;
use crate::format::frame::{self, HEADER};
use crate::format::segment::FRAMES_AT;
use crate::index::{Place, SparseIndex, Stretch};
use crate::segment::MappedPart;
use crate::view::{Found, Located, damaged, passed, touch, verify};

/// Bytes that memory gives at once, at least.
const LINE: usize = 64;
/// Longer records are not worth fetching for the sake of their headers.
const SHORT: usize = 8 * LINE;
/// Bytes that are fetched together, at most: fewer than the innermost cache holds.
const TOGETHER: usize = 16 << 10;

/// Where the record `seq` of `part` stands.
pub(super) fn locate(part: &MappedPart<'_>, seq: u64) -> Result<usize> {
    let segment = part.segment;
    let rank = seq - segment.base_seq();
    let stretch = known_stretch(&mut segment.index(), part, rank)?;
    if rank == stretch.first().rank {
        return Ok(stretch.first().offset);
    }
    let told = stretch.told(rank).map(|offset| Place { offset, rank });
    match told.filter(|place| passed(part, *place).is_ok()) {
        Some(place) => Ok(place.offset),
        None => walk(part, &stretch, rank),
    }
}

/// The record `seq` of `part` and its payload, if its place can be told, what is there was brought in, and it verifies; if
/// not, [`find`] says why.
#[inline]
pub(crate) fn find_at_once<'a>(part: &MappedPart<'a>, index: usize, seq: u64) -> Option<Found<'a>> {
    let (segment, frames) = (part.segment, part.frames);
    let rank = seq - segment.base_seq();
    let at = segment.index().known_stretch(rank, part.end.place())?.told(rank)?;
    let held = part.mapping.held_to(at);
    if at + HEADER > held {
        return None;
    }
    touch();
    let header = frame::peek(frames, at).filter(|header| header.seq == seq)?;
    let whole = at + header.frame_size() <= held && frame::verifies(frames, at, &header, segment.salt());
    whole.then(|| Found::of(part, Located { index, at, header }))
}

/// The record `seq` of `part`, segment `index` of a view, verified.
pub(crate) fn find<'a>(part: &MappedPart<'a>, index: usize, seq: u64) -> Result<Found<'a>> {
    let segment = part.segment;
    let rank = seq - segment.base_seq();
    let stretch = known_stretch(&mut segment.index(), part, rank)?;
    let told = stretch.told(rank).and_then(|at| Some((at, verify(part, at, seq).ok()?)));
    let (at, header) = match told {
        Some(found) => found,
        // Either it has to be walked to, or it is damaged: what is damaged in front of it is said first then, as if its
        // place had not been told.
        None => {
            let at = walk(part, &stretch, rank)?;
            (at, verify(part, at, seq)?)
        }
    };
    Ok(Found::of(part, Located { index, at, header }))
}

/// The stretch of the `rank`th record of `part`, walking on from what `index` knows if need be.
pub(crate) fn known_stretch(index: &mut SparseIndex, part: &MappedPart<'_>, rank: u64) -> Result<Stretch> {
    while !index.knows(rank) {
        let Place { offset, rank } = index.next();
        let header = verify(part, offset, part.segment.base_seq() + rank)?;
        index.learn(header.frame_size());
    }
    Ok(index.stretch(rank, part.end.place()))
}

/// Where the record `wanted` of `part` stands, counted from its first, going there from the front of its `stretch` over
/// whole headers.
fn walk(part: &MappedPart<'_>, stretch: &Stretch, wanted: u64) -> Result<usize> {
    let mut place = stretch.first();
    let about = if stretch.mean_size() <= SHORT { stretch.about_behind(wanted) } else { place.offset };
    let (mut held, mut fetched) = (place.offset, place.offset);
    while place.rank < wanted {
        touch();
        let Place { offset, rank } = place;
        if offset + HEADER > held {
            part.bring_in(offset, (offset + HEADER).min(part.end.offset))?;
            held = part.mapping.held_to(offset);
        }
        if offset >= fetched {
            fetched = about.min(held).min(offset + TOGETHER);
            fetch(part.frames, offset, fetched);
        }
        let seq = part.segment.base_seq() + rank;
        let behind = frame::pass(part.frames, offset, seq).ok_or_else(|| damaged(part, offset, seq))?;
        place = Place { offset: behind, rank: rank + 1 };
    }
    Ok(place.offset)
}

/// Has memory give the bytes from `from` to `to` together: each header says where the next one is, and a walk would wait
/// for one after the other.
fn fetch(frames: &[u8], from: usize, to: usize) {
    let index = |offset: usize| offset.saturating_sub(FRAMES_AT);
    let bytes = frames.get(index(from)..index(to.max(from))).unwrap_or_default();
    for byte in bytes.iter().step_by(LINE) {
        std::hint::black_box(*byte);
    }
}

#[cfg(test)]
mod tests {
    //! What a lookup says of where a record stands, in logs appended to in all ways, also while they are, and in front of
    //! payloads that were made to be taken for records. How many headers it looks at: see the tests of the view.
    use std::collections::BTreeMap;
    use std::ops::Range;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::error::Error;
    use crate::format::frame::Header;
    use crate::view::{Forward, View};
    use crate::{Background, Options, Reader, Snapshot, SyncMode, Wal};

    fn open(dir: &tempfile::TempDir, segment: u64, index_memory: usize) -> Wal {
        let options = Options::new().segment_size(segment).index_memory(index_memory);
        options.background(Background::Caller).sync_mode(SyncMode::None).open(dir.path()).expect("a log")
    }

    fn append(wal: &Wal, payload: &[u8]) {
        wal.append(payload).expect("an append");
    }

    /// Where a record of segment `index` is said to stand, if that can be told.
    fn told(view: &View, index: usize, seq: u64) -> Option<usize> {
        let part = view.part(index).expect("a map");
        let rank = seq - part.segment.base_seq();
        let stretch = known_stretch(&mut part.segment.index(), &part, rank).expect("no damage");
        stretch.told(rank)
    }

    /// What is told of the places of all records is where a replay comes by them.
    fn told_truly(snapshot: &Snapshot) {
        let view = snapshot.view();
        let (mut cursor, mut part) = (Forward::pinning(view, 0).expect("a cursor"), None);
        while let Some(step) = cursor.advance(view, &mut part) {
            let Located { index, at, header } = step.expect("no damage").place;
            let told = told(view, index, header.seq);
            assert!(told.is_none_or(|told| told == at), "{told:?} for {} at {at}", header.seq);
            let found = find(&view.part(index).expect("a map"), index, header.seq).expect("no damage");
            assert_eq!(found.place.at, at);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_is_told_is_where_a_replay_comes_by_however_it_was_appended(
            runs in vec((1..150_usize, 0..5_usize, 0..6_u8), 1..30),
            memory in prop_oneof![Just(0), 30..300_usize, Just(1 << 20)],
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let wal = open(&dir, 24 << 10, memory);
            let mut snapshots = vec![];
            for (count, words, how) in runs {
                let len = |n: usize| if how % 3 == 0 { (words + n % 2 * 2) * 8 } else { words * 8 };
                match how {
                    0 | 1 => (0..count).for_each(|n| append(&wal, &vec![1; len(n)])),
                    2 => (0..count).for_each(|n| {
                        let filled = wal.append_with(len(n) + 100, |_| Ok::<_, ()>(len(n))).expect("an append");
                        assert!(filled.is_ok() && wal.append_with(9, |_| Err::<usize, _>(())).expect("a log").is_err());
                    }),
                    _ => {
                        let batch: Vec<_> = (0..count).map(|n| vec![1; len(n)]).collect();
                        drop(wal.submit_batch(&batch).expect("a batch"));
                    }
                }
                snapshots.push(wal.snapshot());
            }
            for snapshot in &snapshots {
                told_truly(snapshot);
            }
            drop((snapshots, wal));
            told_truly(&open(&dir, 24 << 10, memory).snapshot());
            told_truly(&Reader::open(dir.path()).expect("a reader").snapshot().expect("a snapshot"));
        }
    }

    #[test]
    fn what_is_told_beside_a_writer_is_true_of_all_that_is_shown() {
        const COUNT: u64 = 30_000;
        // In turns of one size, and every now and then a record of another.
        let len = |rank: u64| if rank % 97 == 96 { 40 } else { 16 + (rank / 300 % 3) as usize * 8 };
        let mut places = vec![FRAMES_AT];
        places.extend((0..COUNT).scan(FRAMES_AT, |at, rank| {
            *at += HEADER + len(rank);
            Some(*at)
        }));
        let dir = tempfile::tempdir().expect("a directory");
        let (wal, written) = (open(&dir, 4 << 20, 1 << 20), AtomicBool::new(false));
        let check = |snapshot: &Snapshot| {
            let last = snapshot.last_seq();
            let all = last.saturating_sub(200).max(1)..=last;
            all.filter(|seq| {
                let told = told(snapshot.view(), 0, *seq);
                told.inspect(|at| assert_eq!(*at, places[*seq as usize - 1], "{seq} of {last}")).is_some()
            })
            .count()
        };
        std::thread::scope(|scope| {
            let looker = scope.spawn(|| {
                let (mut earlier, mut count) = (wal.snapshot(), 0);
                while !written.load(Ordering::Relaxed) {
                    let now = wal.snapshot();
                    count += check(&now) + check(&earlier);
                    earlier = now;
                }
                count
            });
            (0..COUNT).for_each(|rank| append(&wal, &vec![7; len(rank)]));
            written.store(true, Ordering::Relaxed);
            looker.join().expect("true places");
        });
        // Of the last stretches those are told in which no record is of another size.
        assert!(check(&wal.snapshot()) > 60);
    }

    /// Frames of 224 and of 32 bytes, by turns of `turn` records, of which 128 bytes is the mean.
    fn sizes(turn: usize) -> Vec<usize> {
        (0..1000).map(|rank| if (rank / turn).is_multiple_of(2) { 224 } else { 32 }).collect()
    }

    const MEAN: usize = 128;

    /// Payloads for frames of these sizes, with a frame that verifies wherever one would stand if all frames were of the
    /// mean size, as far as that is in a payload.
    fn crafted(sizes: &[usize], salt: u32) -> Vec<Vec<u8>> {
        const FORGED: usize = 32;
        let mut at = FRAMES_AT;
        let mut payload_of = |size: usize| {
            let mut payload = vec![0; size - HEADER];
            let inside = at + HEADER..at + size;
            for rank in (inside.start - FRAMES_AT).div_ceil(MEAN)..1000 {
                let place = FRAMES_AT + rank * MEAN;
                if place + FORGED > inside.end {
                    break;
                }
                let header = Header::new(place, (FORGED - HEADER) as u32, rank as u64 + 1, None, true, 0);
                frame::seal(&mut payload[place - inside.start..][..FORGED], &header, place, salt);
            }
            at += size;
            payload
        };
        sizes.iter().map(|size| payload_of(*size)).collect()
    }

    #[test]
    fn a_frame_in_a_payload_is_never_shown_wherever_it_stands() {
        for (turn, index_memory) in [(1, 1 << 20), (2, 1 << 20), (64, 1 << 20), (64, 32), (128, 16), (1, 0)] {
            let dir = tempfile::tempdir().expect("a directory");
            let wal = open(&dir, 256 << 10, index_memory);
            let salt = wal.snapshot().view().segments[0].salt();
            let payloads = crafted(&sizes(turn), salt);
            payloads.iter().for_each(|payload| append(&wal, payload));
            let whole = wal.snapshot();
            let frames = whole.view().part(0).expect("a map").frames;
            let verifies = |rank: &usize| {
                let found = frame::decode(frames, FRAMES_AT + rank * MEAN, salt);
                found.is_some_and(|header| header.len == 8 && header.seq == *rank as u64 + 1)
            };
            assert!((0..1000).filter(verifies).count() > 200);
            let reader = Reader::open(dir.path()).expect("a reader");
            for snapshot in [wal.snapshot(), reader.snapshot().expect("a snapshot")] {
                // Once with what is walked through for the first time, and once more.
                for seq in (1..=1000).rev().chain(1..=1000) {
                    let record = snapshot.get(seq).expect("no damage").expect("a record");
                    assert_eq!((record.seq(), record.payload()), (seq, &payloads[seq as usize - 1][..]));
                    let next =
                        snapshot.replay(seq - 1).expect("a replay").next().expect("a record").expect("no damage");
                    assert_eq!(next.payload(), record.payload());
                    let last = snapshot.replay_back(seq + 1).expect("a replay").next().expect("a record");
                    assert_eq!(last.expect("no damage").payload(), record.payload());
                }
            }
        }
    }

    /// The only segment file of a log.
    fn segment_file(dir: &tempfile::TempDir, view: &View) -> std::fs::File {
        let name = crate::segment::file_name(view.segments[0].ordinal());
        std::fs::File::options().write(true).open(dir.path().join(name.as_str())).expect("a segment")
    }

    #[test]
    fn a_damaged_record_among_others_of_its_size_is_reported_as_if_it_had_been_walked_to() {
        const SIZE: usize = HEADER + 40;
        let at = |seq: u64| FRAMES_AT + (seq - 1) as usize * SIZE;
        let dir = tempfile::tempdir().expect("a directory");
        let wal = open(&dir, 256 << 10, 1 << 20);
        (0..200).for_each(|_| append(&wal, &[7; 40]));
        let snapshot = wal.snapshot();
        let file = segment_file(&dir, snapshot.view());
        let damage = |bytes: Range<usize>| file.write_all_at(&[0xff; 8][..bytes.len()], bytes.start as u64);
        // A payload, the length in front of another one, and a number.
        damage(at(20) + HEADER..at(20) + HEADER + 1).expect("a write");
        damage(at(70) + 4..at(70) + 8).expect("a write");
        damage(at(80) + HEADER..at(80) + HEADER + 1).expect("a write");
        damage(at(150) + 8..at(150) + 16).expect("a write");
        let expected = BTreeMap::from([(20, at(20)), (70, at(70)), (80, at(70)), (150, at(150))]);
        for seq in 1..=200 {
            match (snapshot.get(seq), expected.get(&seq)) {
                (Ok(Some(record)), None) => assert_eq!((record.seq(), record.payload()), (seq, &[7; 40][..])),
                (Err(Error::Corrupt(said)), Some(at)) => assert_eq!(said.offset, *at as u64),
                (got, _) => panic!("{got:?} for {seq}"),
            }
            let first = snapshot.replay(seq - 1).and_then(|mut replay| replay.next().expect("a record"));
            match (first, expected.get(&seq)) {
                (Ok(record), None) => assert_eq!(record.seq(), seq),
                (Err(Error::Corrupt(said)), Some(_)) => assert!(said.offset <= at(seq) as u64),
                (got, _) => panic!("{got:?} for a replay from {seq}"),
            }
        }
    }
}
