//! Proves that the bytes of a log are those of version 1 of the format: files written now equal the committed ones to the
//! last byte, and the committed ones are read, by the library and by the reference parser.
//! Does not prove that the format page describes them: that is `reference_golden`.
//!
//! After a deliberate change of the format, `MMAP_WAL_GOLDEN=write cargo test --test golden` writes the files anew.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mmap_wal::{Act, Background, Observer, Options, Reader, SyncMode, Wal};

mod reference;

/// Random bits and a clock that are the same in every run.
#[derive(Default)]
struct Fixed(AtomicU64);

impl Observer for Fixed {
    fn before(&self, _act: &Act<'_>) -> std::io::Result<()> {
        Ok(())
    }
    fn after(&self, _act: &Act<'_>) {}
    fn random(&self) -> Option<u64> {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        Some(count.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
    fn now(&self) -> Option<u64> {
        Some(1_700_000_000_000_000_000)
    }
}

type Files = BTreeMap<String, Vec<u8>>;

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

fn files_of(dir: &Path) -> Files {
    let names = std::fs::read_dir(dir).expect("the directory").map(|entry| entry.expect("an entry").file_name());
    let named = names.map(|name| name.into_string().expect("a name")).filter(|name| name != "LOCK");
    named.map(|name| (name.clone(), std::fs::read(dir.join(&name)).expect("a file"))).collect()
}

/// Every row of 16 bytes that is not zero, with its offset; the length of the file first.
fn as_text(bytes: &[u8]) -> String {
    let mut text = format!("length {}\n", bytes.len());
    for (row, chunk) in bytes.chunks(16).enumerate().filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0)) {
        write!(text, "{:08}", row * 16).expect("a string");
        chunk.iter().for_each(|byte| write!(text, " {byte:02x}").expect("a string"));
        text.push('\n');
    }
    text
}

fn from_text(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let length = lines.next().and_then(|line| line.strip_prefix("length ")).expect("a length");
    let mut bytes = vec![0; length.parse().expect("a number")];
    for line in lines {
        let mut fields = line.split(' ');
        let at: usize = fields.next().and_then(|at| at.parse().ok()).expect("an offset");
        for (index, byte) in fields.enumerate() {
            bytes[at + index] = u8::from_str_radix(byte, 16).expect("a byte");
        }
    }
    bytes
}

fn golden(log: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(log)
}

fn compare(log: &str, files: &Files) {
    let dir = golden(log);
    if std::env::var_os("MMAP_WAL_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::create_dir_all(&dir).expect("the directory");
        for (name, bytes) in files {
            std::fs::write(dir.join(format!("{name}.txt")), as_text(bytes)).expect("a file");
        }
    }
    for (name, bytes) in files {
        let committed = std::fs::read_to_string(dir.join(format!("{name}.txt"))).expect("a golden file");
        assert_eq!(as_text(bytes), committed, "{log}: {name}");
    }
    let count = std::fs::read_dir(&dir).expect("the directory").count();
    assert_eq!(count, files.len(), "{log} has other files");
}

fn check_read(log: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut files = Files::new();
    for entry in std::fs::read_dir(golden(log)).expect("the directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name").trim_end_matches(".txt").to_owned();
        let bytes = from_text(&std::fs::read_to_string(entry.path()).expect("a golden file"));
        std::fs::write(dir.path().join(&name), &bytes).expect("a file");
        files.insert(name, bytes);
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
