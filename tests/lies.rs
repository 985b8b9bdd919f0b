//! Proves that a MANIFEST or a segment that verifies and lies, as only a crafted one does, is judged and shown as the
//! independent parser says: each case was found by a fuzzer, or is beside one that was.
//! Does not prove anything about files that do not verify: that is `flips`.
#![allow(missing_docs)]

mod fixture;
mod reference;

use fixture::{compare, scratch, shown, write_files};
use mmap_wal::inspect::Log;
use mmap_wal::{Background, Options, Reader, SyncMode};
use reference::build::{Entry, Manifest, Segment, directory};
use reference::{Files, Parsed, Verdict, parse};

/// Looks at `files` as a reader and as a writer; returns what the parser says.
fn agrees(files: &Files) -> Parsed {
    let (dir, parsed) = (scratch(), parse(files));
    write_files(dir.path(), files);
    let snapshot = Reader::open(dir.path()).and_then(|reader| reader.snapshot()).expect("a snapshot");
    compare(&snapshot, &parsed).unwrap_or_else(|e| panic!("reader: {e}"));
    drop(snapshot);
    let options = Options::new().segment_size(12 << 10).sync_mode(SyncMode::None).background(Background::Caller);
    let wal = options.open(dir.path()).expect("the log");
    compare(&wal.snapshot(), &parsed).unwrap_or_else(|e| panic!("writer: {e}"));
    parsed
}

/// A sealed segment of four records, of which 3 and 4 are a batch, and an active one from `base` on with one record.
fn sealed_as(end_offset: u64, last_seq: u64, base: u64) -> Files {
    let entries = [Entry::sealed(1, 1, end_offset, last_seq), Entry::active(2, base)];
    let sealed =
        Segment::of(&entries[0]).append(1, b"one").append(2, b"two").append_open(3, b"open").append(4, b"four");
    directory(&Manifest::of(&entries), &[sealed, Segment::of(&entries[1]).append(base, b"on")])
}

fn seqs(parsed: &Parsed) -> Vec<u64> {
    parsed.records.iter().map(|record| record.seq).collect()
}

#[test]
fn no_record_is_shown_that_the_manifest_does_not_count() {
    let end = 8192 + 4 * 32;
    assert_eq!(seqs(&agrees(&sealed_as(end, 4, 5))), [1, 2, 3, 4, 5]);
    // The third record ends its segment, by the manifest, and the fourth is another one's.
    let parsed = agrees(&sealed_as(end + 64, 3, 4));
    assert_eq!(parsed.sealed_damage, Some(Verdict::Corrupt { ordinal: 1, offset: end }));
    assert_eq!(seqs(&parsed), [1, 2]);
}

#[test]
fn a_batch_that_ends_where_its_segment_should_not_is_not_shown() {
    for (end_offset, last_seq, at) in [(8192 + 96, 1, 8224), (8192 + 64, 1, 8224), (8192 + 640, 4, 8192 + 128)] {
        let parsed = agrees(&sealed_as(end_offset, last_seq, 9));
        assert_eq!(parsed.sealed_damage, Some(Verdict::Corrupt { ordinal: 1, offset: at }), "{end_offset} {last_seq}");
    }
}

#[test]
fn what_is_hidden_is_not_looked_at() {
    let mut files = sealed_as(8192 + 4 * 32, 4, 5);
    let entries = [Entry::sealed(1, 1, 8192 + 4 * 32, 4), Entry::active(2, 5)];
    files.insert("MANIFEST".into(), Manifest { first_seq: 5, ..Manifest::of(&entries) }.file());
    files.get_mut("00000000000000000001.wal").expect("the segment")[8200] ^= 1;
    let parsed = agrees(&files);
    assert_eq!((seqs(&parsed), parsed.sealed_damage), (vec![5], None));
}

#[test]
fn records_of_a_sealed_segment_before_the_front_are_looked_at_and_not_shown() {
    let entries = [Entry::sealed(1, 1, 8192 + 4 * 32, 4), Entry::active(2, 5)];
    let mut files = sealed_as(8192 + 4 * 32, 4, 5);
    files.insert("MANIFEST".into(), Manifest { first_seq: 2, ..Manifest::of(&entries) }.file());
    assert_eq!(seqs(&agrees(&files)), [2, 3, 4, 5]);
    files.get_mut("00000000000000000001.wal").expect("the segment")[8200] ^= 1;
    let parsed = agrees(&files);
    assert_eq!((seqs(&parsed), parsed.sealed_damage), (vec![], Some(Verdict::Corrupt { ordinal: 1, offset: 8192 })));
}

#[test]
fn a_gap_is_shown_once_and_gone_over() {
    let files = sealed_as(8192 + 4 * 32, 4, 9);
    let dir = scratch();
    write_files(dir.path(), &files);
    let snapshot = Reader::open(dir.path()).and_then(|reader| reader.snapshot()).expect("a snapshot");
    assert_eq!(shown(&snapshot).0.len(), 5);
    let gaps = snapshot.replay(0).expect("a replay").filter_map(Result::err);
    assert_eq!(gaps.map(|e| e.to_string()).collect::<Vec<_>>().len(), 1);
    assert_eq!(parse(&files).gaps, [(5, 8)]);
}

#[test]
fn a_repair_makes_no_segment_that_is_longer_than_those_that_are_there() {
    let entry = Entry { capacity: 1 << 30, ..Entry::active(1, 1) };
    let mut files = directory(&Manifest::of(&[entry]), &[Segment::of(&Entry::active(1, 1)).append(1, b"one")]);
    for is_there in [true, false] {
        if !is_there {
            files.remove("MANIFEST");
        }
        let dir = scratch();
        write_files(dir.path(), &files);
        let log = Log::open(dir.path()).expect("the log");
        // Where the segment contradicts the manifest, or is alone, there may be nothing to be done; not at any price.
        if let Ok(plan) = log.plan_repair() {
            let _ = log.repair(&plan);
        }
        let lens = std::fs::read_dir(dir.path()).expect("the directory").map(|entry| {
            let file = entry.expect("an entry");
            (file.file_name(), file.metadata().expect("a file").len())
        });
        for (name, len) in lens {
            assert!(len <= 128 << 10, "{}: {len}", name.display());
        }
    }
}
