//! A log as another process sees it: read-only, without the writer's lock, whether a writer lives or not.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Operation, Result};
use crate::format::manifest::Entry;
use crate::format::name::READERS;
use crate::index::Budget;
use crate::limits::default_max_maps;
use crate::manifest::{Manifest, ManifestFile};
use crate::recovery::examine::{Access, Examined, examine};
use crate::recovery::refuse_lost_manifest;
use crate::segment::{Maps, Segment};
use crate::snapshot::Snapshot;
use crate::storage::{Place, Storage, StoredFile};
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
    pub(crate) maps: Arc<Maps>,
}

/// How a log is opened for reading.
///
/// ```
/// # fn main() -> Result<(), mmap_wal::Error> {
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// # mmap_wal::Wal::open(dir.path())?;
/// let reader = mmap_wal::ReaderOptions::new().max_maps(1000).open(dir.path())?;
/// assert_eq!(reader.snapshot()?.last_seq(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ReaderOptions {
    max_maps: Option<usize>,
}

impl ReaderOptions {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self { max_maps: None }
    }

    /// How many segments the snapshots, cursors, tails and pinned records of the reader map at most, all together, from 2
    /// up; the default is that of [`Options::max_maps`](crate::Options::max_maps). What would be one more is
    /// [`Error::MapLimit`].
    #[must_use]
    pub fn max_maps(mut self, count: usize) -> Self {
        self.max_maps = Some(count);
        self
    }

    /// Opens the log in `dir` for reading.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`]; as [`Reader::open`].
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<Reader> {
        if self.max_maps.is_some_and(|count| count < 2) {
            return Err(Error::invalid("max_maps", "must be at least 2"));
        }
        let storage = Place::new(dir.as_ref(), 0o600, None).open()?;
        present(&storage)?;
        let maps = attend(&storage, self.max_maps.unwrap_or_else(default_max_maps))?;
        Ok(Reader { storage, maps })
    }
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
        ReaderOptions::new().open(dir)
    }

    /// Everything that is there now: what an open for writing would keep, and what a living writer has published. Sealed
    /// segments are mapped when they are first read; see [`Snapshot`] for what becomes of those that are truncated before.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::MissingSegment`], [`Error::NoManifest`], [`Error::StaleManifest`], [`Error::Foreign`],
    /// [`Error::Version`] or [`Error::Io`] if the log cannot be trusted; [`Error::MapLimit`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        snapshot(&self.storage, &self.maps)
    }
}

/// At most `max_maps` maps of a log that is there, under the lock that keeps its files from being recycled.
pub(crate) fn attend(storage: &Storage, max_maps: usize) -> Result<Arc<Maps>> {
    let readers = open_readers(storage)?;
    readers.as_ref().map_or(Ok(()), StoredFile::lock_shared)?;
    Ok(Maps::of_reader(readers.map(Arc::new), max_maps))
}

/// Everything that is there now.
pub(crate) fn snapshot(storage: &Storage, maps: &Arc<Maps>) -> Result<Snapshot> {
    state(storage, maps).map(|(_, snapshot)| snapshot)
}

/// Everything that is there now, and the manifest that says so. Only what is not sealed is mapped.
pub(crate) fn state(storage: &Storage, maps: &Arc<Maps>) -> Result<(Manifest, Snapshot)> {
    let (observed, segments) = settled(storage, |storage, manifest| {
        let examined = examine(storage, manifest, &storage.list()?, Access::Shared)?;
        let observed = Observed { manifest: manifest.clone(), examined };
        let segments = attach(storage, &observed, maps)?;
        // What ends in a spare was put together from two files: a reset between the two would mix two lives.
        if observed.examined.judged.judged != 0 && present(storage)? != *manifest {
            let source = std::io::Error::other("the log changes while it is read");
            return Err(Error::io(Operation::Read, storage.dir(), source));
        }
        Ok((observed, segments))
    })?;
    let header = observed.manifest.header;
    let (shown, end) = (segments.len(), observed.examined.end());
    let view = View::new(Arc::new(segments), shown, end, header.first_seq, header.checkpoint_seq);
    Ok((observed.manifest, Snapshot::new(view)))
}

/// Looks at the log until what is seen holds together.
///
/// Beside a writer, bytes that are read one after the other may belong to different moments: a segment may be gone, or a
/// later frame may claim what an earlier read did not see yet. What is wrong only because of that is right at the next
/// look; what is wrong twice in the same way, with nothing written in between, is wrong.
pub(crate) fn settled<T>(storage: &Storage, mut look: impl FnMut(&Storage, &Manifest) -> Result<T>) -> Result<T> {
    let mut before: Option<(Manifest, Error)> = None;
    loop {
        let manifest = present(storage)?;
        match look(storage, &manifest) {
            Ok(seen) => return Ok(seen),
            Err(e) => {
                if before.is_some_and(|(then, earlier)| then == manifest && earlier.is_same_as(&e)) {
                    return Err(e);
                }
                before = Some((manifest, e));
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
    Error::io(Operation::Open, storage.dir(), source)
}

/// Every log that was ever open for writing has the file; without it, a writer that comes would not see this reader. `None`
/// where it is missing and no writer can come, because the file system itself is read-only: not only this mount of it.
fn open_readers(storage: &Storage) -> Result<Option<StoredFile>> {
    let e = match storage.open_read(READERS) {
        Err(e) if e.is_not_found() => match storage.open_or_create(READERS) {
            Err(e) if e.is_unwritable() => e,
            created => return created.map(Some),
        },
        opened => return opened.map(Some),
    };
    if storage.is_on_read_only_file_system()? {
        return Ok(None);
    }
    let Error::Io(failure) = e else { return Err(e) };
    let reason = format!(
        "{}; readers lock this file so that a writer does not recycle what they read: create it, empty, where the \
         directory can be written, or open the log there once",
        failure.source
    );
    Err(Error::io(Operation::Create, &failure.path, std::io::Error::new(failure.source.kind(), reason)))
}

/// The segments that hold records: the sealed ones, and those behind them, which are mapped.
fn attach(storage: &Storage, observed: &Observed, maps: &Arc<Maps>) -> Result<Vec<Arc<Segment>>> {
    let Observed { manifest, examined } = observed;
    let (log_id, last) = (manifest.header.log_id, examined.last().entry);
    let completed = examined.judged.completed.map(|(end, last_seq)| {
        let entry = *manifest.active();
        Entry { end_offset: end as u64, last_seq, ..entry }
    });
    let sealed = manifest.sealed().iter().copied().chain(completed);
    let mut segments: Vec<Arc<Segment>> = sealed.map(|entry| Segment::sealed(storage, entry, log_id, maps)).collect();
    let entry = Entry { base_seq: examined.judged.base_seq, ..last };
    segments.push(Segment::view(storage, entry, log_id, maps, examined.end())?);
    let budget = Budget::new(INDEX_MEMORY);
    segments.iter().for_each(|segment| segment.index().draw_on(&budget));
    Ok(segments)
}
