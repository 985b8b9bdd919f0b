//! Directories made of an input, with every checksum right unless the input says otherwise, so that what checksums guard
//! is reached.

use std::fs;
use std::path::Path;

use crate::fixture::{segment, write_files};
use crate::place::clear;
use crate::reference::Files;
use crate::reference::build::{self, COMMIT, Entry, LOG_ID, Manifest, NO_CLAIM, Segment};
use crate::reference::crc::salted;
use crate::steps::Step;

/// What stands in a directory.
#[derive(Clone, Debug)]
pub struct Directory {
    pub files: Files,
    /// Names that are no regular files.
    pub odd: Vec<(String, Odd)>,
    /// Open it strictly first.
    pub strict: bool,
    /// Make a log if there is none.
    pub create: bool,
    /// Pages of frames of new segments.
    pub pages: u8,
    /// Whether it may contradict itself with checksums that are right.
    pub crafted: bool,
}

/// What stands in the place of a file.
#[derive(Clone, Copy, Debug)]
pub enum Odd {
    /// A link to a regular file of the directory.
    Link,
    /// A link to nothing.
    Dangling,
    Directory,
}

/// What a step does. Kinds not named here do what [`FRAME`] does.
pub const SEGMENT: u8 = 0;
pub const FRAME: u8 = 1;
pub const FRAME_AT: u8 = 2;
pub const SKIP: u8 = 3;
pub const BEGUN: u8 = 4;
pub const DURABLE: u8 = 5;
pub const PUBLISHED: u8 = 6;
pub const HEADERS: u8 = 7;
pub const MANIFEST_FIELD: u8 = 8;
pub const ENTRY_FIELD: u8 = 9;
pub const SLOT: u8 = 10;
pub const IDENTITY: u8 = 11;
pub const DAMAGE: u8 = 12;
pub const LENGTH: u8 = 13;
pub const NAME: u8 = 14;
pub const SETUP: u8 = 15;
/// So many kinds there are.
pub const KINDS: u8 = 16;

/// The most segments: enough for two sealed ones, the active one and spares.
const SEGMENTS: usize = 6;
/// The largest file that a lie about a length makes.
const LONGEST: u64 = 1 << 20;
const FRAMES_AT: usize = 8192;

/// A directory that is being built.
#[derive(Default)]
struct Builder {
    entries: Vec<Entry>,
    segments: Vec<Segment>,
    /// The seq that the next frame has, if it does not lie.
    expected: u64,
}

/// The directory that `steps` describe.
pub fn structured(steps: &[Step]) -> Directory {
    let of = |kinds: &'static [u8]| steps.iter().filter(move |step| kinds.contains(&(step.kind % KINDS)));
    let mut builder = Builder { expected: 1, ..Builder::default() };
    steps.iter().filter(|step| step.kind % KINDS <= HEADERS).for_each(|step| builder.step(step));
    builder.seal_last();
    let mut manifest = Manifest::of(&builder.entries);
    of(&[MANIFEST_FIELD, ENTRY_FIELD]).for_each(|step| set_field(&mut manifest, step));
    of(&[IDENTITY]).for_each(|step| builder.set_identity(step));
    let mut files = build::leftovers(&builder.segments);
    let slots = of(&[SLOT]).fold(two_slots(&manifest), |slots, step| set_slots(slots, &manifest, step));
    files.insert("MANIFEST".into(), slots);
    of(&[DAMAGE]).for_each(|step| damage(&mut files, step));
    of(&[LENGTH]).for_each(|step| set_length(&mut files, step));
    let mut directory = Directory { files, odd: Vec::new(), strict: false, create: false, pages: 0, crafted: true };
    of(&[NAME]).for_each(|step| directory.name(step));
    for step in of(&[SETUP]) {
        (directory.strict, directory.create) = (step.a & 1 != 0, step.a & 2 != 0);
        directory.pages = step.b as u8 % 4;
    }
    directory
}

/// The input itself as a MANIFEST and two segments.
pub fn raw(input: &[u8]) -> Directory {
    let third = input.len() / 3;
    let part = |bytes: &[u8]| {
        let mut file = bytes[..bytes.len().min(32 << 10)].to_vec();
        // Lengths that are pages get further.
        file.resize(file.len().next_multiple_of(4096), 0);
        file
    };
    let files = [
        ("MANIFEST".to_owned(), part(&input[..third])),
        (segment(1), part(&input[third..2 * third])),
        (segment(2), part(&input[2 * third..])),
    ];
    Directory { files: files.into(), odd: Vec::new(), strict: false, create: false, pages: 0, crafted: true }
}

/// One of the values that code may not expect, or one near the honest one.
fn value(step: &Step, honest: u64) -> u64 {
    let x = u64::from(step.x);
    match step.a & 7 {
        0 => honest.wrapping_add(x & 0xFF),
        1 => honest.wrapping_sub(x & 0xFF),
        2 => x,
        3 => (1_u64 << 63).wrapping_sub(x & 0xFF),
        4 => (1 << 62) + x,
        5 => u64::MAX - (x & 0xFF),
        6 => x << 3,
        _ => x << 32,
    }
}

impl Builder {
    fn step(&mut self, step: &Step) {
        if step.kind % KINDS == SEGMENT && self.segments.len() < SEGMENTS {
            return self.add_segment(step);
        }
        if self.segments.is_empty() {
            self.add_segment(&Step::new(SEGMENT, 1, 0, 0));
        }
        let last = self.segments.len() - 1;
        let segment = &mut self.segments[last];
        let capacity = segment.bytes.len();
        match step.kind % KINDS {
            FRAME_AT => self.add_frame(step, FRAMES_AT + step.x as usize * 8 % (capacity - FRAMES_AT), false),
            SKIP => segment.next = (segment.next + usize::from(step.b) % 512 * 8).min(capacity),
            BEGUN => {
                let base = if step.a & 8 != 0 { self.entries[last].base_seq } else { self.expected };
                segment.put_word([4160, 4672][usize::from(step.b & 1)], value(step, base));
            }
            DURABLE => {
                let honest = if step.a & 8 != 0 { FRAMES_AT } else { segment.next };
                segment.put_word([4224, 4736][usize::from(step.b & 1)], value(step, honest as u64));
            }
            PUBLISHED => {
                let word = value(step, segment.next as u64) | u64::from(step.b & 3) << 62;
                segment.put(4096, &word.to_le_bytes());
            }
            HEADERS => self.add_headers(step),
            _ => self.add_frame(step, self.segments[last].next, true),
        }
    }

    /// Seals the segment before if it is one to seal, and adds another.
    fn add_segment(&mut self, step: &Step) {
        self.seal_last();
        let ordinal = self.entries.len() as u64 + 1;
        let gap = if step.x % 4 == 3 { u64::from(step.x % 64) } else { 0 };
        let base_seq = self.expected.wrapping_add(gap);
        let has_active = self.entries.iter().any(|entry| entry.base_seq != 0 && entry.end_offset == 0);
        let base_seq = if has_active { 0 } else { base_seq };
        let pages = 3 + usize::from(step.b) % 6;
        // A sealed one is told from the active one by an end, which is put right when it is sealed.
        let end_offset = if step.a & 1 == 0 && base_seq != 0 { 8 } else { 0 };
        let flags = u32::from(step.a & 2 != 0);
        let entry = Entry { flags, capacity: pages * 4096, end_offset, ..Entry::active(ordinal, base_seq) };
        if base_seq != 0 {
            self.expected = base_seq;
        }
        self.segments.push(Segment::of(&entry));
        self.entries.push(entry);
    }

    fn seal_last(&mut self) {
        let Some((entry, segment)) = self.entries.last_mut().zip(self.segments.last()) else { return };
        if entry.end_offset == 8 {
            (entry.end_offset, entry.last_seq) = (segment.next as u64, self.expected.wrapping_sub(1));
        }
    }

    /// A frame whose checksum is right, at `at`; the next one follows it if it is `in_line`.
    fn add_frame(&mut self, step: &Step, at: usize, in_line: bool) {
        let last = self.segments.len() - 1;
        let segment = &mut self.segments[last];
        let Some(room) = segment.bytes.len().checked_sub(at + 24) else { return };
        let len = usize::from(if step.b & 0xC000 == 0xC000 { step.b & 0x3FFF } else { step.b & 0xFF }).min(room & !7);
        let lie = step.x >> 24;
        let seq = if lie < 192 { self.expected } else { self.expected.wrapping_add(u64::from(lie)).wrapping_sub(224) };
        let back = claimed_back(step, at);
        let strange = [(step.x >> 16) as u8 & 3, (step.x >> 18) as u8 & 3];
        let flags = if step.a & 0x80 != 0 { strange } else { [COMMIT & (step.a ^ 1), 0] };
        let payload = payload(segment.salt, at, len, seq, step);
        let frame = build::frame(segment.salt, at, seq, back, flags, (step.x >> 8) as u16, &payload);
        segment.put(at, &frame);
        if in_line {
            segment.next = at + frame.len();
            self.expected = seq.wrapping_add(1);
        }
    }

    /// Headers that pass every test but that of the checksum, each of a frame that reaches far: what makes a search that
    /// hashes each of them take a time that is quadratic.
    fn add_headers(&mut self, step: &Step) {
        let last = self.segments.len() - 1;
        let segment = &mut self.segments[last];
        let from = if step.a & 1 == 0 { segment.next } else { segment.next + 24 };
        let end = segment.bytes.len();
        for at in (from..end).step_by(24).take(usize::from(step.b) % 512).take_while(|at| at + 24 <= end) {
            let reach = if step.a & 2 == 0 { end - at - 24 } else { (end - at - 24).min(step.x as usize & 0xFFFF) };
            let mut header = build::frame(segment.salt, at, self.expected, NO_CLAIM, [COMMIT, 0], 0, b"");
            header[4..8].copy_from_slice(&(reach as u32).to_le_bytes());
            segment.put(at, &header);
        }
    }

    /// A copy of an identity that verifies and says something else.
    fn set_identity(&mut self, step: &Step) {
        let index = usize::from(step.b >> 1) % SEGMENTS;
        let Some((entry, segment)) = self.entries.get(index).zip(self.segments.get_mut(index)) else { return };
        let (mut entry, mut log_id) = (entry.clone(), LOG_ID);
        match step.a >> 4 & 3 {
            0 => log_id[0] ^= step.x as u8,
            1 => entry.ordinal = value(step, entry.ordinal),
            2 => entry.salt ^= step.x,
            _ => entry.capacity = value(step, entry.capacity as u64) as usize,
        }
        segment.put([0, 512][usize::from(step.b & 1)], &build::identity(&entry, log_id));
    }
}

fn claimed_back(step: &Step, at: usize) -> u32 {
    match step.a >> 1 & 7 {
        0..=2 => NO_CLAIM,
        3 => 0,
        4 => ((at - FRAMES_AT) / 8) as u32,
        5 => (step.x & 0xFFF).min(((at - FRAMES_AT) / 8) as u32),
        6 => step.x & 0xFFFF,
        _ => step.x,
    }
}

/// Zeros, bytes, or a frame of the place at which it then stands.
fn payload(salt: u32, at: usize, len: usize, seq: u64, step: &Step) -> Vec<u8> {
    match step.a >> 4 & 3 {
        0 => vec![0; len],
        1 if len >= 32 => {
            let mut inner = build::frame(salt, at + 24, seq.wrapping_add(1), 0, [COMMIT, 0], 0, &[9; 8]);
            inner.resize(len, 0);
            inner
        }
        _ => (0..len).map(|i| (i as u8).wrapping_mul(7) ^ step.x as u8).collect(),
    }
}

fn set_field(manifest: &mut Manifest, step: &Step) {
    if step.kind % KINDS == ENTRY_FIELD {
        let index = usize::from(step.b >> 8) % SEGMENTS;
        return manifest.entries.get_mut(index).map(|entry| set_entry_field(entry, step)).unwrap_or_default();
    }
    let frames_end = manifest.entries.iter().map(|entry| entry.end_offset).max().unwrap_or_default();
    match step.b % 9 {
        0 => manifest.generation = value(step, manifest.generation),
        1 => manifest.first_seq = value(step, manifest.first_seq),
        2 => manifest.checkpoint_seq = value(step, manifest.checkpoint_seq),
        3 => manifest.clean_offset = value(step, frames_end),
        4 => manifest.clean_offset = u64::from(step.x % 4096) * 8 + FRAMES_AT as u64,
        5 => manifest.meta = vec![step.x as u8; step.x as usize >> 8 & 0x7FF],
        6 => manifest.version = step.x % 3,
        7 => manifest.features = step.x & 3,
        // An entry that is there twice, or one less.
        _ if step.a & 8 == 0 => drop(manifest.entries.pop()),
        _ => {
            let again = manifest.entries.get(step.x as usize % SEGMENTS).cloned();
            manifest.entries.extend(again.filter(|_| manifest.entries.len() < 2 * SEGMENTS));
        }
    }
}

fn set_entry_field(entry: &mut Entry, step: &Step) {
    match step.b % 7 {
        0 => entry.ordinal = value(step, entry.ordinal),
        1 => entry.salt = value(step, u64::from(entry.salt)) as u32,
        2 => entry.flags = step.x & 3,
        3 => entry.capacity = value(step, entry.capacity as u64) as usize,
        4 => entry.base_seq = value(step, entry.base_seq),
        5 => entry.end_offset = value(step, entry.end_offset),
        _ => entry.last_seq = value(step, entry.last_seq),
    }
}

fn two_slots(manifest: &Manifest) -> Vec<u8> {
    [manifest.slot(), manifest.slot()].concat()
}

/// Slots that differ, slots whose counts lie, and files of other sizes.
fn set_slots(slots: Vec<u8>, manifest: &Manifest, step: &Step) -> Vec<u8> {
    let half = slots.len() / 2;
    let (mut first, mut second) = (slots[..half].to_vec(), slots[half..].to_vec());
    match step.b % 7 {
        0 => second.fill(0),
        1 => first.fill(0),
        2 | 3 => {
            let mut other = manifest.clone();
            other.generation =
                if step.b % 7 == 2 { other.generation.wrapping_add(1) } else { other.generation.wrapping_sub(1) };
            other.checkpoint_seq = value(step, other.checkpoint_seq);
            if step.a & 8 != 0 {
                other.entries.pop();
            }
            second = other.slot();
            second.resize(half, 0);
        }
        4 => lie_about(&mut first, 80, value(step, 0) as u32),
        5 => lie_about(&mut first, 84, value(step, manifest.entries.len() as u64) as u32),
        _ => {
            let len = 4096 << (step.a >> 4 & 3);
            first.resize(len, 0);
            second.resize(len, 0);
        }
    }
    [first, second].concat()
}

/// Another count, and a checksum that is right for it where there is room for one.
fn lie_about(slot: &mut [u8], at: usize, count: u32) {
    slot[at..at + 4].copy_from_slice(&count.to_le_bytes());
    let count_at = |at: usize| u32::from_le_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]) as usize;
    let end = 88 + count_at(80).next_multiple_of(8) + count_at(84) * 48;
    if end + 4 <= slot.len() {
        let crc = salted(0, &slot[..end]);
        slot[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn nth<'a>(files: &'a mut Files, n: usize) -> Option<(&'a String, &'a mut Vec<u8>)> {
    let count = files.len().max(1);
    files.iter_mut().nth(n % count)
}

/// Bytes that are not what they were: one of them, or a sector.
fn damage(files: &mut Files, step: &Step) {
    let Some((_, bytes)) = nth(files, usize::from(step.a & 7)) else { return };
    if bytes.is_empty() {
        return;
    }
    let at = match step.a >> 6 {
        // Most of a file is zeros: where something stands, mostly.
        0 => step.x as usize % bytes.len(),
        1 => step.x as usize % 256 % bytes.len(),
        2 => (4096 + step.x as usize % 1024) % bytes.len(),
        _ => (FRAMES_AT + step.x as usize % 2048) % bytes.len(),
    };
    match step.b >> 8 & 3 {
        0..=1 => bytes[at] ^= step.b as u8 | 1,
        2 => bytes[at - at % 512..].iter_mut().take(512).for_each(|byte| *byte = 0),
        _ => bytes[at] = step.b as u8,
    }
}

/// A page of figures of a living log, with checksums that are right for whatever stands there.
fn figures(step: &Step) -> Vec<u8> {
    let mut page = vec![step.x as u8; 4096];
    page[..16].copy_from_slice(b"MMAPWALS\x01\0\0\0\x07\0\0\0");
    page[32..40].copy_from_slice(&u64::from(step.x >> 8 & 3).to_le_bytes());
    let crc = salted(0, &page[..696]);
    page[696..700].copy_from_slice(&crc.to_le_bytes());
    for slot in page[2048..].chunks_exact_mut(64) {
        let crc = salted(0, &slot[..32]);
        slot[32..36].copy_from_slice(&crc.to_le_bytes());
    }
    page
}

fn set_length(files: &mut Files, step: &Step) {
    let Some((_, bytes)) = nth(files, usize::from(step.a & 7)) else { return };
    let len = match step.b & 3 {
        0 => u64::from(step.x) % LONGEST,
        1 => bytes.len() as u64 + 4096 * (1 + u64::from(step.x) % 4),
        2 => (bytes.len() as u64).saturating_sub(4096 * (1 + u64::from(step.x) % 4)),
        _ => 0,
    };
    bytes.resize(len as usize, 0);
}

impl Directory {
    /// Names that are taken away, that are new, and that stand for something else.
    fn name(&mut self, step: &Step) {
        let n = usize::from(step.a & 7);
        let existing = nth(&mut self.files, n).map(|(name, bytes)| (name.clone(), bytes.clone()));
        let strange = [
            "LOCK",
            "READERS",
            "MANIFEST.tmp",
            "lost+found",
            "+0000000000000000001.wal",
            "99999999999999999999.wal",
            "STATS",
            "18446744073709551615.wal",
        ];
        let chosen = match step.b % 4 {
            0 => existing.as_ref().map(|(name, _)| name.clone()),
            1 => Some(strange[n].to_owned()),
            2 => Some(segment(u64::from(step.x % 16))),
            _ => Some(segment(value(step, 3))),
        };
        let Some(name) = chosen else { return };
        self.odd.retain(|(other, _)| *other != name);
        let odd = match step.b >> 2 & 7 {
            0 => None,
            1 => Some(Odd::Link),
            2 => Some(Odd::Dangling),
            3 => Some(Odd::Directory),
            4 => {
                let bytes = if name == "STATS" { figures(step) } else { vec![step.x as u8; step.x as usize % 20_000] };
                self.files.insert(name, bytes);
                return;
            }
            // A whole segment under another name.
            _ => {
                self.files.extend(existing.map(|(_, bytes)| (name, bytes)));
                return;
            }
        };
        self.files.remove(&name);
        self.odd.extend(odd.map(|odd| (name, odd)));
    }

    /// Makes `place` hold exactly this.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, place: &Path) {
        clear(place);
        write_files(place, &self.files);
        for (name, odd) in &self.odd {
            let path = place.join(name);
            let target = self.files.keys().next().map_or("nothing", String::as_str);
            match odd {
                Odd::Directory => fs::create_dir(path),
                Odd::Link => std::os::unix::fs::symlink(target, path),
                Odd::Dangling => std::os::unix::fs::symlink("nothing there", path),
            }
            .expect("an odd name");
        }
    }

    /// Whether a call may be refused for what is no regular file.
    pub fn is_odd(&self) -> bool {
        self.odd.iter().any(|(name, _)| !name.ends_with(".wal"))
    }
}
