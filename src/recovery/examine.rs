//! Where a log ends, found without writing anything: for its writer, and for readers beside a living one.

use crate::blank::Blank;
use crate::error::{Corruption, Error, MissingSegment, Result};
use crate::format::manifest::Entry;
use crate::format::segment::{FRAMES_AT, durable, published};
use crate::identity::check_identity;
use crate::manifest::Manifest;
use crate::map::Map;
use crate::recovery::front::{PIECE, copy, frame_at, front};
use crate::recovery::report::{Cut, TailState};
use crate::recovery::unnamed::{Place, refuse_unnamed, stale_manifest};
use crate::scan::{self, Active, Close, Damage, Front, Judged, Tail, Unsealed, Walk};
use crate::segment::{End, MappedPart, Maps, Segment, file_name, no_room};
use crate::storage::{Listed, Storage, StoredFile};

/// How much of a map is brought in by one call.
const CHUNK: usize = 1 << 20;

/// How segments are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nobody writes: through a map of the whole file.
    Exclusive,
    /// Somebody may be writing: through a copy.
    Shared,
}

/// What is kept of an unsealed segment that was looked at.
pub(crate) struct Image {
    pub(crate) entry: Entry,
    /// The file up to `FRAMES_AT`.
    pub(crate) head: Vec<u8>,
}

/// An unsealed segment while it is looked at.
struct Loaded {
    image: Image,
    /// As far as it was walked when it was read; the body need not hold what is in front of its cut.
    walked: Walk,
    body: Body,
}

enum Body {
    Mapped(Map),
    Copied(Blank),
}

/// Opens a segment that is not sealed; returns the file and what stands in it before the frames.
fn open(storage: &Storage, entry: &Entry, log_id: [u8; 16]) -> Result<(StoredFile, Vec<u8>)> {
    let file = storage.open_read(file_name(entry.ordinal).as_str())?;
    let mut head = vec![0; FRAMES_AT];
    file.read_at(&mut head, 0)?;
    check_identity(file.path(), &head, entry, log_id)?;
    Ok((file, head))
}

/// Maps a whole file that nobody writes.
fn mapped(file: &StoredFile, capacity: usize) -> Result<Map> {
    file.map_read_only(capacity, capacity).map_err(|e| no_room(file.path(), e))
}

/// Walks the frames of `file` that end at or before `end`, of which no byte is kept.
pub(crate) fn walk_file(file: &StoredFile, entry: &Entry, end: usize) -> Result<Walk> {
    let mut buffer = vec![0; PIECE.min(end)];
    scan::walk_pieces(&mut buffer, entry.salt, entry.base_seq, end, |bytes, at| file.read_at(bytes, at as u64))
}

impl Loaded {
    /// Reads a whole segment; what a reader can tell of it at once, if `walks`, it does not keep.
    fn read(storage: &Storage, entry: Entry, log_id: [u8; 16], access: Access, walks: bool) -> Result<Self> {
        let (file, head) = open(storage, &entry, log_id)?;
        let (capacity, mut walked) = (entry.capacity as usize, Walk::front(entry.base_seq));
        let body = match access {
            Access::Exclusive => Body::Mapped(mapped(&file, capacity)?),
            Access::Shared => {
                if walks {
                    walked = walk_file(&file, &entry, capacity)?;
                }
                Body::Copied(copy(&file, walked.cut, capacity)?)
            }
        };
        Ok(Self { image: Image { entry, head }, walked, body })
    }

    /// The bytes of the file from `FRAMES_AT` on.
    fn frames(&self) -> &[u8] {
        match &self.body {
            Body::Mapped(map) => map.prefix(),
            Body::Copied(bytes) => bytes,
        }
    }

    /// Brings the bytes up to `to` in, so that a device that cannot deliver them says so as an error.
    fn bring_in(&self, storage: &Storage, to: usize) -> Result<()> {
        let Body::Mapped(map) = &self.body else { return Ok(()) };
        let path = storage.path(file_name(self.image.entry.ordinal).as_str());
        for at in (FRAMES_AT..to).step_by(CHUNK) {
            storage.populate_read(&path, map, at..(at + CHUNK).min(to))?;
        }
        Ok(())
    }

    fn unsealed(&self) -> Unsealed<'_> {
        Unsealed { head: &self.image.head, frames: self.frames(), entry: self.image.entry }
    }

    /// What stands behind `judged`, which is torn.
    fn cut(&self, judged: &Judged) -> Cut {
        let offset = judged.walk.cut;
        let behind = &self.frames()[offset - FRAMES_AT..];
        Cut {
            segment: self.image.entry.ordinal,
            offset: offset as u64,
            bytes: behind.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1),
            records: judged.frames_cut,
        }
    }
}

/// What was found. No map is left of it, because what follows writes the files.
pub(crate) struct Examined {
    pub(crate) judged: Judged,
    /// Those of `images` that are spares and must not be written with the same salt again. Only looked for where nobody
    /// writes, and not after a clean close, behind which nothing is read.
    pub(crate) used_spares: Vec<usize>,
    /// The active segment, then those spares that were looked at.
    pub(crate) images: Vec<Image>,
    /// What stands behind the end, if that is torn.
    pub(crate) cut: Option<Cut>,
    /// Whether the log was closed where it ends, so that there is nothing to make durable.
    pub(crate) closed: bool,
    pub(crate) bytes_read: u64,
}

impl Examined {
    /// The segment in which the log ends.
    pub(crate) fn last(&self) -> &Image {
        &self.images[self.judged.judged]
    }

    /// Where the log ends in it.
    pub(crate) fn end(&self) -> End {
        let Judged { walk, base_seq, .. } = &self.judged;
        End { offset: walk.cut, count: walk.next_seq - base_seq }
    }

    /// The last seq of the log.
    pub(crate) fn last_seq(&self) -> u64 {
        self.judged.walk.next_seq - 1
    }

    /// The place of the end, and how many bytes of the segment are behind it.
    pub(crate) fn place(&self) -> Place {
        let Judged { walk, .. } = &self.judged;
        Place { next_seq: walk.next_seq, room: self.last().entry.capacity.saturating_sub(walk.cut as u64) }
    }

    /// How it ends.
    pub(crate) fn tail(&self) -> TailState {
        match self.judged.tail {
            Tail::Clean => TailState::Clean,
            Tail::Torn => TailState::Torn,
            Tail::EarlierLife => TailState::EarlierLife,
        }
    }
}

/// Refuses if a segment of `entries` is not among `listed` with its length.
pub(crate) fn check_files(storage: &Storage, entries: &[Entry], listed: &[Listed]) -> Result<()> {
    let lens: std::collections::HashMap<&str, u64> =
        listed.iter().filter(|file| file.is_file).map(|file| (file.name.as_str(), file.len)).collect();
    for entry in entries {
        let name = file_name(entry.ordinal);
        let found_len = lens.get(name.as_str()).copied();
        if found_len != Some(entry.capacity) {
            let path = storage.path(name.as_str());
            let missing = MissingSegment { path, expected_len: entry.capacity, found_len };
            return Err(Error::MissingSegment(Box::new(missing)));
        }
    }
    Ok(())
}

/// Finds where the log ends; `listed` is what stands in the directory.
///
/// # Errors
/// `MissingSegment`, `Corrupt` or `Foreign` for damage, `StaleManifest` if the segments say that the manifest is older, `Io`
/// if something cannot be read.
pub(crate) fn examine(storage: &Storage, manifest: &Manifest, listed: &[Listed], access: Access) -> Result<Examined> {
    let found = check_files(storage, &manifest.entries, listed).and_then(|()| end_of_log(storage, manifest, access));
    let testified = match &found {
        Ok(examined) => return refuse_unnamed(storage, manifest, listed, Some(examined.place())).and(found),
        Err(Error::MissingSegment(_) | Error::Corrupt(_)) => {
            refuse_outlived(storage, manifest, listed).and_then(|()| refuse_unnamed(storage, manifest, listed, None))
        }
        Err(Error::Io(_)) => refuse_unnamed(storage, manifest, listed, None),
        Err(_) => Ok(()),
    };
    match testified {
        Err(stale @ Error::StaleManifest(_)) => Err(stale),
        // What was wrong first is what the caller must hear.
        _ => found,
    }
}

/// As [`examine`], of a log whose sealed segments need not be there.
pub(crate) fn examine_end(
    storage: &Storage,
    manifest: &Manifest,
    listed: &[Listed],
    access: Access,
) -> Result<Examined> {
    match examine(storage, manifest, listed, access) {
        Err(Error::MissingSegment(missing)) => {
            check_files(storage, &manifest.entries[manifest.active_index()..], listed)
                .map_err(|_| Error::MissingSegment(missing))?;
            end_of_log(storage, manifest, access)
        }
        other => other,
    }
}

/// Refuses a manifest that is older than those of the unsealed segments that are there and as it says.
fn refuse_outlived(storage: &Storage, manifest: &Manifest, listed: &[Listed]) -> Result<()> {
    let (entry, header) = (*manifest.active(), &manifest.header);
    let is_there = |entry: &Entry| check_files(storage, &[*entry], listed).is_ok();
    let active = match open(storage, &entry, header.log_id) {
        Ok((file, head)) if is_there(&entry) => {
            let capacity = entry.capacity as usize;
            let durable = durable(&head, entry.salt, capacity);
            let walk = walk_file(&file, &entry, capacity)?;
            let goes_on = goes_on(&file, &entry, header.clean_offset)?;
            Some(Active { durable, goes_on, next_seq: walk.next_seq, room: capacity.saturating_sub(walk.cut) })
        }
        _ => None,
    };
    let mut spares = Vec::new();
    for spare in manifest.spares() {
        spares.push(match open(storage, spare, header.log_id) {
            Ok((file, head)) if is_there(spare) => Some(front(&file, &head, spare.salt, spare.capacity)?),
            _ => None,
        });
    }
    stale(storage, manifest, scan::outlived(entry.base_seq, header.clean_offset, active, &spares))
}

/// The error for what an unsealed segment says against the manifest, if one does.
fn stale(storage: &Storage, manifest: &Manifest, says: Option<(usize, &'static str)>) -> Result<()> {
    let Some((index, reason)) = says else { return Ok(()) };
    let entry = &manifest.entries[manifest.active_index() + index];
    Err(stale_manifest(storage, file_name(entry.ordinal).as_str(), reason))
}

/// Whether a frame verifies at `clean_offset`.
fn goes_on(file: &StoredFile, entry: &Entry, clean_offset: u64) -> Result<bool> {
    let Some(at) = usize::try_from(clean_offset).ok().filter(|at| *at >= FRAMES_AT) else { return Ok(false) };
    Ok(frame_at(file, entry.salt, at, entry.capacity)?.is_some())
}

fn end_of_log(storage: &Storage, manifest: &Manifest, access: Access) -> Result<Examined> {
    match closed(storage, manifest, access)? {
        Some(examined) => in_bounds(storage, manifest, examined),
        None => whole(storage, manifest, access),
    }
}

/// The end of a log that was closed cleanly, of which nothing behind is read.
fn closed(storage: &Storage, manifest: &Manifest, access: Access) -> Result<Option<Examined>> {
    let (entry, clean_offset) = (*manifest.active(), manifest.header.clean_offset);
    let clean = usize::try_from(clean_offset).unwrap_or(0).min(entry.capacity as usize);
    if clean < FRAMES_AT {
        return Ok(None);
    }
    let (file, head) = open(storage, &entry, manifest.header.log_id)?;
    // Whoever closed the log made everything up to there durable, and nobody writes there again: it is looked at where it
    // will be shown.
    let walk = if access == Access::Exclusive || published(&head) >= clean as u64 {
        let end = End { offset: clean, count: 0 };
        let segment = Segment::view(storage, entry, manifest.header.log_id, &Maps::single(), end)?;
        MappedPart::new(&segment, &segment.mapping()?, end).walk(|_| {})?
    } else {
        walk_file(&file, &entry, clean)?
    };
    let Some(judged) = scan::closed_by(walk, &entry, clean_offset) else { return Ok(None) };
    let spares = fronts_of_spares(storage, manifest)?;
    let durable = durable(&head, entry.salt, entry.capacity as usize);
    let goes_on = goes_on(&file, &entry, clean_offset)?;
    let room = entry.capacity.saturating_sub(clean_offset) as usize;
    let active = Active { durable, goes_on, next_seq: judged.walk.next_seq, room };
    stale(storage, manifest, scan::outlived(entry.base_seq, clean_offset, Some(active), &spares))?;
    let bytes_read = judged.walk.cut as u64;
    let (used_spares, images) = (Vec::new(), vec![Image { entry, head }]);
    Ok(Some(Examined { judged, used_spares, images, cut: None, closed: true, bytes_read }))
}

/// The end of a log that was not closed: every byte that is not sealed is evidence.
fn whole(storage: &Storage, manifest: &Manifest, access: Access) -> Result<Examined> {
    let mut loaded = Vec::new();
    for entry in std::iter::once(manifest.active()).chain(manifest.spares()) {
        // Where it begins, the manifest says of the active segment alone.
        let walks = loaded.is_empty();
        loaded.push(Loaded::read(storage, *entry, manifest.header.log_id, access, walks)?);
    }
    for segment in &loaded {
        segment.bring_in(storage, segment.image.entry.capacity as usize)?;
    }
    let (active, offset) = (manifest.active(), manifest.header.clean_offset);
    let goes_on = offset != 0 && {
        let file = storage.open_read(file_name(active.ordinal).as_str())?;
        goes_on(&file, active, offset)?
    };
    let unsealed: Vec<Unsealed<'_>> = loaded.iter().map(Loaded::unsealed).collect();
    let judged = scan::judge_from(loaded[0].walked, &unsealed[0], Close { offset, goes_on }, &unsealed[1..])
        .map_err(|damage| corrupt(storage, &unsealed[damage.segment].entry, &damage))?;
    let cut = (judged.tail == Tail::Torn).then(|| loaded[judged.judged].cut(&judged));
    let is_used = |i: &usize| access == Access::Exclusive && *i != judged.judged && scan::is_used(&unsealed[*i]);
    let used_spares = (1..unsealed.len()).filter(is_used).collect();
    let bytes_read = loaded.iter().map(|segment| segment.image.entry.capacity).sum();
    let images = loaded.into_iter().map(|segment| segment.image).collect();
    in_bounds(storage, manifest, Examined { judged, used_spares, images, cut, closed: false, bytes_read })
}

/// What is seen at the front of each spare; refuses those that say that they are other segments.
fn fronts_of_spares(storage: &Storage, manifest: &Manifest) -> Result<Vec<Option<Front>>> {
    let mut fronts = Vec::new();
    for entry in manifest.spares() {
        let (file, head) = open(storage, entry, manifest.header.log_id)?;
        fronts.push(Some(front(&file, &head, entry.salt, entry.capacity)?));
    }
    Ok(fronts)
}

/// Refuses a manifest that speaks of records behind the end.
fn in_bounds(storage: &Storage, manifest: &Manifest, examined: Examined) -> Result<Examined> {
    let (header, last_seq) = (&manifest.header, examined.last_seq());
    let reason = if header.first_seq > last_seq + 1 {
        "the manifest says that the log begins behind its end"
    } else if header.checkpoint_seq > last_seq {
        "the manifest has a checkpoint behind the end"
    } else {
        return Ok(examined);
    };
    let offset = examined.judged.walk.cut;
    let expected_seq = last_seq + 1;
    let damage = Damage { segment: 0, offset, expected_seq, durable: offset, reason, is_stale: false };
    Err(corrupt(storage, &examined.last().entry, &damage))
}

fn corrupt(storage: &Storage, entry: &Entry, damage: &Damage) -> Error {
    if damage.is_stale {
        return stale_manifest(storage, file_name(entry.ordinal).as_str(), damage.reason);
    }
    Error::Corrupt(Box::new(Corruption {
        path: storage.path(file_name(entry.ordinal).as_str()),
        segment: entry.ordinal,
        offset: damage.offset as u64,
        expected_seq: damage.expected_seq,
        durable_offset: damage.durable as u64,
        reason: damage.reason,
    }))
}

/// The error of an end that is torn, for those who want none.
pub(crate) fn torn_tail(storage: &Storage, examined: &Examined) -> Error {
    let Judged { walk, durable, .. } = &examined.judged;
    Error::TornTail(Box::new(Corruption {
        path: storage.path(file_name(examined.last().entry.ordinal).as_str()),
        segment: examined.last().entry.ordinal,
        offset: walk.cut as u64,
        expected_seq: walk.next_seq,
        durable_offset: *durable as u64,
        reason: "what was being written there is not whole",
    }))
}
