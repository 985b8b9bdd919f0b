//! Opens directories made of the input: nothing that stands on a disk may cause a panic, and what was recovered once
//! must be there when the log is opened again.
//!
//! The first byte chooses. Bit 0: the files are the input itself, cut in three. Otherwise the input is a list of changes,
//! five bytes each, to a log that is sound; with bit 1 the checksums are made right again, so that what they guard is
//! reached.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mmap_wal::{Options, Reader, Snapshot, SyncMode};
use tempfile::TempDir;

/// MANIFEST and two segments.
type Files = [Vec<u8>; 3];

const NAMES: [&str; 3] = ["MANIFEST", "00000000000000000001.wal", "00000000000000000002.wal"];
const MAX_FILE: usize = 64 << 10;
/// The places of the format page that are needed to make checksums right.
const ENTRIES: usize = 88;
const ENTRY: usize = 48;
const FRAMES: usize = 8192;
const CHECKED_WORDS: [usize; 4] = [4160, 4224, 4672, 4736];

static SOUND: LazyLock<Files> = LazyLock::new(sound);

fuzz_target!(|data: &[u8]| {
    let Some((&choice, input)) = data.split_first() else { return };
    let files = if choice & 1 != 0 { cut_in_three(input) } else { changed(input, choice & 2 != 0) };
    let dir = fresh_dir();
    for (name, bytes) in NAMES.iter().zip(&files) {
        std::fs::write(dir.path().join(name), bytes).expect("a file");
    }
    if let Ok(snapshot) = Reader::open(dir.path()).and_then(|reader| reader.snapshot()) {
        replay(&snapshot);
    }
    let Some(first) = recovered(dir.path()) else { return };
    assert_eq!(recovered(dir.path()), Some(first), "what was recovered once is there again");
});

fn fresh_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a directory")
}

/// Opens and closes the log; says what it held, if it can be trusted.
fn recovered(dir: &Path) -> Option<(u64, Vec<Vec<u8>>)> {
    // A hostile manifest may ask for a segment of 16 GiB; that it is not there is told before anything is made.
    let wal = Options::new().create(false).segment_size(16 << 10).sync_mode(SyncMode::None).open(dir).ok()?;
    let held = (wal.positions().last, replay(&wal.snapshot()));
    wal.close().expect("a close");
    Some(held)
}

fn replay(snapshot: &Snapshot) -> Vec<Vec<u8>> {
    let Ok(records) = snapshot.replay(0) else { return Vec::new() };
    records.map_while(|record| record.ok().map(|record| record.payload().to_vec())).collect()
}

fn cut_in_three(input: &[u8]) -> Files {
    let third = input.len() / 3;
    let part = |bytes: &[u8]| {
        let mut file = bytes[..bytes.len().min(MAX_FILE)].to_vec();
        // Lengths that are pages get further.
        file.resize(file.len().next_multiple_of(4096), 0);
        file
    };
    [part(&input[..third]), part(&input[third..2 * third]), part(&input[2 * third..])]
}

fn changed(input: &[u8], reseal: bool) -> Files {
    let mut files = SOUND.clone();
    for change in input.chunks_exact(5) {
        let file = &mut files[usize::from(change[0]) % 3];
        let drawn = u32::from_le_bytes([change[1], change[2], change[3], 0]) as usize;
        // Most of a file is zeros: three changes of four go where something stands.
        let at = match change[0] >> 6 {
            0 => drawn % file.len(),
            1 => drawn % 256,
            2 => file.len() / 4 + drawn % 768,
            _ => file.len() / 2 + drawn % 1024,
        };
        file[at] ^= change[4];
    }
    if reseal {
        make_right(&mut files);
    }
    files
}

/// A small log, not closed, with every number that is drawn or read from a clock replaced, so that an input means the
/// same in every run.
fn sound() -> Files {
    let (dir, copy) = (fresh_dir(), fresh_dir());
    let wal = Options::new().segment_size(16 << 10).open(dir.path()).expect("a new log");
    wal.append(b"one").expect("an append");
    wal.append_batch(&["two", "three"]).expect("a batch");
    wal.append(&[4; 600]).expect("an append");
    for name in NAMES {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).expect("a copy");
    }
    let mut files = NAMES.map(|name| std::fs::read(copy.path().join(name)).expect("a file"));
    assert_eq!(recovered(copy.path()).map(|(last, _)| last), Some(4));
    let half = files[0].len() / 2;
    for slot in files[0].chunks_exact_mut(half) {
        slot[24..40].fill(7);
        for (index, salt) in [0x1111_1111_u32, 0x2222_2222].into_iter().enumerate() {
            let at = ENTRIES + ENTRY * index + 8;
            slot[at..at + 4].copy_from_slice(&salt.to_le_bytes());
        }
    }
    for (segment, salt) in [(1, 0x1111_1111_u32), (2, 0x2222_2222)] {
        for at in [0, 512] {
            let identity = &mut files[segment][at..at + 128];
            identity[12..16].copy_from_slice(&salt.to_le_bytes());
            identity[16..32].fill(7);
            identity[48..56].fill(0);
        }
    }
    make_right(&mut files);
    for (name, bytes) in NAMES.iter().zip(&files) {
        std::fs::write(copy.path().join(name), bytes).expect("a file");
    }
    assert_eq!(recovered(copy.path()).map(|(last, _)| last), Some(4), "the log that inputs change is sound");
    files
}

/// Makes the checksums right for whatever stands there.
fn make_right(files: &mut Files) {
    let half = files[0].len() / 2;
    for slot in files[0].chunks_exact_mut(half) {
        let meta = get(slot, 80).min(1024) as usize;
        let end = ENTRIES + meta.next_multiple_of(8) + ENTRY * get(slot, 84).min(64) as usize;
        let crc = crc32fast::hash(&slot[..end]);
        put(slot, end, crc);
    }
    for segment in &mut files[1..] {
        let salt = get(segment, 12);
        for at in [0, 512] {
            let crc = crc32fast::hash(&segment[at..at + 124]);
            put(segment, at + 124, crc);
        }
        for at in CHECKED_WORDS {
            // A word that was never written stays so.
            if segment[at..at + 16] != [0; 16] {
                let crc = salted(salt, &segment[at..at + 8]);
                put(segment, at + 8, crc);
                put(segment, at + 12, !crc);
            }
        }
        let mut at = FRAMES;
        while at + 24 < segment.len() && segment[at..at + 24] != [0; 24] {
            let len = get(segment, at + 4) as usize;
            let Some(frame) = segment.get(at + 4..at + 24 + len) else { break };
            // The CRC of a frame starts from its place too.
            let crc = salted(salt ^ (at / 8) as u32, frame);
            put(segment, at, crc);
            at += (24 + len).next_multiple_of(8);
        }
    }
}

fn salted(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

fn get(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
