//! The decoders on any bytes: no panic, what the independent parser decodes and nothing else, and what is decoded is
//! encoded to the same bytes. The search for frames finds what looking at every offset finds.
//!
//! Eight bytes say what is right about the rest, so that more than checksums is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmap_wal::fuzzing;
use mmap_wal_fuzz::bounds::bounded;
use mmap_wal_fuzz::reference::crc::{check, salted};
use mmap_wal_fuzz::reference::manifest;
use mmap_wal_fuzz::reference::manifest::Entry;
use mmap_wal_fuzz::reference::segment::{Segment, identities};
use mmap_wal_fuzz::steps::Step;

const FRAMES_AT: usize = 8192;
const SALT: u32 = 0x1234_5678;

fuzz_target!(|input: &[u8]| {
    let Some((head, bytes)) = input.split_at_checked(Step::LEN) else { return };
    let head = mmap_wal_fuzz::steps::read(head, 1)[0];
    let bytes = &bytes[..bytes.len().min(16 << 10)];
    match head.kind % 4 {
        0 => frames(&head, bytes.to_vec()),
        1 => slot(&head, bytes.to_vec()),
        2 => identity(&head, bytes.to_vec()),
        _ => words(&head, bytes),
    }
});

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Frames at every offset, and the search over them.
fn frames(head: &Step, mut bytes: Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    if head.a & 1 != 0 {
        make_frames_right(&mut bytes, usize::from(head.a >> 1 & 3), head.a & 8 != 0);
    }
    let file = [vec![0; FRAMES_AT], bytes.clone()].concat();
    let entry = Entry {
        ordinal: 1,
        salt: SALT,
        flags: 0,
        capacity: file.len() as u64,
        base_seq: 1,
        end_offset: 0,
        last_seq: 0,
    };
    let segment = Segment { entry: &entry, bytes: &file };
    for at in (FRAMES_AT..file.len() + 16).step_by(4) {
        let found = fuzzing::frame(&bytes, at, SALT).filter(|frame| frame.seq != 0);
        let expected = if at.is_multiple_of(8) { segment.frame(at) } else { None };
        assert_eq!(found.is_some(), expected.is_some(), "a frame at {at}");
        let Some((found, expected)) = found.zip(expected) else { continue };
        assert_eq!(
            (found.seq, found.commit, found.tag, found.claim, &found.payload[..]),
            (expected.seq, expected.commit, expected.tag, expected.claim, expected.payload)
        );
        // Padding is not judged.
        let covered = 24 + found.payload.len();
        assert_eq!(found.encoded[..covered], file[at..at + covered], "the frame at {at} written anew");
    }
    search(head, &bytes, &segment);
}

fn search(head: &Step, bytes: &[u8], segment: &Segment<'_>) {
    let next_seq = u64::from(head.x & 0xFF) + 1;
    let (ahead, above) = (usize::from(head.b) % 4096, usize::from(head.b >> 4) * 8);
    let from = FRAMES_AT + (head.x >> 8) as usize % (bytes.len() + 1) / 8 * 8;
    let found = bounded("a search", bytes.len(), || fuzzing::behind(bytes, SALT, from, (next_seq, ahead, above)));
    let possible = segment.possible(from, ahead, next_seq);
    let claim = possible.iter().filter_map(|frame| frame.claim).filter(|d| *d > above as u64).max();
    assert_eq!(found, (possible.len() as u64, claim.map(|d| d as usize)), "from {from}");
}

/// Makes the checksum right of every frame in a row, and of those that stand in others up to that `depth`; the flags too,
/// unless they are to stay `strange`.
fn make_frames_right(bytes: &mut [u8], depth: usize, strange: bool) {
    for level in (0..=depth).rev() {
        let mut at = 24 * level;
        while let Some(len) = word(bytes, at + 4) {
            let end = at + 24 + len as usize % 1024;
            if end > bytes.len() {
                break;
            }
            let len = (end - at - 24) as u32;
            bytes[at + 4..at + 8].copy_from_slice(&len.to_le_bytes());
            // Numbers that a search may be looking for.
            bytes[at + 9..at + 16].fill(0);
            if !strange {
                (bytes[at + 20], bytes[at + 21]) = (bytes[at + 20] & 1, 0);
            }
            let crc = salted(SALT ^ ((FRAMES_AT + at) / 8) as u32, &bytes[at + 4..end]);
            bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            at = (at + 24 + len as usize).next_multiple_of(8);
        }
    }
}

/// A slot of the manifest, as a whole manifest for the parser.
fn slot(head: &Step, mut bytes: Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4096).max(4096), 0);
    if head.a & 1 != 0 {
        make_slot_right(head, &mut bytes);
    }
    let found = bounded("a slot", bytes.len(), || fuzzing::slot(&bytes));
    let expected = manifest::decode(&[bytes.clone(), vec![0; bytes.len()]].concat()).ok();
    assert_eq!(found.is_some(), expected.is_some(), "{found:?}, should be {expected:?}");
    let Some((found, expected)) = found.zip(expected) else { return };
    assert_eq!(
        (found.generation, found.first_seq, found.checkpoint_seq, found.clean_offset, &found.meta),
        (expected.generation, expected.first_seq, expected.checkpoint_seq, expected.clean_offset, &expected.meta)
    );
    let entries: Vec<_> = expected
        .entries
        .iter()
        .map(|e| (e.ordinal, e.salt, e.is_virgin(), e.capacity, e.base_seq, e.end_offset, e.last_seq))
        .collect();
    assert_eq!(found.entries, entries);
    let meta_end = 88 + found.meta.len();
    let padding_is_zero = bytes[meta_end..meta_end.next_multiple_of(8)].iter().all(|byte| *byte == 0);
    if padding_is_zero {
        assert_eq!(found.encoded, bytes[..found.encoded.len()], "the slot written anew");
    }
}

/// Magic, version and checksum, and entries that are in order to begin with.
fn make_slot_right(head: &Step, bytes: &mut [u8]) {
    bytes[..8].copy_from_slice(b"MMAPWALM");
    bytes[8..16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    let (meta, count) = (usize::from(head.b) % if head.a & 4 != 0 { 2048 } else { 64 }, head.x as usize % 8);
    bytes[80..84].copy_from_slice(&(meta as u32).to_le_bytes());
    bytes[84..88].copy_from_slice(&(count as u32).to_le_bytes());
    let first = 88 + meta.next_multiple_of(8);
    for (i, entry) in bytes[first..].chunks_exact_mut(48).take(count).enumerate() {
        if head.a & 2 != 0 {
            // Small numbers, so that one follows on another.
            [1..8, 9..16, 19..24, 26..32, 34..40, 42..48].into_iter().for_each(|range| entry[range].fill(0));
            entry[17] &= 0xF0;
            entry[16] = 0;
            entry[8] |= 1;
            entry[0] = i as u8;
        }
    }
    let end = first + 48 * count;
    let crc = salted(0, &bytes[..end]);
    bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
}

fn identity(head: &Step, mut bytes: Vec<u8>) {
    bytes.resize(FRAMES_AT, 0);
    if head.a & 1 != 0 {
        bytes[..12].copy_from_slice(b"MMAPWAL\0\x01\0\0\0");
        bytes[56..124].fill(0);
        let crc = salted(0, &bytes[..124]);
        bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    }
    let found: Vec<_> = [0, 512].into_iter().filter_map(|at| Some((at, fuzzing::identity(&bytes[at..])?))).collect();
    let expected = identities(&bytes);
    assert_eq!(found.len(), expected.len());
    for ((at, (salt, log_id, ordinal, capacity, encoded)), expected) in found.iter().zip(&expected) {
        assert_eq!(
            (*salt, *log_id, *ordinal, *capacity),
            (expected.salt, expected.log_id, expected.ordinal, expected.capacity)
        );
        // Reserved bytes are not judged.
        if bytes[at + 56..at + 124].iter().all(|byte| *byte == 0) {
            assert_eq!(*encoded, bytes[*at..at + 128]);
        }
    }
    // Shorter than a copy is none.
    assert_eq!(fuzzing::identity(&bytes[..usize::from(head.b) % 128]), None);
}

fn words(head: &Step, bytes: &[u8]) {
    let mut file = vec![0; FRAMES_AT + 4096];
    for (i, at) in [4160, 4672, 4224, 4736].into_iter().enumerate() {
        let Some(value) = bytes.get(i * 16..i * 16 + 16) else { break };
        file[at..at + 16].copy_from_slice(value);
        if head.a >> i & 1 != 0 {
            let number = u64::from_le_bytes(file[at..at + 8].try_into().expect("eight bytes"));
            file[at + 8..at + 16].copy_from_slice(&check(SALT, number).to_le_bytes());
        }
    }
    let entry = Entry {
        ordinal: 1,
        salt: SALT,
        flags: 0,
        capacity: file.len() as u64,
        base_seq: 0,
        end_offset: 0,
        last_seq: 0,
    };
    let segment = Segment { entry: &entry, bytes: &file };
    let found = fuzzing::words(&file[..FRAMES_AT], SALT, file.len());
    assert_eq!(found, (segment.begun(), segment.durable().map(|d| d as usize)));
}
