//! From a directory to the state of a log: the manifest, the scan, the verdict, and what makes it durable.

pub(crate) mod examine;
mod front;
mod lock;
pub(crate) mod report;
mod settle;
pub(crate) mod unnamed;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Foreign, Operation, Result};
use crate::format::PAGE;
use crate::format::manifest::{Entry, Header, MAX_NUMBER};
use crate::format::name::{LOCK, MANIFEST, MANIFEST_TMP, READERS, SegmentName, UNFINISHED};
use crate::format::segment::MAX_CAPACITY;
use crate::limits::default_max_maps;
use crate::manifest::{Manifest, ManifestFile, remove_if_there};
use crate::map::Tail;
use crate::options::{Options, SyncMode};
use crate::planted::{Bug, planted};
pub(crate) use crate::recovery::examine::Examined;
use crate::recovery::examine::{Access, examine, torn_tail};
pub(crate) use crate::recovery::lock::{LOCK_LEN, Locks};
use crate::recovery::report::{RecoveryReport, TailState};
pub(crate) use crate::recovery::settle::write_state;
use crate::recovery::unnamed::{Place, Unnamed, unnamed};
use crate::scan;
use crate::segment::{Maps, Preparation, Segment, Spare, file_name};
use crate::storage::{FileId, Listed, Storage, StoredFile};

/// A log that is open for writing, durable whole.
pub(crate) struct Recovered {
    pub(crate) readers: Arc<StoredFile>,
    pub(crate) maps: Arc<Maps>,
    pub(crate) identities: Identities,
    pub(crate) manifest: ManifestFile,
    /// What was found, if there is no space to write that; see [`write_state`].
    pub(crate) unsettled: Option<Box<Examined>>,
    /// Every segment that holds records; the last one is appended to.
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) tail: Tail,
    pub(crate) spares: Vec<Spare>,
    pub(crate) next_ordinal: u64,
    pub(crate) report: RecoveryReport,
}

/// Which files the names of an open log are, so that a removed or replaced one is noticed. The paths to them do not count.
pub(crate) struct Identities {
    /// LOCK; `None` where the directory is locked, too: then nothing depends on that file.
    pub(crate) lock: Option<FileId>,
    pub(crate) readers: FileId,
    /// The segments that are not sealed, and spares, by their ids.
    pub(crate) unsealed: HashMap<u64, FileId>,
}

impl Identities {
    /// Refuses if the directory was removed, or one of `unsealed` (segments that appends go to or will go to), LOCK or
    /// `manifest` is not the file of its name any more.
    ///
    /// # Errors
    /// `Replaced`; what the system says.
    pub(crate) fn check(&self, storage: &Storage, manifest: &ManifestFile) -> Result<()> {
        if storage.is_removed()? {
            return Err(Error::Replaced { path: Box::new(storage.dir().to_owned()) });
        }
        if let Some(lock) = self.lock {
            check_name(storage, LOCK, lock)?;
        }
        check_name(storage, MANIFEST, manifest.id()?)?;
        let state = manifest.current();
        for entry in &state.entries[state.active_index()..] {
            if let Some(id) = self.unsealed.get(&entry.ordinal) {
                check_name(storage, file_name(entry.ordinal).as_str(), *id)?;
            }
        }
        Ok(())
    }

    /// Whether READERS is still the file on which this handle and its readers hold their locks.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn has_readers(&self, storage: &Storage) -> Result<bool> {
        Ok(storage.id_of(READERS)? == Some(self.readers))
    }
}

fn check_name(storage: &Storage, name: &str, id: FileId) -> Result<()> {
    if storage.id_of(name)? == Some(id) { Ok(()) } else { Err(Error::Replaced { path: Box::new(storage.path(name)) }) }
}

/// Opens the log for its one writer, creating it if there is none; the lock comes with it.
pub(crate) fn open(storage: &Storage, options: &Options) -> Result<(Locks, Recovered)> {
    let started = Instant::now();
    let listed = storage.list()?;
    let has_manifest = listed.iter().any(|file| file.name == MANIFEST);
    if !has_manifest && !options.create {
        refuse_lost_manifest(storage, &listed)?;
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no log in this directory");
        return Err(Error::io(Operation::Open, storage.dir(), source));
    }
    let locks = Locks::take(storage)?;
    let mut recovered = recover(storage, options, started)?;
    recovered.report.directory_locked = locks.has_dir();
    recovered.identities.lock = if locks.has_dir() { None } else { Some(locks.file_id()?) };
    Ok((locks, recovered))
}

fn recover(storage: &Storage, options: &Options, started: Instant) -> Result<Recovered> {
    let readers = Arc::new(storage.open_or_create(READERS)?);
    readers.lock_shared()?;
    let maps = Maps::of_handle(&readers, options.max_maps.unwrap_or_else(default_max_maps));
    // Another writer may have come and gone since the directory was listed.
    let listed = storage.list()?;
    let (mut manifest, created, name_synced) = match ManifestFile::open(storage)? {
        Some(manifest) => (manifest, false, true),
        None => {
            let (manifest, name_synced) = create(storage, options, &listed)?;
            (manifest, true, name_synced)
        }
    };
    let (examined, is_settled) = examined(storage, options, &mut manifest)?;
    let state = manifest.current().clone();
    let next_ordinal = next_ordinal(&state, &listed);
    let leftovers = remove_leftovers(storage, &state, &listed, examined.place());
    let (segments, tail, spares, active) = attach(storage, &state, &examined, &maps)?;
    let named =
        spares.iter().map(|spare| (spare.entry.ordinal, spare.pages().id())).chain([(state.active().ordinal, active)]);
    let identities = Identities { lock: None, readers: readers.id()?, unsealed: named.collect() };
    leftovers?;
    let report = RecoveryReport { created, name_synced, elapsed: started.elapsed(), ..report(&state, &examined) };
    let unsettled = if is_settled { None } else { Some(withhold(examined, &segments, &spares)) };
    Ok(Recovered { readers, maps, identities, manifest, unsettled, segments, tail, spares, next_ordinal, report })
}

/// Looks at the log, refuses what must be refused, and only then writes.
fn examined(storage: &Storage, options: &Options, manifest: &mut ManifestFile) -> Result<(Examined, bool)> {
    let state = manifest.current();
    if options.user_tag.is_some_and(|tag| tag != state.header.user_tag) {
        let reason = "the log carries another user tag";
        return Err(Error::Foreign(Box::new(Foreign { path: storage.path(MANIFEST), reason })));
    }
    let examined = examine(storage, state, &storage.list()?, Access::Exclusive)?;
    if options.strict && examined.tail() == TailState::Torn {
        return Err(torn_tail(storage, &examined));
    }
    let is_settled = settle::settle(storage, manifest, &examined)?;
    Ok((examined, is_settled))
}

/// Lets nothing be appended to the segments until the state of the log is written.
fn withhold(examined: Examined, segments: &[Arc<Segment>], spares: &[Spare]) -> Box<Examined> {
    let active = segments.last().and_then(|segment| segment.pages());
    let pages = active.iter().chain(spares.iter().map(Spare::pages));
    pages.for_each(|pages| pages.withhold());
    Box::new(examined)
}

/// Segments, the tail that is appended to, the spares, and which file the active segment is.
type Attached = (Vec<Arc<Segment>>, Tail, Vec<Spare>, FileId);

fn attach(storage: &Storage, state: &Manifest, examined: &Examined, maps: &Arc<Maps>) -> Result<Attached> {
    let log_id = state.header.log_id;
    let sealed = state.sealed().iter().map(|entry| Segment::sealed(storage, *entry, log_id, maps));
    let mut segments: Vec<Arc<Segment>> = sealed.collect();
    let (active, tail, id) = Segment::resume(storage, *state.active(), log_id, maps, examined.end())?;
    segments.push(active);
    let spares = state.spares().iter().map(|entry| Spare::reopen(storage, *entry, log_id));
    Ok((segments, tail, spares.collect::<Result<Vec<Spare>>>()?, id))
}

fn report(state: &Manifest, examined: &Examined) -> RecoveryReport {
    RecoveryReport {
        created: false,
        first_seq: state.header.first_seq,
        last_seq: examined.last_seq(),
        checkpoint_seq: state.header.checkpoint_seq,
        segments: state.sealed().len() as u64 + 1,
        bytes_read: examined.bytes_read,
        tail: examined.tail(),
        cut: examined.cut,
        name_synced: true,
        directory_locked: true,
        elapsed: std::time::Duration::ZERO,
    }
}

/// An ordinal above every segment that is named, and above every file that stands there, so that none is in the way.
///
/// A file can be named with a number that no log reaches; counting on from there would use the numbers up.
pub(crate) fn next_ordinal(state: &Manifest, listed: &[Listed]) -> u64 {
    let named = state.entries.iter().map(|entry| entry.ordinal);
    let found = listed.iter().filter_map(|file| SegmentName::decode(&file.name));
    named.chain(found.filter(|ordinal| *ordinal <= MAX_NUMBER / 2)).max().map_or(1, |last| last.saturating_add(1))
}

/// Removes the files that are left over; one that may hold records stays.
fn remove_leftovers(storage: &Storage, state: &Manifest, listed: &[Listed], end: Place) -> Result<()> {
    let is_leftover = |what| what == Unnamed::Leftover || planted(Bug::BelieveOlderManifest);
    let segments = unnamed(storage, state, listed, Some(end))?;
    let names: Vec<String> =
        segments.into_iter().filter(|(_, what)| is_leftover(*what)).map(|(name, _)| name).collect();
    for name in &names {
        remove_if_there(storage, name)?;
    }
    if !names.is_empty() {
        storage.sync_dir()?;
    }
    // The mark of a copy that was finished but for that, or of one that was to be added to: only behind the segments that
    // it speaks of.
    let marks = listed.iter().filter(|file| file.name == MANIFEST_TMP || file.name == UNFINISHED);
    let mut removed = false;
    for file in marks {
        remove_if_there(storage, &file.name)?;
        removed = true;
    }
    if removed { storage.sync_dir() } else { Ok(()) }
}

/// Makes a new log of two segments, if there is none that has only lost its manifest; returns also whether the name of its
/// directory is durable.
fn create(storage: &Storage, options: &Options, listed: &[Listed]) -> Result<(ManifestFile, bool)> {
    refuse_lost_manifest(storage, listed)?;
    for ordinal in [1, 2] {
        remove_if_there(storage, file_name(ordinal).as_str())?;
    }
    let log_id = random_id(storage)?;
    let first = prepare_first(storage, options, log_id, 1, 0)?;
    let second = prepare_first(storage, options, log_id, 2, first.entry.salt)?;
    let name_synced = storage.sync_own_name()?;
    let header = Header {
        generation: 1,
        log_id,
        user_tag: options.user_tag.unwrap_or_default(),
        first_seq: 1,
        checkpoint_seq: 0,
        clean_offset: 0,
    };
    let entries = vec![Entry { base_seq: 1, ..first.entry }, second.entry];
    Ok((ManifestFile::create(storage, Manifest { header, meta: Vec::new(), entries })?, name_synced))
}

/// Refuses a directory that holds segments of a log whose manifest is gone, or that did not come.
pub(crate) fn refuse_lost_manifest(storage: &Storage, listed: &[Listed]) -> Result<()> {
    if listed.iter().any(|file| file.name == UNFINISHED) {
        return Err(Error::UnfinishedCopy { path: Box::new(storage.dir().to_owned()) });
    }
    for file in listed {
        let Some(ordinal) = SegmentName::decode(&file.name) else { continue };
        if !file.is_file || !is_unfinished(storage, ordinal, file)? {
            return Err(Error::NoManifest { path: Box::new(storage.path(MANIFEST)) });
        }
    }
    Ok(())
}

/// Whether a segment without a manifest can only be what an unfinished creation left: nothing stands behind its page 0.
fn is_unfinished(storage: &Storage, ordinal: u64, found: &Listed) -> Result<bool> {
    // A file of any length can stand there, and nobody makes a segment longer than that.
    if !matches!(ordinal, 1 | 2) || found.len > MAX_CAPACITY as u64 {
        return Ok(false);
    }
    let file = storage.open_read(&found.name)?;
    let mut bytes = vec![0; 64 * PAGE];
    let mut at = PAGE as u64;
    while at < found.len {
        let chunk = &mut bytes[..(found.len - at).min(64 * PAGE as u64) as usize];
        file.read_at(chunk, at)?;
        if !scan::is_zero(chunk) {
            return Ok(false);
        }
        at += chunk.len() as u64;
    }
    Ok(true)
}

fn prepare_first(storage: &Storage, options: &Options, log_id: [u8; 16], ordinal: u64, other: u32) -> Result<Spare> {
    let salt = draw_salt(storage, &[other])?;
    let capacity = options.segment_size;
    let sync_zeros = options.sync_mode != SyncMode::None;
    Spare::prepare(storage, &Preparation { log_id, ordinal, salt, capacity, sync_zeros })
}

/// A random id for a new log.
pub(crate) fn random_id(storage: &Storage) -> Result<[u8; 16]> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&storage.random()?.to_le_bytes());
    id[8..].copy_from_slice(&storage.random()?.to_le_bytes());
    Ok(id)
}

/// A salt that is not 0 and none of `others`.
pub(crate) fn draw_salt(storage: &Storage, others: &[u32]) -> Result<u32> {
    if planted(Bug::CrcWithoutSalt) {
        return Ok(1);
    }
    loop {
        let salt = storage.random()? as u32;
        if salt != 0 && !others.contains(&salt) {
            return Ok(salt);
        }
    }
}
