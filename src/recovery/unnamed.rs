//! Segment files that the manifest does not name: what they say against it, and which of them may go.
//!
//! A segment is announced before anything is stored in it. So a file that was started and is not named was either dropped,
//! before the manifest was written or by the recovery that wrote it, or the manifest is older than the file.

use std::collections::HashSet;

use crate::error::{Error, Result, StaleManifest};
use crate::format::PAGE;
use crate::format::frame::HEADER;
use crate::format::manifest::{Entry, Role};
use crate::format::name::{MANIFEST, SegmentName, UNFINISHED};
use crate::format::segment::{FRAMES_AT, IDENTITY_AT, Identity, MIN_CAPACITY};
use crate::manifest::Manifest;
use crate::planted::{Bug, planted};
use crate::recovery::front::{copy, frame_at};
use crate::scan::{self, Front, Window};
use crate::segment::file_name;
use crate::storage::{Listed, Storage, StoredFile};

/// Where the log was found to end.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The number of the next record.
    pub(crate) next_seq: u64,
    /// How many bytes of the segment in which it ends are behind the end.
    pub(crate) room: u64,
}

/// What a file is that the manifest does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unnamed {
    /// Nothing that the log needs: it was not started, or was dropped.
    Leftover,
    /// It says nothing, or belongs elsewhere; it may hold records.
    Kept,
    /// A segment in which the log went on after the manifest was written.
    Later,
}

/// The segment files among `listed` that the manifest does not name, and what they are. `end` is where the log ends, if that
/// was found.
///
/// # Errors
/// `Io` if one cannot be read.
pub(crate) fn unnamed(
    storage: &Storage,
    manifest: &Manifest,
    listed: &[Listed],
    end: Option<Place>,
) -> Result<Vec<(String, Unnamed)>> {
    let look = Look { storage, manifest, listed, end };
    let named: HashSet<u64> = manifest.entries.iter().map(|entry| entry.ordinal).collect();
    let is_unnamed = |file: &&Listed| SegmentName::decode(&file.name).is_some_and(|ordinal| !named.contains(&ordinal));
    let mut found = Vec::new();
    for file in listed.iter().filter(|file| file.is_file).filter(is_unnamed) {
        // Removed since, beside a living writer, if there is none.
        if let Some(what) = look.at(file)? {
            found.push((file.name.clone(), what));
        }
    }
    Ok(found)
}

/// Refuses a manifest that is older than a segment that it does not name.
///
/// # Errors
/// `StaleManifest`; as [`unnamed`].
pub(crate) fn refuse_unnamed(
    storage: &Storage,
    manifest: &Manifest,
    listed: &[Listed],
    end: Option<Place>,
) -> Result<()> {
    if planted(Bug::BelieveOlderManifest) {
        return Ok(());
    }
    let mut found = unnamed(storage, manifest, listed, end)?;
    if end.is_none() {
        // A file with the name of another one that was prepared later, or earlier.
        let look = Look { storage, manifest, listed, end };
        for entry in &manifest.entries[manifest.active_index()..] {
            let name = file_name(entry.ordinal);
            let file = listed.iter().find(|file| file.is_file && file.name == name.as_str());
            if let Some(what) = file.map_or(Ok(None), |file| look.at(file))? {
                found.push((name.as_str().to_owned(), what));
            }
        }
    }
    match found.iter().find(|(_, what)| *what == Unnamed::Later) {
        Some((name, _)) => Err(stale_manifest(storage, name, "holds records, and the manifest does not name it")),
        None => Ok(()),
    }
}

/// The error for a manifest that the segment file `name` is newer than.
pub(crate) fn stale_manifest(storage: &Storage, name: &str, reason: &'static str) -> Error {
    let (manifest, path) = (storage.path(MANIFEST), storage.path(name));
    Error::StaleManifest(Box::new(StaleManifest { manifest, path, reason }))
}

struct Look<'a> {
    storage: &'a Storage,
    manifest: &'a Manifest,
    listed: &'a [Listed],
    end: Option<Place>,
}

impl Look<'_> {
    /// What a file is; `None` if it is not there any more.
    fn at(&self, file: &Listed) -> Result<Option<Unnamed>> {
        let opened = match self.storage.open_read(&file.name) {
            Err(e) if e.is_not_found() => return Ok(None),
            other => other?,
        };
        let len = opened.len()?;
        let mut front = vec![0; MIN_CAPACITY];
        let there = len.min(MIN_CAPACITY as u64) as usize;
        opened.read_at(&mut front[..there], 0)?;
        let mut copies = copies(&front).peekable();
        if copies.peek().is_none() {
            return Ok(Some(if scan::is_zero(&front) { Unnamed::Leftover } else { Unnamed::Kept }));
        }
        let mut what = Unnamed::Leftover;
        for copy in copies {
            what = match self.copy(&opened, len, &front[..FRAMES_AT], &copy)? {
                Unnamed::Later => return Ok(Some(Unnamed::Later)),
                Unnamed::Kept => Unnamed::Kept,
                Unnamed::Leftover => what,
            };
        }
        Ok(Some(what))
    }

    /// What a file of `len` bytes is by one copy of its identity.
    fn copy(&self, file: &StoredFile, len: u64, head: &[u8], identity: &Identity) -> Result<Unnamed> {
        let Identity { salt, log_id, ordinal, capacity, replaces, .. } = *identity;
        let entry = Entry { ordinal, salt, virgin: false, capacity, base_seq: 0, end_offset: 0, last_seq: 0 };
        let is_own = log_id == self.manifest.header.log_id && capacity == len;
        let is_named = self.manifest.entries.iter().any(|entry| (entry.ordinal, entry.salt) == (ordinal, salt));
        if !is_own || is_named || entry.role() != Some(Role::Spare) {
            return Ok(Unnamed::Kept);
        }
        // Whatever was dropped before has a lower ordinal than what the log went on in.
        let is_earlier = ordinal < self.manifest.active().ordinal;
        if is_earlier || self.is_unfinished(replaces)? {
            return Ok(Unnamed::Leftover);
        }
        let first = frame_at(file, salt, FRAMES_AT, capacity)?.map(|header| header.seq);
        let Front { base, durable } = Front::of(head, salt, capacity as usize, first);
        let Some(base) = base else {
            // Its first sync would have covered `begun`.
            let is_damaged = durable.is_some_and(|durable| durable > FRAMES_AT);
            return Ok(if is_damaged { Unnamed::Kept } else { Unnamed::Leftover });
        };
        let last_seq = if first == Some(base) { base } else { base - 1 };
        if last_seq < self.manifest.header.first_seq {
            return Ok(Unnamed::Leftover);
        }
        let Some(Place { next_seq, room }) = self.end else { return Ok(Unnamed::Later) };
        // A recovery drops what was begun behind records that are lost, if nothing says that those were durable.
        let was_dropped = base > next_seq && base - next_seq <= room / HEADER as u64 && durable.is_none();
        if was_dropped && !claims(file, salt, capacity, base)? {
            return Ok(Unnamed::Leftover);
        }
        Ok(Unnamed::Later)
    }

    /// Whether a segment that is there for the one with the ordinal `replaces` was made by a repair, or by a copy that adds
    /// to an earlier one, that was not finished.
    fn is_unfinished(&self, replaces: u64) -> Result<bool> {
        let is_there = |name: &str| self.listed.iter().any(|file| file.is_file && file.name == name);
        if is_there(UNFINISHED) || (replaces != 0 && is_there(file_name(replaces).as_str())) {
            return Ok(true);
        }
        let names: Vec<SegmentName> = self.manifest.entries.iter().map(|entry| file_name(entry.ordinal)).collect();
        for name in names.iter().filter(|name| replaces != 0 && is_there(name.as_str())) {
            let mut page = vec![0; PAGE];
            let file = match self.storage.open_read(name.as_str()) {
                Err(e) if e.is_not_found() => continue,
                other => other?,
            };
            let len = file.len()?.min(PAGE as u64) as usize;
            file.read_at(&mut page[..len], 0)?;
            if copies(&page).any(|copy| copy.replaces == replaces) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The copies of the identity that verify.
fn copies(head: &[u8]) -> impl Iterator<Item = Identity> {
    IDENTITY_AT.into_iter().filter_map(|at| Identity::decode(head.get(at..)?))
}

/// Whether a frame that can be of a segment with this base claims.
fn claims(file: &StoredFile, salt: u32, capacity: u64, base: u64) -> Result<bool> {
    let frames = copy(file, FRAMES_AT, capacity as usize)?;
    let window = Window { next_seq: base, ahead: 0, above: 0 };
    Ok(scan::search(&frames, salt, FRAMES_AT, window).claim.is_some())
}
