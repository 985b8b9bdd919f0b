//! What can be shown of a damaged log.

use std::sync::Arc;

use crate::error::{Error, MissingSegment, Result};
use crate::format::manifest::Entry;
use crate::format::segment::FRAMES_AT;
use crate::manifest::Manifest;
use crate::reader::{present, snapshot};
use crate::scan;
use crate::segment::{End, Segment, file_name};
use crate::snapshot::Snapshot;
use crate::storage::{Storage, StoredFile};
use crate::view::View;

/// Everything before the first damage.
#[derive(Debug)]
#[non_exhaustive]
pub struct Prefix {
    /// What can be shown; `None` if that is nothing.
    pub snapshot: Option<Snapshot>,
    /// Why there is no more; `None` if the snapshot is the whole log.
    pub damage: Option<Error>,
}

/// Looks at the log, and if that fails for a damage, at what stands before it.
pub(crate) fn prefix(storage: &Storage, readers: &Arc<StoredFile>) -> Result<Prefix> {
    match snapshot(storage, readers) {
        Ok(whole) => Ok(Prefix { snapshot: Some(whole), damage: None }),
        Err(e @ (Error::Corrupt(_) | Error::MissingSegment(_) | Error::Foreign(_) | Error::Io(_))) => {
            Ok(Prefix { snapshot: before_damage(storage, readers)?, damage: Some(e) })
        }
        Err(e) => Err(e),
    }
}

fn before_damage(storage: &Storage, readers: &Arc<StoredFile>) -> Result<Option<Snapshot>> {
    let manifest = present(storage)?;
    let mut segments = sealed(storage, &manifest);
    if segments.len() == manifest.sealed().len() {
        segments.extend(unsealed(storage, &manifest));
    }
    let Some(last) = segments.last() else { return Ok(None) };
    let header = manifest.header;
    if last.last_seq() < header.first_seq {
        return Ok(None);
    }
    Ok(Some(Snapshot::new(View {
        end: last.end(),
        shown: segments.len(),
        segments: Arc::new(segments),
        first_seq: header.first_seq,
        checkpoint_seq: header.checkpoint_seq,
        _readers: Arc::clone(readers),
    })))
}

/// The sealed segments before the first that is missing or another one.
fn sealed(storage: &Storage, manifest: &Manifest) -> Vec<Arc<Segment>> {
    let segments = manifest.sealed().iter().map(|entry| Segment::sealed(storage, *entry, manifest.header.log_id));
    segments.take_while(|segment| segment.map().is_ok()).collect()
}

/// The active segment up to where it is whole, and the spare in which the log goes on, if it does.
fn unsealed(storage: &Storage, manifest: &Manifest) -> Vec<Arc<Segment>> {
    let Ok(active) = walked(storage, *manifest.active()) else { return Vec::new() };
    let next = active.last_seq() + 1;
    let based = |spare: &Entry| walked(storage, Entry { base_seq: next, ..*spare }).ok();
    let spare = manifest.spares().iter().filter_map(based).find(|spare| spare.end().count > 0);
    [Some(active), spare].into_iter().flatten().collect()
}

/// An unsealed segment up to where it is whole.
fn walked(storage: &Storage, entry: Entry) -> Result<Arc<Segment>> {
    let file = storage.open_read(file_name(entry.ordinal).as_str())?;
    if file.len()? != entry.capacity {
        let path = file.path().to_owned();
        let missing = MissingSegment { path, expected_len: entry.capacity, found_len: Some(file.len()?) };
        return Err(Error::MissingSegment(Box::new(missing)));
    }
    let mut frames = vec![0; entry.capacity as usize - FRAMES_AT];
    file.read_at(&mut frames, FRAMES_AT as u64)?;
    let walk = scan::walk(&frames, entry.salt, entry.base_seq);
    Segment::view(storage, entry, End { offset: walk.cut, count: walk.next_seq - entry.base_seq })
}
