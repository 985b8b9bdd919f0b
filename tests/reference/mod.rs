//! A dumb reader of the format, written from its page (`src/format/mod.rs`) alone and sharing no code with the library:
//! the oracle of the other tests. It looks at every offset and remembers nothing, so that it is easily seen to be right.
#![allow(dead_code, missing_docs)]

pub mod build;
pub mod bytes;
pub mod crc;
pub mod manifest;
pub mod older;
pub mod segment;

use std::collections::BTreeMap;
use std::path::Path;

use manifest::{Entry, Kind, Manifest};
use segment::{FRAMES, Frame, Segment, Walk, identities};

/// The files of one directory: name to bytes.
pub type Files = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rec {
    pub seq: u64,
    pub tag: u16,
    pub payload: Vec<u8>,
}

/// What opening the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing, or only what an unfinished creation leaves.
    NoLog,
    NoManifest,
    Version,
    Missing {
        ordinal: u64,
    },
    Foreign,
    /// The MANIFEST is older than the segments.
    Stale,
    Corrupt {
        ordinal: u64,
        offset: u64,
    },
    Ok {
        tail: Tail,
        cut_ordinal: u64,
        cut_offset: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    Clean,
    Torn,
    EarlierLife,
}

/// A directory as read. From `last_seq` on, fields say something only if the verdict is `Ok`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub verdict: Verdict,
    pub first_seq: u64,
    pub checkpoint_seq: u64,
    pub meta: Vec<u8>,
    pub last_seq: u64,
    /// What replay from `first_seq` shows: the whole batches before the first damage in a sealed segment.
    pub records: Vec<Rec>,
    /// The seqs of those records that end a batch.
    pub batch_ends: Vec<u64>,
    /// The first damage in a sealed segment that is read: `Foreign` or `Corrupt`.
    pub sealed_damage: Option<Verdict>,
    /// First and last seq of every deliberate gap between neighbouring segments, from `first_seq` on.
    pub gaps: Vec<(u64, u64)>,
}

pub fn parse(files: &Files) -> Parsed {
    let Some(bytes) = files.get("MANIFEST") else { return unopened(without_manifest(files)) };
    match manifest::decode(bytes) {
        Ok(manifest) => open(&manifest, files),
        Err(verdict) => unopened(verdict),
    }
}

/// Reads the regular files of `dir`; links and names that are not UTF-8 are no files of a log.
pub fn parse_dir(dir: &Path) -> Parsed {
    let entries = std::fs::read_dir(dir).expect("the directory can be listed").map(|entry| entry.expect("an entry"));
    let regular = entries.filter(|entry| entry.file_type().expect("a file type").is_file());
    parse(
        &regular
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some((name, std::fs::read(entry.path()).expect("the file can be read")))
            })
            .collect(),
    )
}

fn unopened(verdict: Verdict) -> Parsed {
    Parsed {
        verdict,
        first_seq: 0,
        last_seq: 0,
        checkpoint_seq: 0,
        meta: Vec::new(),
        records: Vec::new(),
        batch_ends: Vec::new(),
        sealed_damage: None,
        gaps: Vec::new(),
    }
}

fn without_manifest(files: &Files) -> Verdict {
    let mut segments = files.iter().filter_map(|(name, bytes)| Some((ordinal(name)?, bytes)));
    match segments.all(|(ordinal, bytes)| (1..=2).contains(&ordinal) && holds_nothing(bytes)) {
        true => Verdict::NoLog,
        false => Verdict::NoManifest,
    }
}

fn holds_nothing(bytes: &[u8]) -> bool {
    bytes.iter().skip(4096).all(|byte| *byte == 0)
}

fn file_name(ordinal: u64) -> String {
    format!("{ordinal:020}.wal")
}

fn ordinal(name: &str) -> Option<u64> {
    let ordinal = name.strip_suffix(".wal")?.parse().ok()?;
    // Parsing takes a plus sign and any number of digits: a segment has one name only.
    (file_name(ordinal) == name).then_some(ordinal)
}

/// Where an opened log ends: the unsealed segments that count, the last of them the one that was judged.
struct End<'a> {
    walks: Vec<Walk<'a>>,
    ordinal: u64,
    cut: u64,
    tail: Tail,
    /// The seq expected at the cut.
    e: u64,
    /// Bytes of the judged segment behind the cut.
    room: usize,
}

fn open(manifest: &Manifest, files: &Files) -> Parsed {
    let header = Parsed {
        first_seq: manifest.first_seq,
        checkpoint_seq: manifest.checkpoint_seq,
        meta: manifest.meta.clone(),
        ..unopened(Verdict::NoLog)
    };
    let there = present(manifest, files);
    let segments = there.as_deref().unwrap_or_default();
    let found = there.as_ref().map_err(Clone::clone).and_then(|_| find_end(manifest, segments));
    let place = found.as_ref().ok().map(|end| older::Place { e: end.e, room: end.room });
    let may_be_older = matches!(found, Ok(_) | Err(Verdict::Missing { .. } | Verdict::Corrupt { .. }));
    if may_be_older && older::is_older(manifest, files, place) {
        return Parsed { verdict: Verdict::Stale, ..header };
    }
    match found {
        Err(verdict) => Parsed { verdict, ..header },
        Ok(end) => Parsed {
            verdict: Verdict::Ok { tail: end.tail, cut_ordinal: end.ordinal, cut_offset: end.cut },
            last_seq: end.e - 1,
            gaps: gaps(manifest),
            ..replay(header, manifest, segments, &end)
        },
    }
}

fn present<'a>(manifest: &'a Manifest, files: &'a Files) -> Result<Vec<Segment<'a>>, Verdict> {
    let find = |entry: &'a Entry| {
        let bytes = files.get(&file_name(entry.ordinal)).filter(|bytes| bytes.len() as u64 == entry.capacity);
        bytes.map(|bytes| Segment { entry, bytes }).ok_or(Verdict::Missing { ordinal: entry.ordinal })
    };
    manifest.entries.iter().map(find).collect()
}

fn find_end<'a>(manifest: &Manifest, segments: &[Segment<'a>]) -> Result<End<'a>, Verdict> {
    let unsealed: Vec<_> = segments.iter().filter(|segment| !segment.entry.is_sealed()).collect();
    for segment in &unsealed {
        check_identities(manifest, segment)?;
    }
    let Some((active, spares)) = unsealed.split_first() else { return Err(Verdict::NoManifest) };
    let walk = active.walk(active.entry.base_seq);
    let end = match walk.up_to(manifest.clean_offset) {
        Some(closed) => closed_end(active, closed),
        None => judge_unclosed(active, walk, spares, manifest.clean_offset)?,
    };
    let fits = manifest.first_seq <= end.e && manifest.checkpoint_seq < end.e;
    if fits { Ok(end) } else { Err(Verdict::Corrupt { ordinal: end.ordinal, offset: end.cut }) }
}

/// Refuses a copy of the identity that verifies and is that of another segment.
fn check_identities(manifest: &Manifest, segment: &Segment<'_>) -> Result<(), Verdict> {
    let entry = segment.entry;
    for copy in identities(segment.bytes) {
        if copy.log_id != manifest.log_id {
            return Err(Verdict::Foreign);
        }
        if (copy.salt, copy.ordinal, copy.capacity) != (entry.salt, entry.ordinal, entry.capacity) {
            return Err(Verdict::Corrupt { ordinal: entry.ordinal, offset: 0 });
        }
    }
    Ok(())
}

/// Where a clean close left the log: nothing behind it is looked at, nor any spare.
fn closed_end<'a>(active: &Segment<'a>, closed: Walk<'a>) -> End<'a> {
    let (cut, e, room) = (closed.cut as u64, closed.e, active.bytes.len() - closed.cut);
    End { walks: vec![closed], ordinal: active.entry.ordinal, cut, tail: Tail::Clean, e, room }
}

fn judge_unclosed<'a>(
    active: &Segment<'a>,
    walk: Walk<'a>,
    spares: &[&Segment<'a>],
    clean_offset: u64,
) -> Result<End<'a>, Verdict> {
    match choose_spare(active, &walk, spares)? {
        None => judge(active, vec![walk], clean_offset),
        // A clean offset speaks of the active segment only.
        Some((spare, base)) => judge(spare, vec![walk, spare.walk(base)], 0),
    }
}

/// The spare in which the log goes on, with its base, or none if the active segment N is the one to judge.
fn choose_spare<'s, 'a>(
    active: &Segment<'a>,
    walk: &Walk<'a>,
    spares: &[&'s Segment<'a>],
) -> Result<Option<(&'s Segment<'a>, u64)>, Verdict> {
    let rest_of_active = active.bytes.len() - walk.cut;
    let touched: Vec<_> = spares
        .iter()
        .map(|spare| (*spare, spare.begun(), claim(spare, rest_of_active, walk.e)))
        .filter(|(_, begun, claim)| begun.is_some() || claim.is_some())
        .collect();
    let corrupt = |segment: &Segment<'_>, offset: usize| {
        Err(Verdict::Corrupt { ordinal: segment.entry.ordinal, offset: offset as u64 })
    };
    if let Some((second, ..)) = touched.get(1) {
        return corrupt(second, FRAMES);
    }
    let Some(&(spare, begun, claim)) = touched.first() else { return Ok(None) };
    match begun.map(|base| (base, walk.e.cmp(&base))) {
        None if claim > Some(8192) => corrupt(spare, FRAMES),
        // Nothing of the spare was synced, or `begun` would be there.
        None => Ok(None),
        Some((_, std::cmp::Ordering::Greater)) => Err(Verdict::Stale),
        Some((base, std::cmp::Ordering::Less)) if base - walk.e > (rest_of_active / 24) as u64 => Err(Verdict::Stale),
        // What claims in the spare says that the active segment was whole.
        Some((_, std::cmp::Ordering::Less)) if claim.is_some() => corrupt(active, walk.cut),
        Some((_, std::cmp::Ordering::Less)) => Ok(None),
        Some((base, std::cmp::Ordering::Equal)) => Ok(Some((spare, base))),
    }
}

fn claim(spare: &Segment<'_>, rest_of_active: usize, e: u64) -> Option<u64> {
    let of_frames = spare.possible(FRAMES, rest_of_active, e).iter().filter_map(|frame| frame.claim).max();
    spare.durable().max(of_frames)
}

/// The verdict on the last of `walks`, which is that of `segment`.
fn judge<'a>(segment: &Segment<'a>, walks: Vec<Walk<'a>>, clean_offset: u64) -> Result<End<'a>, Verdict> {
    let Some(&Walk { cut, x, e, .. }) = walks.last() else { return Err(Verdict::NoManifest) };
    let ordinal = segment.entry.ordinal;
    let behind = segment.possible(x, x - cut, e);
    let claimed = behind.iter().filter_map(|frame| frame.claim).max();
    let evidence = segment.durable().max(claimed).max(Some(clean_offset));
    let at = cut as u64;
    if Some(at) < evidence {
        return Err(Verdict::Corrupt { ordinal, offset: at });
    }
    let is_zero_behind = segment.bytes[cut..].iter().all(|byte| *byte == 0);
    let tail = if is_zero_behind {
        Tail::Clean
    } else if cut < x || !behind.is_empty() || segment.entry.is_virgin() {
        Tail::Torn
    } else {
        Tail::EarlierLife
    };
    Ok(End { walks, ordinal, cut: at, tail, e, room: segment.bytes.len() - cut })
}

fn gaps(manifest: &Manifest) -> Vec<(u64, u64)> {
    let neighbours = manifest.entries.windows(2).filter(|pair| pair[1].kind() != Kind::Spare);
    let between = neighbours.map(|pair| (manifest.first_seq.max(pair[0].last_seq + 1), pair[1].base_seq - 1));
    between.filter(|(first, last)| first <= last).collect()
}

fn replay(header: Parsed, manifest: &Manifest, segments: &[Segment<'_>], end: &End<'_>) -> Parsed {
    let mut parsed = header;
    let is_read = |entry: &Entry| entry.is_sealed() && entry.last_seq >= manifest.first_seq && entry.end_offset > 8192;
    for segment in segments.iter().filter(|segment| is_read(segment.entry)) {
        let read = check_identities(manifest, segment).and_then(|()| replay_sealed(&mut parsed, segment));
        if let Err(damage) = read {
            parsed.sealed_damage = Some(damage);
            return parsed;
        }
    }
    show(&mut parsed, end.walks.iter().flat_map(|walk| &walk.committed));
    parsed
}

/// Shows the whole batches of a sealed segment, up to the one that ends it or is damaged.
fn replay_sealed(parsed: &mut Parsed, segment: &Segment<'_>) -> Result<(), Verdict> {
    let Entry { ordinal, base_seq, end_offset, last_seq, .. } = *segment.entry;
    let corrupt = |at: usize| Verdict::Corrupt { ordinal, offset: at as u64 };
    let (mut at, mut expected, mut batch) = (FRAMES, base_seq, Vec::new());
    loop {
        let is_valid = |frame: &Frame<'_>| frame.seq == expected && frame.end as u64 <= end_offset;
        let frame = segment.frame(at).filter(is_valid).ok_or(corrupt(at))?;
        (at, expected) = (frame.end, frame.seq + 1);
        let commit = frame.commit;
        batch.push(frame);
        if commit {
            let (ends, is_last) = (at as u64 == end_offset, expected == last_seq + 1);
            if ends != is_last || expected > last_seq + 1 {
                return Err(corrupt(at));
            }
            show(parsed, &batch);
            batch.clear();
            if ends {
                return Ok(());
            }
        }
    }
}

fn show<'f, 'a: 'f>(parsed: &mut Parsed, frames: impl IntoIterator<Item = &'f Frame<'a>>) {
    for frame in frames.into_iter().filter(|frame| frame.seq >= parsed.first_seq) {
        parsed.records.push(Rec { seq: frame.seq, tag: frame.tag, payload: frame.payload.to_vec() });
        if frame.commit {
            parsed.batch_ends.push(frame.seq);
        }
    }
}
