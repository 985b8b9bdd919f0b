//! Where a tail learns how the log goes on: from the handle that writes it, or from its files.

use std::sync::Arc;

use crate::engine::Engine;
use crate::error::{Error, Foreign, Result};
use crate::format::get_u64;
use crate::format::manifest::Entry;
use crate::format::name::MANIFEST;
use crate::format::segment::{CLOSED, CUT, FRAMES_AT, PUBLISHED_AT, begun, is_position};
use crate::identity::check_identity;
use crate::manifest::Manifest;
use crate::reader::{present, snapshot};
use crate::segment::{End, Mapping, Maps, Segment, file_name};
use crate::snapshot::Snapshot;
use crate::storage::Storage;
use crate::view::gone;

/// Who is asked.
pub(crate) enum Source {
    /// The handle of this process that writes the log; cuts after `epoch` are news.
    Handle { engine: Arc<Engine>, epoch: usize },
    /// The files, whoever writes them, for as long as they are those of one log.
    Files { storage: Storage, maps: Arc<Maps>, log_id: Option<[u8; 16]> },
}

/// A segment of the log as it is now.
pub(crate) struct Part {
    pub(crate) ordinal: u64,
    pub(crate) base_seq: u64,
    /// Where it ends, unless it goes on.
    pub(crate) end: Option<PartEnd>,
}

/// A segment, and the map through which it is read.
type Mapped = (Arc<Segment>, Arc<Mapping>);

/// Where a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartEnd {
    pub(crate) offset: usize,
    pub(crate) last_seq: u64,
    /// Whether everything before it is durable.
    pub(crate) durable: bool,
}

/// What the log is made of now, oldest part first.
pub(crate) struct Outline {
    pub(crate) first_seq: u64,
    pub(crate) parts: Vec<Part>,
}

/// How it goes on from a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Not yet.
    Wait,
    /// In the same segment, up to an offset at which it ends.
    Until(PartEnd),
    /// In another segment, which has this ordinal and begins with this record.
    Enter { ordinal: u64, base_seq: u64, end: Option<PartEnd> },
}

/// Where a tail stands: behind the last record that it showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) ordinal: u64,
    pub(crate) salt: u32,
    pub(crate) at: usize,
    pub(crate) expected: u64,
    /// Something was cut off in or with that segment since it was last seen in the log.
    pub(crate) cut: bool,
}

impl Outline {
    /// Whether the segment `ordinal` is in the log.
    pub(crate) fn names(&self, ordinal: u64) -> bool {
        self.parts.iter().any(|part| part.ordinal == ordinal)
    }

    /// How the log goes on from `place`.
    ///
    /// # Errors
    /// `Truncated` or `TruncatedBack` if that place is in the log no more.
    pub(crate) fn step(&self, place: Place) -> Result<Step> {
        let Place { ordinal, at, expected, .. } = place;
        if expected < self.first_seq {
            return Err(Error::Truncated { first_seq: self.first_seq });
        }
        let enter = |part: &Part| Step::Enter { ordinal: part.ordinal, base_seq: part.base_seq, end: part.end };
        let Some(index) = self.parts.iter().position(|part| part.ordinal == ordinal) else {
            return self.without(place).map(|next| next.map_or(Step::Wait, enter));
        };
        match self.parts[index].end {
            None => Ok(Step::Wait),
            Some(end) if at < end.offset => Ok(Step::Until(end)),
            Some(end) if at == end.offset => Ok(self.parts.get(index + 1).map_or(Step::Wait, enter)),
            Some(PartEnd { last_seq, .. }) => Err(Error::TruncatedBack { last_seq }),
        }
    }

    /// The part that begins with what is expected, for a tail whose segment is gone. If a segment that was made later
    /// begins before that, what was shown was cut off, and other records stand there; if those are gone as well, nothing
    /// says where the cut was. Else it was truncated at the front.
    fn without(&self, Place { ordinal, expected, cut, .. }: Place) -> Result<Option<&Part>> {
        match self.parts.iter().find(|part| part.ordinal > ordinal && part.base_seq < expected) {
            Some(other) => Err(Error::TruncatedBack { last_seq: other.base_seq - 1 }),
            None if cut => Err(Error::TruncatedBack { last_seq: 0 }),
            None => Ok(self.parts.iter().find(|part| part.base_seq >= expected)),
        }
    }
}

impl Source {
    /// Everything that is there now.
    pub(crate) fn snapshot(&mut self) -> Result<Snapshot> {
        match self {
            Self::Handle { engine, epoch } => Ok(in_one_epoch(engine, epoch, Engine::snapshot)),
            Self::Files { storage, maps, log_id } => {
                if log_id.is_none() {
                    *log_id = Some(present(storage)?.header.log_id);
                }
                snapshot(storage, maps)
            }
        }
    }

    /// The same source, of which nothing was asked yet.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Handle { engine, .. } => Self::Handle { engine: Arc::clone(engine), epoch: 0 },
            Self::Files { storage, maps, .. } => {
                Self::Files { storage: storage.clone(), maps: Arc::clone(maps), log_id: None }
            }
        }
    }

    /// The directory of the log.
    pub(crate) fn storage(&self) -> &Storage {
        match self {
            Self::Handle { engine, .. } => &engine.storage,
            Self::Files { storage, .. } => storage,
        }
    }

    /// What the log is made of now, for a tail that has shown everything before `place`.
    ///
    /// # Errors
    /// `TruncatedBack` if some of that was cut off, `Foreign` if another log stands there; as [`present`].
    pub(crate) fn outline(&mut self, place: Place) -> Result<Outline> {
        match self {
            Self::Handle { engine, epoch } => {
                let expected = place.expected;
                engine.commit.check_epoch(expected - 1, *epoch)?;
                let mut now = *epoch;
                let live = in_one_epoch(engine, &mut now, |engine| engine.commit.live());
                engine.commit.check_epoch(expected - 1, *epoch)?;
                *epoch = now;
                let last = live.segments.len() - 1;
                let part = |(index, segment): (usize, &Arc<Segment>)| Part {
                    ordinal: segment.ordinal(),
                    base_seq: segment.base_seq(),
                    end: (index < last).then(|| PartEnd {
                        offset: segment.end().offset,
                        last_seq: segment.last_seq(),
                        durable: segment.last_seq() <= live.durable_seq,
                    }),
                };
                Ok(Outline { first_seq: live.first_seq, parts: live.segments.iter().enumerate().map(part).collect() })
            }
            Self::Files { storage, log_id, .. } => {
                let log_id = *log_id;
                from_files(storage, || present(storage).and_then(|found| of_same_log(storage, found, log_id, place)))
            }
        }
    }

    /// The segment `ordinal`, which begins with the record `base_seq`, and its map; `None` if it is not there any more.
    pub(crate) fn segment(&self, ordinal: u64, base_seq: u64) -> Result<Option<Mapped>> {
        match self {
            Self::Handle { engine, .. } => {
                let live = engine.commit.live();
                let found = live.segments.iter().find(|segment| segment.ordinal() == ordinal).cloned();
                // Only of a log that was closed can the file be gone by now.
                found
                    .map(|segment| mapped(segment).map_err(|(segment, e)| gone(&segment, segment.end(), e)))
                    .transpose()
            }
            Self::Files { storage, maps, .. } => {
                let manifest = present(storage)?;
                let Some(entry) = manifest.entries.iter().find(|entry| entry.ordinal == ordinal) else {
                    return Ok(None);
                };
                attach(storage, Entry { base_seq, ..*entry }, manifest.header.log_id, maps)
            }
        }
    }
}

/// What `look` finds in `engine`, and the epoch in which it does.
fn in_one_epoch<T>(engine: &Engine, epoch: &mut usize, look: impl Fn(&Engine) -> T) -> T {
    loop {
        let before = engine.commit.epoch();
        let found = look(engine);
        if engine.commit.epoch() == before {
            *epoch = before;
            return found;
        }
    }
}

fn mapped(segment: Arc<Segment>) -> std::result::Result<Mapped, (Arc<Segment>, Error)> {
    match segment.mapping() {
        Ok(mapping) => Ok((segment, mapping)),
        Err(e) => Err((segment, e)),
    }
}

/// Maps a segment; `None` if its file was removed since the manifest was read.
fn attach(storage: &Storage, entry: Entry, log_id: [u8; 16], maps: &Arc<Maps>) -> Result<Option<Mapped>> {
    let attached = if entry.end_offset == 0 {
        head(storage, &entry).and_then(|head| {
            check_identity(&storage.path(file_name(entry.ordinal).as_str()), &head, &entry, log_id)?;
            Segment::view(storage, entry, log_id, maps, End { offset: FRAMES_AT, count: 0 })
        })
    } else {
        Ok(Segment::sealed(storage, entry, log_id, maps))
    };
    match attached.and_then(|segment| mapped(segment).map_err(|(_, e)| e)) {
        Ok(mapped) => Ok(Some(mapped)),
        // Removed because the log was truncated or cut meanwhile; missing only if the manifest still names it.
        Err(e) if is_absent(&e) && !is_named(storage, &entry)? => Ok(None),
        Err(e) => Err(e),
    }
}

fn is_absent(e: &Error) -> bool {
    matches!(e, Error::MissingSegment(missing) if missing.found_len.is_none()) || e.is_not_found()
}

fn is_named(storage: &Storage, entry: &Entry) -> Result<bool> {
    Ok(present(storage)?.entries.iter().any(|named| named.ordinal == entry.ordinal && named.salt == entry.salt))
}

/// The bytes of a segment before its frames.
fn head(storage: &Storage, entry: &Entry) -> Result<Vec<u8>> {
    let mut head = vec![0; FRAMES_AT];
    storage.open_read(file_name(entry.ordinal).as_str())?.read_at(&mut head, 0)?;
    Ok(head)
}

/// The manifest `found`, unless it is another log's, or that of an earlier state of this one which went another way.
fn of_same_log(storage: &Storage, found: Manifest, log_id: Option<[u8; 16]>, place: Place) -> Result<Manifest> {
    let foreign = |name: &str, reason| Error::Foreign(Box::new(Foreign { path: storage.path(name), reason }));
    if log_id.is_some_and(|log_id| log_id != found.header.log_id) {
        return Err(foreign(MANIFEST, "it carries the id of another log than the one that was followed"));
    }
    match found.entries.iter().find(|entry| entry.ordinal == place.ordinal) {
        Some(entry) if entry.salt != place.salt => {
            let name = file_name(place.ordinal);
            Err(foreign(name.as_str(), "it is another segment than the one that was followed"))
        }
        _ => Ok(found),
    }
}

/// The segments that the manifest names, and the spare in which the log goes on if the manifest was not told yet.
fn from_files(storage: &Storage, mut manifest: impl FnMut() -> Result<Manifest>) -> Result<Outline> {
    loop {
        let found = manifest()?;
        let (outline, goes_on) = match outline(storage, &found) {
            // Truncated, and its file removed or used again, since the manifest was read.
            Err(e) if is_absent(&e) && manifest()? != found => continue,
            other => other?,
        };
        // That was put together from several files: a cut between them would mix two lives.
        if !goes_on || manifest()? == found {
            return Ok(outline);
        }
    }
}

/// What `manifest` and the heads of its spares say, and whether the log goes on in a spare.
fn outline(storage: &Storage, manifest: &Manifest) -> Result<(Outline, bool)> {
    let part = |entry: &Entry, end| Part { ordinal: entry.ordinal, base_seq: entry.base_seq, end };
    let sealed = |entry: &Entry| {
        let end = PartEnd { offset: entry.end_offset as usize, last_seq: entry.last_seq, durable: true };
        part(entry, Some(end))
    };
    let mut parts: Vec<Part> = manifest.sealed().iter().map(sealed).collect();
    let begun = begun_spare(storage, manifest)?;
    let goes_on = begun.is_some();
    match begun {
        Some((end, next)) => {
            let end = PartEnd { offset: end, last_seq: next.base_seq - 1, durable: false };
            parts.push(part(manifest.active(), Some(end)));
            parts.push(next);
        }
        None => parts.push(part(manifest.active(), None)),
    }
    Ok((Outline { first_seq: manifest.header.first_seq, parts }, goes_on))
}

/// The spare in which something is visible, and where the active segment ends if there is one.
fn begun_spare(storage: &Storage, manifest: &Manifest) -> Result<Option<(usize, Part)>> {
    for spare in manifest.spares() {
        let head = match head(storage, spare) {
            Err(e) if e.is_not_found() && !is_named(storage, spare)? => continue,
            other => other?,
        };
        // Equal if the active segment has no record: the first one behind it did not fit.
        let Some(base_seq) = begun(&head, spare.salt).filter(|base| *base >= manifest.active().base_seq) else {
            continue;
        };
        if visible(&head, spare).is_some_and(|offset| offset > FRAMES_AT) {
            // Read last: what is visible in the spare was appended after the end of the active segment was.
            let Some(end) = visible(&self::head(storage, manifest.active())?, manifest.active()) else { continue };
            return Ok(Some((end, Part { ordinal: spare.ordinal, base_seq, end: None })));
        }
    }
    Ok(None)
}

/// What `published` says, if that makes sense.
fn visible(head: &[u8], entry: &Entry) -> Option<usize> {
    let offset = usize::try_from(get_u64(head, PUBLISHED_AT) & !(CLOSED | CUT)).ok()?;
    is_position(offset, entry.capacity as usize).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = Place { ordinal: 2, salt: 0, at: 9000, expected: 20, cut: false };

    /// Ordinal, first record, and where it ends with which record.
    type Given = (u64, u64, Option<(usize, u64)>);

    fn outline(first_seq: u64, parts: &[Given]) -> Outline {
        let end = |(offset, last_seq)| PartEnd { offset, last_seq, durable: true };
        let part =
            |(ordinal, base_seq, ends): &Given| Part { ordinal: *ordinal, base_seq: *base_seq, end: ends.map(end) };
        Outline { first_seq, parts: parts.iter().map(part).collect() }
    }

    #[test]
    fn the_segment_goes_on_or_ends_and_the_next_is_entered() {
        let step = |end| outline(1, &[(1, 1, Some((9500, 9))), (2, 10, end), (3, 20, None)]).step(HERE);
        let end = PartEnd { offset: 9500, last_seq: 25, durable: true };
        assert_eq!(step(Some((9500, 25))).ok(), Some(Step::Until(end)));
        assert_eq!(step(Some((9000, 19))).ok(), Some(Step::Enter { ordinal: 3, base_seq: 20, end: None }));
        assert_eq!(outline(1, &[(2, 10, None)]).step(HERE).ok(), Some(Step::Wait));
    }

    #[test]
    fn what_was_shown_and_cut_off_is_told() {
        let cut = outline(1, &[(1, 1, Some((9500, 9))), (2, 10, Some((8500, 15))), (4, 16, None)]).step(HERE);
        assert!(matches!(cut, Err(Error::TruncatedBack { last_seq: 15 })));
        let whole_segment = outline(1, &[(1, 1, Some((9500, 9))), (4, 10, None)]).step(HERE);
        assert!(matches!(whole_segment, Err(Error::TruncatedBack { last_seq: 9 })));
    }

    #[test]
    fn what_was_wanted_and_truncated_is_told_and_what_was_shown_and_truncated_is_not() {
        assert!(matches!(outline(21, &[(5, 21, None)]).step(HERE), Err(Error::Truncated { first_seq: 21 })));
        let next = outline(20, &[(3, 20, None)]).step(HERE);
        assert_eq!(next.ok(), Some(Step::Enter { ordinal: 3, base_seq: 20, end: None }));
    }

    #[test]
    fn what_was_cut_off_and_then_truncated_is_told_although_nothing_says_where() {
        let cut = Place { cut: true, ..HERE };
        assert!(matches!(outline(20, &[(5, 20, None)]).step(cut), Err(Error::TruncatedBack { last_seq: 0 })));
        // As long as the segment is in the log, that says where it ends.
        assert_eq!(outline(1, &[(2, 10, None)]).step(cut).ok(), Some(Step::Wait));
    }

    #[test]
    fn a_manifest_from_before_a_cut_is_not_taken_together_with_a_segment_from_behind_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = crate::Options::new().segment_size(12 << 10).background(crate::Background::Caller);
        let wal = options.open(dir.path()).expect("a new log");
        for _ in 0..3 {
            wal.append(b"x").expect("an append");
        }
        let storage = crate::storage::Place::new(dir.path(), 0o600, None).open().expect("an open directory");
        let mut stale = Some(present(&storage).expect("a manifest"));
        wal.truncate_back(1).expect("a cut");
        wal.append(b"y").expect("an append");
        let seen = from_files(&storage, || stale.take().map_or_else(|| present(&storage), Ok)).expect("an outline");
        let ends: Vec<_> = seen.parts.iter().map(|part| part.end.map(|end| (end.offset, end.last_seq))).collect();
        assert_eq!(ends, [Some((FRAMES_AT + 32, 1)), None]);
    }

    #[test]
    fn a_segment_that_is_gone_since_the_manifest_was_read_is_looked_for_in_the_manifest_of_now() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = crate::Options::new().segment_size(12 << 10).background(crate::Background::Caller);
        let wal = options.open(dir.path()).expect("a new log");
        let storage = crate::storage::Place::new(dir.path(), 0o600, None).open().expect("an open directory");
        let mut stale = Some(present(&storage).expect("a manifest"));
        let gone = storage.path(file_name(stale.as_ref().expect("it").active().ordinal).as_str());
        while gone.exists() {
            let last = wal.append(&[7; 1000]).expect("an append");
            wal.truncate_front(last - 1).expect("a truncation");
        }
        let seen = from_files(&storage, || stale.take().map_or_else(|| present(&storage), Ok)).expect("an outline");
        assert_eq!(seen.first_seq, wal.positions().first);
    }
}
