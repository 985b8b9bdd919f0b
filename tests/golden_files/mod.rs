//! Logs as committed text, and what makes a log come out the same in every run.
#![allow(dead_code, missing_docs)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use mmap_wal::{Act, Observer};

pub type Files = BTreeMap<String, Vec<u8>>;

/// Random bits and a clock that are the same in every run.
#[derive(Default)]
pub struct Fixed(AtomicU64);

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

pub fn golden(log: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(log)
}

/// Whether the golden files are to be written.
pub fn writing() -> bool {
    std::env::var_os("MMAP_WAL_GOLDEN").is_some_and(|value| value == "write")
}

/// What stands beside a log and is no part of it.
const NO_PART: [&str; 3] = ["LOCK", "READERS", "STATS"];

/// The files of a log.
pub fn files_of(dir: &Path) -> Files {
    let names = std::fs::read_dir(dir).expect("the directory").map(|entry| entry.expect("an entry").file_name());
    let named = names.map(|name| name.into_string().expect("a name")).filter(|name| !NO_PART.contains(&name.as_str()));
    named.map(|name| (name.clone(), std::fs::read(dir.join(&name)).expect("a file"))).collect()
}

/// The length of the file, then every row of 16 bytes that is not zero, with its offset; rows that repeat are one, with
/// their number behind an `x`.
pub fn as_text(bytes: &[u8]) -> String {
    let mut text = format!("length {}\n", bytes.len());
    let rows: Vec<&[u8]> = bytes.chunks(16).collect();
    let mut at = 0;
    while at < rows.len() {
        let count = rows[at..].iter().take_while(|row| **row == rows[at]).count();
        if rows[at].iter().any(|byte| *byte != 0) {
            write!(text, "{:08}", at * 16).expect("a string");
            rows[at].iter().for_each(|byte| write!(text, " {byte:02x}").expect("a string"));
            text.push_str(&if count > 1 { format!(" x{count}\n") } else { "\n".to_owned() });
        }
        at += count;
    }
    text
}

/// The bytes that [`as_text`] was given.
pub fn from_text(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let length = lines.next().and_then(|line| line.strip_prefix("length ")).expect("a length");
    let mut bytes = vec![0; length.parse().expect("a number")];
    for line in lines {
        let (at, row) = line.split_once(' ').expect("an offset");
        let at: usize = at.parse().expect("an offset");
        let (row, count) = row.split_once(" x").unwrap_or((row, "1"));
        let row: Vec<u8> = row.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
        let row = row.repeat(count.parse().expect("a number"));
        bytes[at..at + row.len()].copy_from_slice(&row);
    }
    bytes
}

/// Writes each file as text.
pub fn save(log: &str, files: &Files) {
    let dir = golden(log);
    std::fs::create_dir_all(&dir).expect("the directory");
    for (name, bytes) in files {
        std::fs::write(dir.join(format!("{name}.txt")), as_text(bytes)).expect("a file");
    }
}

/// The committed text files of a log, by the names of the files that they stand for.
pub fn texts(log: &str) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(golden(log)).expect("the directory").map(|entry| entry.expect("an entry"));
    let texts = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().expect("a name").strip_suffix(".txt")?.to_owned();
        Some((name, std::fs::read_to_string(entry.path()).expect("a golden file")))
    });
    texts.collect()
}

/// The files of a committed log.
pub fn load(log: &str) -> Files {
    texts(log).into_iter().map(|(name, text)| (name, from_text(&text))).collect()
}
