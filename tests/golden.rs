//! Proves that what is written now is version 1 of the format: the files of a log that holds one of everything equal the
//! committed ones to the last byte, and the library and the reference parser read them.
//! Does not prove that the format page describes them, that is `reference_golden`, nor that what was written before is
//! read: that is `frozen`.
//!
//! A writer may come to write other bytes of the same version: `MMAP_WAL_GOLDEN=write cargo test --test golden` writes
//! the files anew. A change that makes `frozen` fail is not of that kind.
#![allow(missing_docs)]

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use golden_files::{Files, Fixed, as_text, files_of, load, save, texts, writing};
use mmap_wal::{Background, Options, Reader, SyncMode, Wal};

mod golden_files;
mod reference;

fn open(dir: &Path) -> Wal {
    let options = Options::new().segment_size(12 << 10).sync_mode(SyncMode::Sync).user_tag(*b"golden user tag.");
    options.background(Background::Caller).open_observed(dir, Some(Arc::new(Fixed::default()))).expect("a log")
}

/// One record of each kind, a batch, a rotation, a checkpoint, a meta and a truncation.
fn write(wal: &Wal) {
    wal.append(b"hi").expect("an append");
    wal.append_batch(&["one", "", "three"]).expect("a batch");
    wal.append_tagged(0xBEEF, &[IoSlice::new(b"tag"), IoSlice::new(b"ged")]).expect("an append");
    wal.append(&[0x5A; 3000]).expect("an append");
    wal.append(&[0xA5; 2000]).expect("an append into the next segment");
    wal.checkpoint(4).expect("a checkpoint");
    wal.set_meta(b"a vote, a term").expect("a meta");
    wal.truncate_front(2).expect("a truncation");
}

fn compare(log: &str, files: &Files) {
    if writing() {
        save(log, files);
    }
    let committed = texts(log);
    assert_eq!(committed.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>(), "{log}");
    for (name, bytes) in files {
        assert_eq!(as_text(bytes), committed[name], "{log}: {name}");
    }
}

fn check_read(log: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let files = load(log);
    for (name, bytes) in &files {
        std::fs::write(dir.path().join(name), bytes).expect("a file");
    }
    let expected: Vec<(u64, u16, Vec<u8>)> = vec![
        (3, 0, Vec::new()),
        (4, 0, b"three".to_vec()),
        (5, 0xBEEF, b"tagged".to_vec()),
        (6, 0, vec![0x5A; 3000]),
        (7, 0, vec![0xA5; 2000]),
    ];
    let parsed = reference::parse(&files);
    let of_reference: Vec<_> =
        parsed.records.into_iter().map(|record| (record.seq, record.tag, record.payload)).collect();
    assert_eq!((of_reference, parsed.checkpoint_seq, &parsed.meta[..]), (expected.clone(), 4, &b"a vote, a term"[..]));
    let snapshot = Reader::open(dir.path()).expect("a reader").snapshot().expect("a view");
    let records = snapshot.replay(0).expect("a replay").map(|record| record.expect("a record"));
    assert_eq!(records.map(|r| (r.seq(), r.tag(), r.payload().to_vec())).collect::<Vec<_>>(), expected, "{log}");
    assert_eq!(open(dir.path()).append(b"on").expect("an append"), 8);
}

#[test]
fn a_log_that_is_open_has_the_bytes_of_version_1() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = open(dir.path());
    write(&wal);
    compare("open", &files_of(dir.path()));
    check_read("open");
}

#[test]
fn a_log_that_was_closed_has_the_bytes_of_version_1() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = open(dir.path());
    write(&wal);
    wal.close().expect("a close");
    compare("closed", &files_of(dir.path()));
    check_read("closed");
}
