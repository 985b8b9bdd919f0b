//! Writes the committed seeds: small inputs that begin where a fuzzer would be long in coming.
//!
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`, with `RUSTFLAGS="--cfg fuzzing"`.

use std::fs;
use std::path::Path;

use mmap_wal_fuzz::directory::*;
use mmap_wal_fuzz::reference::build::{self, Entry};
use mmap_wal_fuzz::steps::{Step, write};
use mmap_wal_fuzz::{damage, history};

fn main() {
    for (target, seeds) in
        [("frame", frame_seeds()), ("recover", recover_seeds()), ("mutate", mutate_seeds()), ("ops", ops_seeds())]
    {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&dir).expect("a directory");
        for (name, bytes) in seeds {
            fs::write(dir.join(name), bytes).expect("a seed");
        }
    }
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn step(kind: u8, a: u8, b: u16, x: u32) -> Step {
    Step::new(kind, a, b, x)
}

/// A segment that will be sealed.
fn sealed() -> Step {
    step(SEGMENT, 0, 0, 0)
}

/// The active segment, or a spare if there is an active one.
fn unsealed(virgin: bool) -> Step {
    step(SEGMENT, if virgin { 3 } else { 1 }, 0, 0)
}

/// Claims of frames: none, everything before it, everything before the segment.
const NO_CLAIM: u8 = 0;
const CLAIM_ALL: u8 = 3 << 1;
const CLAIM_START: u8 = 4 << 1;
/// Leaves the batch open.
const OPEN: u8 = 1;

fn frame(flags: u8, len: u16) -> Step {
    step(FRAME, flags | 0x20, len, 0)
}

fn program(parts: &[&[Step]]) -> Vec<u8> {
    write(&parts.concat())
}

fn recover_seeds() -> Seeds {
    let begun = step(BEGUN, 0, 0, 0);
    let one = [unsealed(true), frame(NO_CLAIM, 5), frame(CLAIM_ALL, 100)];
    let batch = [frame(OPEN, 9), frame(OPEN, 0), frame(NO_CLAIM, 30)];
    let two_sealed = [sealed(), frame(0, 50), frame(OPEN, 3), frame(0, 4), sealed(), frame(0, 200)];
    let spare = [unsealed(true), begun, frame(CLAIM_START, 7)];
    // A real payload, not only a hole: what follows a torn frame.
    let torn = [frame(OPEN, 9), step(SKIP, 0, 4, 0), frame(NO_CLAIM, 3)];
    let lost = [step(SKIP, 0, 8, 0), frame(CLAIM_ALL, 3)];
    let closed = [step(MANIFEST_FIELD, 0, 3, 0), step(MANIFEST_FIELD, 2, 4, 7)];
    // Pages of headers, each of a frame that reaches to the end of the file: hashing each would be quadratic.
    let large = step(SEGMENT, 1, 5, 0);
    let attack = [large, frame(NO_CLAIM, 5), step(HEADERS, 0, 511, 0)];
    let attack_on_spare = [unsealed(false), frame(0, 5), large, step(HEADERS, 1, 511, 0)];
    let nested =
        [unsealed(false), frame(0, 5), step(FRAME_AT, 0x10 | CLAIM_ALL, 255, 64), step(FRAME_AT, 0x10, 90, 90)];
    let mut raw = vec![255];
    let entries = [Entry::active(1, 1), Entry::spare(2)];
    raw.extend(build::Manifest::of(&entries).slot().iter().take(300));
    vec![
        ("empty", Vec::new()),
        ("one-record", program(&[&one])),
        ("batch", program(&[&one, &batch])),
        ("sealed-and-active", program(&[&two_sealed, &one])),
        ("begun-spare", program(&[&two_sealed, &one, &spare])),
        ("spare-begun-by-its-frame", program(&[&one, &[unsealed(true), frame(CLAIM_ALL, 7)]])),
        ("torn-batch", program(&[&one, &torn])),
        ("lost-durable", program(&[&one, &lost])),
        ("durable-word", program(&[&one, &[step(DURABLE, 0, 0, 64), step(PUBLISHED, 0, 2, 0)]])),
        ("closed", program(&[&one, &closed])),
        ("gap", program(&[&two_sealed, &[step(SEGMENT, 1, 0, 43)], &batch])),
        ("earlier-life", program(&[&[unsealed(false)], &batch, &[step(DAMAGE, 0xC0, 0x1FF, 900)]])),
        ("slots-differ", program(&[&one, &[step(SLOT, 8, 2, 0)]])),
        ("counts-lie", program(&[&one, &[step(SLOT, 0, 4, 900), step(SLOT, 2, 5, 0x0FFF_FFFF)]])),
        ("numbers-at-their-end", program(&[&one, &[step(MANIFEST_FIELD, 3, 0, 1)]])),
        ("foreign-identity", program(&[&two_sealed, &one, &[step(IDENTITY, 0, 4, 1)]])),
        ("sealed-identity", program(&[&two_sealed, &one, &[step(IDENTITY, 0x10, 1, 5)]])),
        ("short-file", program(&[&one, &[step(LENGTH, 0, 2, 0)]])),
        ("long-file", program(&[&one, &[step(LENGTH, 0, 1, 0)]])),
        ("no-manifest", program(&[&one, &[step(NAME, 1, 0, 0), step(SETUP, 3, 1, 0)]])),
        ("links-and-directories", program(&[&one, &[step(NAME, 0, 4, 0), step(NAME, 1, 13, 0), step(NAME, 2, 9, 0)]])),
        ("strange-names", program(&[&one, &[step(NAME, 4, 17, 500), step(NAME, 7, 17, 9), step(NAME, 0, 22, 12)]])),
        ("quadratic-search", program(&[&attack])),
        ("quadratic-search-in-a-spare", program(&[&attack_on_spare])),
        ("figures", program(&[&one, &[step(NAME, 6, 17, 0x1FF), step(NAME, 6, 17, 0x100)]])),
        ("frames-in-payloads", program(&[&nested])),
        ("raw", raw),
    ]
}

fn frame_seeds() -> Seeds {
    let entry = Entry::active(1, 1);
    let frames = build::Segment { salt: 0x1234_5678, ..build::Segment::of(&entry) };
    let frames = frames.append(1, b"one").append_claiming(2, 8192).append_open(3, b"open").append(5, &[7; 40]);
    let manifest = build::Manifest {
        meta: b"some meta".to_vec(),
        ..build::Manifest::of(&[Entry::sealed(1, 1, 8256, 2), Entry::active(2, 3), Entry::spare(3).virgin()])
    };
    let of = |kind, a, b, bytes: &[u8]| [write(&[step(kind, a, b, 2)]), bytes.to_vec()].concat();
    let identity = build::identity(&entry, build::LOG_ID);
    let mut headers = Vec::new();
    for at in (0..2040_u32).step_by(24) {
        let mut header = build::frame(1, 8192 + at as usize, 3, u32::MAX, [1, 0], 0, b"");
        header[4..8].copy_from_slice(&(2016 - at).to_le_bytes());
        headers.extend(header);
    }
    vec![
        ("frames", of(0, 0, 0, &frames.bytes[8192..8192 + 240])),
        ("frames-made-right", of(0, 7, 9, &[5; 300])),
        ("quadratic-search", of(0, 0, 0, &headers)),
        ("slot", of(1, 0, 0, &manifest.slot()[..300])),
        ("slot-made-right", of(1, 3, 10, &[0; 400])),
        ("identity", of(2, 0, 100, &identity)),
        ("identity-made-right", of(2, 1, 1, &identity)),
        ("words", of(3, 15, 0, &[8192_u64, 0, 7, 0, 8200, 0, 4, 0].map(u64::to_le_bytes).concat())),
    ]
}

/// Some of everything, in segments that are soon full.
fn life() -> Vec<Step> {
    let appends = [700, 0x7F2, 0xC7D0, 33, 0xE010].map(|len| step(history::APPEND, 0, len, 0));
    let mut steps = appends.to_vec();
    steps.push(step(history::BATCH, 3, 40, 0x0102_0304));
    steps.push(step(history::TAGGED, 0, 90, 77));
    steps.push(step(history::SYNC, 0, 0, 0));
    steps.extend(appends);
    steps
}

fn ops_seeds() -> Seeds {
    let kill = step(history::KILL, 1, 1, 5);
    let reopen = step(history::REOPEN, 0, 0, 3);
    let cut = [step(history::TRUNCATE_BACK, 0, 9, 0), step(history::APPEND, 0, 80, 0)];
    let front = step(history::TRUNCATE_FRONT, 0, 8, 0);
    let reset = [step(history::RESET, 0, 500, 0), step(history::APPEND, 0, 80, 0)];
    let everything: Vec<Step> = (0..history::KINDS).map(|kind| step(kind, 3, 200, 0x0011_2233)).collect();
    vec![
        ("kill", program(&[&life(), &[kill], &life(), &[kill]])),
        ("reopen", program(&[&life(), &[reopen], &life(), &[reopen]])),
        ("cut-and-kill", program(&[&life(), &cut, &[kill], &cut, &[reopen]])),
        ("truncate-and-use-again", program(&[&life(), &[front], &life(), &[front, kill]])),
        ("reset", program(&[&life(), &reset, &[kill], &reset, &[reopen]])),
        ("everything", program(&[&everything, &[kill], &everything])),
    ]
}

fn mutate_seeds() -> Seeds {
    let closed = step(0, 1, 0, 0);
    let killed = step(0, 2, 1, 0);
    let harm = |kind: u8, a: u8, b: u16, x: u32| step(128 + kind, a, b, x);
    let remember = step(127, 0, 0, 0);
    let checkpoint = step(history::CHECKPOINT, 0, 7, 0);
    let cut = step(history::TRUNCATE_BACK, 0, 9, 0);
    let reset = step(history::RESET, 0, 9, 0);
    vec![
        ("whole", program(&[&[killed], &life()])),
        ("closed", program(&[&[closed], &life(), &[checkpoint]])),
        ("flips", program(&[&[killed], &life(), &[harm(damage::FLIP, 0xC1, 1, 300), harm(damage::FLIP, 0xC4, 8, 30)]])),
        ("zeroed-sector", program(&[&[killed], &life(), &[harm(damage::ZERO, 0xC3, 0, 600)]])),
        ("copied-sector", program(&[&[closed], &life(), &[harm(damage::COPY, 0xC2, 1088, 0)]])),
        ("swapped-sectors", program(&[&[killed], &life(), &[harm(damage::SWAP, 0xC2, 1088, 0)]])),
        ("swapped-slots", program(&[&[killed], &life(), &[harm(damage::SLOTS, 0, 0, 0)]])),
        ("stale-manifest", program(&[&[killed], &life(), &[remember], &life(), &[harm(damage::STALE, 0, 0, 0)]])),
        ("stale-segment", program(&[&[killed], &life(), &[remember, cut], &life(), &[harm(damage::STALE, 3, 0, 0)]])),
        (
            "stale-sector",
            program(&[&[killed], &life(), &[remember, reset], &life(), &[harm(damage::STALE, 0xC4, 1, 9)]]),
        ),
    ]
}
