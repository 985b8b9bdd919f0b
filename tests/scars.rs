//! Proves that the library and the reference parser read a log alike when it is damaged in several places: random logs at
//! random moments, their sectors mixed with those of other moments, then bytes flipped, sectors lost, swapped and zeroed,
//! words, frames, identities and manifest slots forged with checksums that verify, files cut short or lost. The verdict,
//! the end, the records, the gaps and the damage are the same for a writer, for a reader, and for the parser; an open that
//! fails writes nothing, and a log that opens goes on.
//! Does not prove that what they agree on is right: that is `power_loss`, `flips` and `frozen`.
//!
//! `MMAP_WAL_CASES` sets how many damaged logs are read.
#![allow(missing_docs)]

mod fixture;
mod golden_files;
mod images;
mod reference;
#[allow(dead_code)]
#[path = "simulator/rng.rs"]
mod rng;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use fixture::{FRAMES_AT, SMALLEST, scratch};
use golden_files::{Fixed, files_of};
use images::check_judged;
use mmap_wal::{Act, Background, Observer, Options, SyncMode, Wal};
use reference::build::{self, Entry};
use reference::{Files, Parsed, Verdict, crc, parse};
use rng::Rng;

const CASES: usize = 4_000;
/// How many damaged logs are made of one history.
const EACH: usize = 50;
const SECTOR: usize = 512;
/// The length of a slot, once what is zero anyway is left out.
const SLOT: usize = 4096;

/// Keeps the files as they are before each act that changes something.
struct Moments {
    fixed: Fixed,
    dir: PathBuf,
    taken: Mutex<Vec<Files>>,
}

impl Observer for Moments {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        let changes = matches!(act, Act::Write { .. } | Act::SyncRange { .. } | Act::Link { .. } | Act::Remove { .. });
        if changes && self.dir.join("MANIFEST").exists() {
            self.taken.lock().expect("a lock").push(small(files_of(&self.dir)));
        }
        Ok(())
    }
    fn after(&self, _act: &Act<'_>) {}
    fn random(&self) -> Option<u64> {
        self.fixed.random()
    }
    fn now(&self) -> Option<u64> {
        self.fixed.now()
    }
}

/// With the smallest slots there are.
fn small(mut files: Files) -> Files {
    if let Some(manifest) = files.get_mut("MANIFEST").filter(|manifest| manifest.len() > 2 * SLOT) {
        let half = manifest.len() / 2;
        *manifest = [&manifest[..SLOT], &manifest[half..half + SLOT]].concat();
    }
    files
}

/// What a log looked like, again and again while it lived.
fn history(seed: u64) -> Vec<Files> {
    let (dir, mut rng) = (scratch(), Rng::new(seed));
    let moments = Arc::new(Moments { fixed: Fixed::default(), dir: dir.path().to_owned(), taken: Mutex::default() });
    let mode = if rng.one_in(2) { SyncMode::Sync } else { SyncMode::None };
    let options = Options::new().segment_size(SMALLEST).sync_mode(mode).background(Background::Caller);
    let options = options.spare_segments(1 + rng.below(2));
    let open = || options.open_observed(dir.path(), Some(moments.clone())).expect("a log");
    let mut wal = open();
    for _ in 0..30 {
        if rng.one_in(12) {
            wal.close().expect("a close");
            wal = open();
        }
        step(&wal, &mut rng);
    }
    let mut taken = moments.taken.lock().expect("a lock").clone();
    taken.push(small(files_of(dir.path())));
    taken
}

fn step(wal: &Wal, rng: &mut Rng) {
    let positions = wal.positions();
    let (first, last) = (positions.first, positions.last);
    let some_seq = first.saturating_sub(1) + rng.below((last + 2 - first) as usize) as u64;
    let payload = |rng: &mut Rng| vec![rng.draw() as u8; [0, 5, 40, 700, 1800][rng.below(5)]];
    match rng.below(16) {
        0..=8 => drop(wal.append_tagged(rng.draw() as u16, &[std::io::IoSlice::new(&payload(rng))])),
        9 | 10 => drop(wal.append_batch(&[payload(rng), payload(rng), payload(rng)])),
        11 => drop(wal.sync()),
        12 => drop(wal.truncate_front(some_seq)),
        13 => drop(wal.truncate_back(some_seq)),
        14 => drop(wal.checkpoint(some_seq).and_then(|()| wal.set_meta(&b"a vote"[..rng.below(7)]))),
        _ if rng.one_in(3) => drop(wal.reset(last + 1 + rng.below(3) as u64)),
        _ => drop(wal.maintain()),
    }
}

/// A moment, of which some sectors are those of another one: what a power failure leaves, and worse.
fn mixed(moments: &[Files], rng: &mut Rng) -> Files {
    let at = rng.below(moments.len());
    let mut files = moments[at].clone();
    if rng.one_in(3) {
        return files;
    }
    let other = &moments[(at + rng.below(9)).saturating_sub(4).min(moments.len() - 1)];
    let rarely = 1 + rng.below(6);
    for (name, bytes) in &mut files {
        let Some(from) = other.get(name).filter(|from| from.len() == bytes.len()) else { continue };
        for (sector, from) in bytes.chunks_mut(SECTOR).zip(from.chunks(SECTOR)) {
            if sector != from && rng.one_in(rarely) {
                sector.copy_from_slice(from);
            }
        }
    }
    files
}

/// The segment files, or the manifest now and then.
fn any_file<'f>(files: &'f mut Files, rng: &mut Rng) -> Option<&'f mut Vec<u8>> {
    let names: Vec<String> = files.keys().filter(|name| *name != "MANIFEST" || rng.one_in(3)).cloned().collect();
    if names.is_empty() { None } else { files.get_mut(rng.pick(&names)) }
}

fn any_segment<'f>(files: &'f mut Files, rng: &mut Rng) -> Option<&'f mut Vec<u8>> {
    let names: Vec<String> = files.keys().filter(|name| name.ends_with(".wal")).cloned().collect();
    let named = if names.is_empty() { None } else { files.get_mut(rng.pick(&names)) };
    named.filter(|bytes| bytes.len() >= SMALLEST as usize)
}

/// A sector, of those that hold anything if there is one.
fn any_sector(bytes: &[u8], rng: &mut Rng) -> Option<usize> {
    let used = |at: &usize| bytes[*at..*at + SECTOR].iter().any(|byte| *byte != 0);
    let sectors: Vec<usize> = (0..bytes.len() / SECTOR).map(|i| i * SECTOR).filter(used).collect();
    if sectors.is_empty() { None } else { Some(*rng.pick(&sectors)) }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn salt_of(bytes: &[u8]) -> u32 {
    [0, 512].map(|at| u32::from_le_bytes([bytes[at + 12], bytes[at + 13], bytes[at + 14], bytes[at + 15]]))[0]
}

fn flip(files: &mut Files, rng: &mut Rng) {
    let Some(bytes) = any_file(files, rng) else { return };
    let Some(sector) = any_sector(bytes, rng) else { return };
    let used: Vec<usize> = (sector..sector + SECTOR).filter(|at| bytes[*at] != 0 || at % 97 == 0).collect();
    bytes[*rng.pick(&used)] ^= [1 << rng.below(8), 0xFF][rng.below(2)];
}

fn lose(files: &mut Files, rng: &mut Rng) {
    let Some(bytes) = any_file(files, rng) else { return };
    let Some(sector) = any_sector(bytes, rng) else { return };
    let from = sector + if rng.one_in(2) { 0 } else { rng.below(SECTOR) };
    let to = if rng.one_in(4) { bytes.len() } else { sector + SECTOR };
    bytes[from..to].fill(0);
}

fn swap(files: &mut Files, rng: &mut Rng) {
    let Some(one) = any_file(files, rng).cloned() else { return };
    let Some(two) = any_file(files, rng) else { return };
    let (Some(from), Some(to)) = (any_sector(&one, rng), any_sector(two, rng)) else { return };
    two[to..to + SECTOR].copy_from_slice(&one[from..from + SECTOR]);
}

/// A word that verifies, or a `published`.
fn forge_word(files: &mut Files, rng: &mut Rng, parsed: &Parsed) {
    let Some(bytes) = any_segment(files, rng) else { return };
    let (salt, capacity) = (salt_of(bytes), bytes.len() as u64);
    let at = *rng.pick(&[4160, 4672, 4224, 4736, 4096]);
    let near = (parsed.last_seq + 3).saturating_sub(rng.below(5) as u64);
    let offset = FRAMES_AT + rng.below(((capacity - FRAMES_AT) / 8 + 2) as usize) as u64 * 8;
    let value = match at {
        4160 | 4672 => *rng.pick(&[near, near, near, 0, 1]),
        _ => *rng.pick(&[offset, offset, FRAMES_AT, offset + 1, capacity]),
    };
    put(bytes, at, &value.to_le_bytes());
    if at != 4096 {
        put(bytes, at + 8, &crc::check(salt, value).to_le_bytes());
    }
}

/// A frame that verifies, at the end of the log or anywhere.
fn forge_frame(files: &mut Files, rng: &mut Rng, parsed: &Parsed) {
    let end = match parsed.verdict {
        Verdict::Ok { cut_offset, .. } => cut_offset,
        Verdict::Corrupt { offset, .. } => offset.max(FRAMES_AT),
        _ => FRAMES_AT,
    };
    let Some(bytes) = any_segment(files, rng) else { return };
    let anywhere = FRAMES_AT + rng.below((bytes.len() - FRAMES_AT as usize) / 8) as u64 * 8;
    let at = *rng.pick(&[end, end + 32, FRAMES_AT, anywhere]) as usize;
    let seq = (parsed.last_seq + 5).saturating_sub(rng.below(7) as u64);
    let further = rng.below(600) as u32;
    let back = *rng.pick(&[0, 1, 4, (at as u32 - FRAMES_AT as u32) / 8, further, u32::MAX]);
    let flags = *rng.pick(&[[1, 0], [1, 0], [1, 0], [0, 0], [3, 0], [1, 1]]);
    let payload = vec![7; rng.below(40)];
    let frame = build::frame(salt_of(bytes), at, seq, back, flags, 9, &payload);
    put(bytes, at, &frame);
}

/// A copy of an identity that verifies.
fn forge_identity(files: &mut Files, rng: &mut Rng) {
    let Some(bytes) = any_segment(files, rng) else { return };
    let ordinal = u64::from_le_bytes(std::array::from_fn(|i| bytes[32 + i]));
    let mut entry = Entry { salt: salt_of(bytes), capacity: bytes.len(), ..Entry::active(ordinal, 1) };
    let mut log_id: [u8; 16] = std::array::from_fn(|i| bytes[16 + i]);
    match rng.below(5) {
        0 => entry.salt ^= 1,
        1 => entry.ordinal += 1,
        2 => entry.capacity += 4096,
        3 => log_id[rng.below(16)] ^= 1,
        _ => {}
    }
    put(bytes, [0, 512][rng.below(2)], &build::identity(&entry, log_id));
}

/// A field of a slot, or of both, with a CRC that verifies.
fn forge_manifest(files: &mut Files, rng: &mut Rng) {
    let Some(manifest) = files.get_mut("MANIFEST").filter(|manifest| manifest.len() >= 2 * SLOT) else { return };
    let (which, kind, entry) = (rng.below(4), rng.below(20), rng.below(4));
    let field = match kind {
        0 => (8, 4),
        1 => (12, 4),
        2 | 3 => (16, 8),
        4 | 5 => (56, 8),
        6 => (64, 8),
        7..=10 => (72, 8),
        11 => (84, 4),
        _ => [(0, 8), (8, 4), (12, 4), (16, 8), (24, 8), (32, 8), (40, 8), (24, 8)][kind - 12],
    };
    let change = [1, u64::MAX, 8, 8_u64.wrapping_neg(), 32, FRAMES_AT, 4096, 0][rng.below(8)];
    let set = rng.one_in(3);
    let half = manifest.len() / 2;
    for (index, slot) in manifest.chunks_mut(half).enumerate().filter(|(index, _)| which >= 2 || *index == which) {
        let number = |slot: &[u8], at: usize| u32::from_le_bytes(std::array::from_fn(|i| slot[at + i])) as usize;
        let entries = 88 + number(slot, 80).next_multiple_of(8);
        let base = if kind >= 12 { entries + 48 * entry } else { 0 };
        let at = base + field.0;
        if at + field.1 > SLOT - 4 {
            continue;
        }
        let mut value = [0; 8];
        value[..field.1].copy_from_slice(&slot[at..at + field.1]);
        let value = u64::from_le_bytes(value);
        let value = if set { change } else { value.wrapping_add(change) };
        slot[at..at + field.1].copy_from_slice(&value.to_le_bytes()[..field.1]);
        let end = entries + number(slot, 84).saturating_mul(48);
        if end + 4 <= SLOT && index < 2 {
            let crc = crc::salted(0, &slot[..end]);
            put(slot, end, &crc.to_le_bytes());
        }
    }
}

fn spoil_file(files: &mut Files, rng: &mut Rng) {
    let names: Vec<String> = files.keys().cloned().collect();
    let name = rng.pick(&names);
    let bytes = files.get_mut(name).expect("the file");
    match rng.below(4) {
        0 if name != "MANIFEST" => drop(files.remove(name)),
        1 => bytes.truncate(rng.below(bytes.len() + 1)),
        2 => bytes.truncate(bytes.len() / 8192 * 4096),
        _ => bytes.extend([0; 4096]),
    }
}

fn damage(files: &mut Files, rng: &mut Rng) {
    // Where the log ends is where most is to be got wrong.
    let parsed = parse(files);
    for _ in 0..rng.below(4) {
        match rng.below(24) {
            0..=4 => flip(files, rng),
            5..=7 => lose(files, rng),
            8 | 9 => swap(files, rng),
            10..=13 => forge_word(files, rng, &parsed),
            14..=17 => forge_frame(files, rng, &parsed),
            18 => forge_identity(files, rng),
            19..=22 => forge_manifest(files, rng),
            _ => spoil_file(files, rng),
        }
    }
}

fn kind(parsed: &Parsed) -> String {
    match &parsed.verdict {
        Verdict::Ok { .. } if parsed.sealed_damage.is_some() => "damage in a sealed segment".into(),
        Verdict::Ok { .. } if !parsed.gaps.is_empty() => "gap".into(),
        Verdict::Ok { tail, .. } => format!("{tail:?}"),
        Verdict::Corrupt { .. } => "Corrupt".into(),
        Verdict::Missing { .. } => "Missing".into(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_log_that_is_damaged_in_several_places_is_read_alike_by_everybody() {
    let cases = std::env::var("MMAP_WAL_CASES").ok().map_or(CASES, |text| text.parse().expect("a number of cases"));
    let (dir, mut kinds, mut moments) = (scratch(), BTreeMap::new(), Vec::new());
    for case in 0..cases {
        if case % EACH == 0 {
            moments = history((case / EACH) as u64);
        }
        let mut rng = Rng::new(0x5CA5 ^ (case as u64) << 16);
        let mut files = mixed(&moments, &mut rng);
        damage(&mut files, &mut rng);
        if parse(&files).verdict == Verdict::NoLog {
            continue;
        }
        let parsed = check_judged(dir.path(), &files, rng.one_in(4), |_| Ok(()))
            .unwrap_or_else(|e| panic!("case {case}: {e}\nof a log that is {}", kind(&parse(&files))));
        *kinds.entry(kind(&parsed)).or_insert(0_usize) += 1;
    }
    println!("{kinds:?}");
    let all = ["Clean", "Torn", "EarlierLife", "Corrupt", "Missing", "Foreign", "Version", "NoManifest"];
    let none: Vec<&&str> = all.iter().filter(|kind| !kinds.contains_key(**kind)).collect();
    assert!(cases < CASES || none.is_empty(), "no case came to {none:?}");
}
