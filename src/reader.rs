//! A log as another process sees it: read-only, without the writer's lock, whether a writer lives or not.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::manifest::Entry;
use crate::format::name::READERS;
use crate::index::Budget;
use crate::manifest::{Manifest, ManifestFile};
use crate::recovery::examine::{Access, Examined, examine};
use crate::recovery::refuse_lost_manifest;
use crate::segment::Segment;
use crate::snapshot::Snapshot;
use crate::storage::{Storage, StoredFile};
use crate::view::View;

/// Reads a log that this or another process may be writing.
///
/// ```
/// # fn main() -> Result<(), mmap_wal::Error> {
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// use mmap_wal::{Reader, Wal};
/// let wal = Wal::open(dir.path())?;
/// wal.append(b"hello")?;
/// let snapshot = Reader::open(dir.path())?.snapshot()?;
/// assert_eq!(snapshot.get(1)?.map(|record| record.payload()), Some(&b"hello"[..]));
/// # Ok(())
/// # }
/// ```
pub struct Reader {
    pub(crate) storage: Storage,
    pub(crate) readers: Arc<StoredFile>,
}

/// Bytes that the indexes of a snapshot may take.
const INDEX_MEMORY: usize = 16 << 20;

/// A state of the log that held together while it was looked at.
struct Observed {
    manifest: Manifest,
    examined: Examined,
}

impl Reader {
    /// Opens the log in `dir` for reading.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no log or it cannot be read; [`Error::NoManifest`] or [`Error::Version`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let storage = Storage::new(dir.as_ref(), 0o600, None);
        present(&storage)?;
        let readers = attend(&storage)?;
        Ok(Self { storage, readers })
    }

    /// Everything that is there now: what an open for writing would keep, and what a living writer has published.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::MissingSegment`], [`Error::NoManifest`], [`Error::StaleManifest`], [`Error::Foreign`],
    /// [`Error::Version`] or [`Error::Io`] if the log cannot be trusted.
    pub fn snapshot(&self) -> Result<Snapshot> {
        snapshot(&self.storage, &self.readers)
    }
}

/// The lock that keeps the files of a log that is there from being used again.
pub(crate) fn attend(storage: &Storage) -> Result<Arc<StoredFile>> {
    let readers = open_readers(storage)?;
    readers.lock_shared()?;
    Ok(Arc::new(readers))
}

/// Everything that is there now.
pub(crate) fn snapshot(storage: &Storage, readers: &Arc<StoredFile>) -> Result<Snapshot> {
    state(storage, readers).map(|(_, snapshot)| snapshot)
}

/// Everything that is there now, and the manifest that says so.
pub(crate) fn state(storage: &Storage, readers: &Arc<StoredFile>) -> Result<(Manifest, Snapshot)> {
    let mut mapped = Mapped::new();
    let (observed, segments) = settled(storage, |storage, manifest| {
        let listed = storage.list()?;
        // First: there may be many, and beside a fast writer the rest must not take long. What is wrong with them is told
        // last.
        let sealed = attach_sealed(storage, manifest, &mut mapped);
        let examined = examine(storage, manifest, &listed, Access::Shared)?;
        let observed = Observed { manifest: manifest.clone(), examined };
        let segments = attach(storage, &observed, sealed?)?;
        // What ends in a spare was put together from two files: a reset between the two would mix two lives.
        if observed.examined.judged.judged != 0 && present(storage)? != *manifest {
            let source = std::io::Error::other("the log changes while it is read");
            return Err(Error::io("read", storage.dir(), source));
        }
        Ok((observed, segments))
    })?;
    let header = observed.manifest.header;
    let snapshot = Snapshot::new(View {
        shown: segments.len(),
        segments: Arc::new(segments),
        end: observed.examined.end(),
        first_seq: header.first_seq,
        checkpoint_seq: header.checkpoint_seq,
        _readers: Arc::clone(readers),
    });
    Ok((observed.manifest, snapshot))
}

/// Looks at the log until what is seen holds together.
///
/// Beside a writer, bytes that are read one after the other may belong to different moments: a segment may be gone, or a
/// later frame may claim what an earlier read did not see yet. What is wrong only because of that is right at the next
/// look; what is wrong twice in the same way, with nothing written in between, is wrong.
pub(crate) fn settled<T>(storage: &Storage, mut look: impl FnMut(&Storage, &Manifest) -> Result<T>) -> Result<T> {
    let mut before: Option<(Manifest, String)> = None;
    loop {
        let manifest = present(storage)?;
        match look(storage, &manifest) {
            Ok(seen) => return Ok(seen),
            Err(e) => {
                let now = Some((manifest, e.to_string()));
                if before == now {
                    return Err(e);
                }
                before = now;
            }
        }
    }
}

/// The manifest of a log that is there.
pub(crate) fn present(storage: &Storage) -> Result<Manifest> {
    if let Some(manifest) = ManifestFile::peek(storage)? {
        return Ok(manifest);
    }
    let absent = storage.list().and_then(|listed| refuse_lost_manifest(storage, &listed)).err();
    // Another process may have created the log since.
    ManifestFile::peek(storage)?.ok_or_else(|| absent.unwrap_or_else(|| no_log(storage)))
}

fn no_log(storage: &Storage) -> Error {
    let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no log in this directory");
    Error::io("open", storage.dir(), source)
}

/// Every log that was ever open for writing has the file; without it, a writer that comes would not see this reader.
fn open_readers(storage: &Storage) -> Result<StoredFile> {
    match storage.open_read(READERS) {
        Err(e) if e.is_not_found() => storage.open_or_create(READERS),
        other => other,
    }
}

/// Sealed segments that an earlier look has mapped.
type Mapped = HashMap<Entry, Arc<Segment>>;

/// Maps every sealed segment, so that what is shown stays when the writer removes files; those in `mapped` are.
fn attach_sealed(storage: &Storage, manifest: &Manifest, mapped: &mut Mapped) -> Result<Vec<Arc<Segment>>> {
    let mut segments = Vec::with_capacity(manifest.sealed().len() + 2);
    for entry in manifest.sealed() {
        let segment = match mapped.get(entry) {
            Some(segment) => Arc::clone(segment),
            None => {
                let segment = Segment::sealed(storage, *entry, manifest.header.log_id);
                map_unless_damaged(&segment)?;
                mapped.insert(*entry, Arc::clone(&segment));
                segment
            }
        };
        segments.push(segment);
    }
    Ok(segments)
}

/// Maps the segment. Damage in a sealed one is not the whole log's: the replay that comes to it says so.
fn map_unless_damaged(segment: &Segment) -> Result<()> {
    match segment.map() {
        Err(Error::Corrupt(_) | Error::Foreign(_)) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Maps the unsealed segments behind the sealed ones.
fn attach(storage: &Storage, observed: &Observed, mut segments: Vec<Arc<Segment>>) -> Result<Vec<Arc<Segment>>> {
    let Observed { manifest, examined } = observed;
    let last = examined.last().entry;
    if let Some((end, last_seq)) = examined.judged.completed {
        let entry = Entry { end_offset: end as u64, last_seq, ..*manifest.active() };
        let segment = Segment::sealed(storage, entry, manifest.header.log_id);
        map_unless_damaged(&segment)?;
        segments.push(segment);
    }
    let entry = Entry { base_seq: examined.judged.base_seq, ..last };
    segments.push(Segment::view(storage, entry, examined.end())?);
    let budget = Budget::new(INDEX_MEMORY);
    segments.iter().for_each(|segment| segment.index().draw_on(&budget));
    Ok(segments)
}
