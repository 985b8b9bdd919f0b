//! What can be shown of a damaged log.

use std::sync::Arc;

use crate::error::{Error, MissingSegment, Result};
use crate::format::manifest::Entry;
use crate::manifest::Manifest;
use crate::reader::{present, snapshot};
use crate::recovery::examine::walk_file;
use crate::segment::{End, Maps, Segment, file_name};
use crate::snapshot::Snapshot;
use crate::storage::Storage;
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
pub(crate) fn prefix(storage: &Storage, maps: &Arc<Maps>) -> Result<Prefix> {
    match snapshot(storage, maps) {
        Ok(whole) => Ok(Prefix { snapshot: Some(whole), damage: None }),
        Err(e @ (Error::Corrupt(_) | Error::MissingSegment(_) | Error::Foreign(_) | Error::Io(_))) => {
            Ok(Prefix { snapshot: before_damage(storage, maps)?, damage: Some(e) })
        }
        Err(e) => Err(e),
    }
}

fn before_damage(storage: &Storage, maps: &Arc<Maps>) -> Result<Option<Snapshot>> {
    let manifest = present(storage)?;
    let mut segments = sealed(storage, &manifest, maps);
    if segments.len() == manifest.sealed().len() {
        segments.extend(unsealed(storage, &manifest, maps));
    }
    let Some(last) = segments.last() else { return Ok(None) };
    let header = manifest.header;
    if last.last_seq() < header.first_seq {
        return Ok(None);
    }
    let (shown, end) = (segments.len(), last.end());
    Ok(Some(Snapshot::new(View::new(Arc::new(segments), shown, end, header.first_seq, header.checkpoint_seq))))
}

/// The sealed segments before the first that is missing or another one.
fn sealed(storage: &Storage, manifest: &Manifest, maps: &Arc<Maps>) -> Vec<Arc<Segment>> {
    let log_id = manifest.header.log_id;
    let segments = manifest.sealed().iter().map(|entry| Segment::sealed(storage, *entry, log_id, maps));
    segments.take_while(|segment| segment.check_file().is_ok()).collect()
}

/// The active segment up to where it is whole, and the spare in which the log goes on, if it does.
fn unsealed(storage: &Storage, manifest: &Manifest, maps: &Arc<Maps>) -> Vec<Arc<Segment>> {
    let walked = |entry| walked(storage, entry, manifest.header.log_id, maps);
    let Ok(active) = walked(*manifest.active()) else { return Vec::new() };
    let next = active.last_seq() + 1;
    let based = |spare: &Entry| walked(Entry { base_seq: next, ..*spare }).ok();
    let spare = manifest.spares().iter().filter_map(based).find(|spare| spare.end().count > 0);
    [Some(active), spare].into_iter().flatten().collect()
}

/// An unsealed segment up to where it is whole.
fn walked(storage: &Storage, entry: Entry, log_id: [u8; 16], maps: &Arc<Maps>) -> Result<Arc<Segment>> {
    let file = storage.open_read(file_name(entry.ordinal).as_str())?;
    if file.len()? != entry.capacity {
        let path = file.path().to_owned();
        let missing = MissingSegment { path, expected_len: entry.capacity, found_len: Some(file.len()?) };
        return Err(Error::MissingSegment(Box::new(missing)));
    }
    let walk = walk_file(&file, &entry, entry.capacity as usize)?;
    let end = End { offset: walk.cut, count: walk.next_seq - entry.base_seq };
    Segment::view(storage, entry, log_id, maps, end)
}
