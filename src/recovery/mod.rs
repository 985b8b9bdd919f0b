//! From a directory to the state of a log: the manifest, the scan, the verdict, and what makes it durable.

pub(crate) mod examine;
mod front;
pub(crate) mod report;
mod settle;
pub(crate) mod unnamed;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Foreign, Result};
use crate::format::PAGE;
use crate::format::manifest::{Entry, Header, MAX_NUMBER};
use crate::format::name::{LOCK, MANIFEST, MANIFEST_TMP, READERS, SegmentName, UNFINISHED};
use crate::format::segment::MAX_CAPACITY;
use crate::manifest::{Manifest, ManifestFile, remove_if_there};
use crate::map::Tail;
use crate::options::{Options, SyncMode};
use crate::planted::{Bug, planted};
use crate::recovery::examine::{Access, Examined, examine, torn_tail};
use crate::recovery::report::{RecoveryReport, TailState};
use crate::recovery::unnamed::{Place, Unnamed, unnamed};
use crate::scan;
use crate::segment::{Preparation, Segment, Spare, file_name};
use crate::storage::{Listed, Storage, StoredFile};

/// A log that is open for writing, durable whole.
pub(crate) struct Recovered {
    pub(crate) readers: Arc<StoredFile>,
    pub(crate) manifest: ManifestFile,
    /// Every segment that holds records; the last one is appended to.
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) tail: Tail,
    pub(crate) spares: Vec<Spare>,
    pub(crate) next_ordinal: u64,
    pub(crate) report: RecoveryReport,
}

/// Opens the log for its one writer, creating it if there is none; the lock comes with it.
pub(crate) fn open(storage: &Storage, options: &Options) -> Result<(StoredFile, Recovered)> {
    let started = Instant::now();
    let new_names = if options.create { storage.make_dirs()? } else { Vec::new() };
    let listed = storage.list()?;
    let has_manifest = listed.iter().any(|file| file.name == MANIFEST);
    if !has_manifest && !options.create {
        refuse_lost_manifest(storage, &listed)?;
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no log in this directory");
        return Err(Error::io("open", storage.dir(), source));
    }
    let lock = take_lock(storage)?;
    match recover(storage, options, &new_names, started) {
        Ok(recovered) => Ok((lock, recovered)),
        Err(e) => {
            // Closing alone would leave the lock to a child that was forked meanwhile. The refusal says more than this.
            let _ = lock.unlock();
            Err(e)
        }
    }
}

fn recover(storage: &Storage, options: &Options, new_names: &[PathBuf], started: Instant) -> Result<Recovered> {
    let readers = storage.open_or_create(READERS)?;
    readers.lock_shared()?;
    // Another writer may have come and gone since the directory was listed.
    let listed = storage.list()?;
    let (mut manifest, created) = match ManifestFile::open(storage)? {
        Some(manifest) => (manifest, false),
        None => (create(storage, options, &listed, new_names)?, true),
    };
    let examined = examined(storage, options, &mut manifest)?;
    let state = manifest.current().clone();
    let next_ordinal = next_ordinal(&state, &listed);
    let leftovers = remove_leftovers(storage, &state, &listed, examined.place());
    let (segments, tail, spares) = attach(storage, &state, &examined)?;
    leftovers?;
    let report = RecoveryReport { created, elapsed: started.elapsed(), ..report(&state, &examined) };
    Ok(Recovered { readers: Arc::new(readers), manifest, segments, tail, spares, next_ordinal, report })
}

/// What the lock file holds, at most: a pid and the end of the line.
pub(crate) const LOCK_LEN: u64 = 11;

/// Takes the writer's lock, without waiting.
pub(crate) fn take_lock(storage: &Storage) -> Result<StoredFile> {
    let lock = storage.open_or_create(LOCK)?;
    if !lock.try_lock_exclusive()? {
        let mut text = vec![0; lock.len()?.min(32) as usize];
        lock.read_at(&mut text, 0)?;
        let pid = String::from_utf8_lossy(&text).trim().parse().ok();
        return Err(Error::Locked { pid, path: Box::new(storage.dir().to_owned()) });
    }
    // For messages only, so a full disk must not stand in the way of an open.
    let _ = lock.write_at(format!("{:<10}\n", std::process::id()).as_bytes(), 0);
    Ok(lock)
}

/// Looks at the log, refuses what must be refused, and only then writes.
fn examined(storage: &Storage, options: &Options, manifest: &mut ManifestFile) -> Result<Examined> {
    let state = manifest.current();
    if options.user_tag.is_some_and(|tag| tag != state.header.user_tag) {
        let reason = "the log carries another user tag";
        return Err(Error::Foreign(Box::new(Foreign { path: storage.path(MANIFEST), reason })));
    }
    let examined = examine(storage, state, &storage.list()?, Access::Exclusive)?;
    if options.strict && examined.tail() == TailState::Torn {
        return Err(torn_tail(storage, &examined));
    }
    settle::settle(storage, manifest, &examined)?;
    Ok(examined)
}

/// Segments, the tail that is appended to, and the spares.
type Attached = (Vec<Arc<Segment>>, Tail, Vec<Spare>);

fn attach(storage: &Storage, state: &Manifest, examined: &Examined) -> Result<Attached> {
    let sealed = state.sealed().iter().map(|entry| Segment::sealed(storage, *entry, state.header.log_id));
    let mut segments: Vec<Arc<Segment>> = sealed.collect();
    let (active, tail) = Segment::resume(storage, *state.active(), examined.end())?;
    segments.push(active);
    let spares = state.spares().iter().map(|entry| Spare::reopen(storage, *entry)).collect::<Result<Vec<Spare>>>()?;
    Ok((segments, tail, spares))
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

/// Makes a new log of two segments, if there is none that has only lost its manifest.
fn create(storage: &Storage, options: &Options, listed: &[Listed], new_names: &[PathBuf]) -> Result<ManifestFile> {
    refuse_lost_manifest(storage, listed)?;
    for ordinal in [1, 2] {
        remove_if_there(storage, file_name(ordinal).as_str())?;
    }
    let log_id = random_id(storage)?;
    let first = prepare_first(storage, options, log_id, 1, 0)?;
    let second = prepare_first(storage, options, log_id, 2, first.entry.salt)?;
    sync_names(storage, new_names)?;
    let header = Header {
        generation: 1,
        log_id,
        user_tag: options.user_tag.unwrap_or_default(),
        first_seq: 1,
        checkpoint_seq: 0,
        clean_offset: 0,
    };
    let entries = vec![Entry { base_seq: 1, ..first.entry }, second.entry];
    ManifestFile::create(storage, Manifest { header, meta: Vec::new(), entries })
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

/// Makes the name of the directory durable, and of every directory above it that was made, now or by a creation that was
/// killed before it came to that: nobody can tell the latter, so it is all of them on this file system.
pub(crate) fn sync_names(storage: &Storage, changed: &[PathBuf]) -> Result<()> {
    for dir in changed {
        storage.sync_other_dir(dir)?;
    }
    let parent = storage.parent();
    if !changed.contains(&parent) {
        storage.sync_other_dir(&parent)?;
    }
    for dir in storage.above().iter().filter(|dir| **dir != parent && !changed.contains(dir)) {
        match storage.sync_other_dir(dir) {
            // Nobody whose log this is has made anything in a directory that may not be read.
            Err(e) if e.is_permission_denied() => {}
            other => other?,
        }
    }
    Ok(())
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
