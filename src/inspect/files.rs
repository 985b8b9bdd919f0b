//! The bytes of segment files that may be damaged, of another length, or unreadable in part.

use crate::blank::Blank;
use crate::error::{Error, Operation, Result};
use crate::format::PAGE;
use crate::format::manifest::Entry;
use crate::format::segment::{FRAMES_AT, IDENTITY_AT, Identity};
use crate::identity::check_identity;
use crate::scan::{Unsealed, is_zero};
use crate::segment::in_memory;
use crate::storage::{Listed, Storage, StoredFile};

/// How much is read by one call.
const CHUNK: usize = 1 << 20;

/// What could be read of a file.
pub(crate) struct Loaded {
    /// The bytes before [`FRAMES_AT`], zero where there are none.
    pub(crate) head: Vec<u8>,
    /// The bytes from [`FRAMES_AT`] on, zero where the device could not deliver them.
    pub(crate) frames: Blank,
    /// Whether the device delivered everything.
    pub(crate) readable: bool,
}

impl Loaded {
    /// Reads the file `name` up to the offset `to`, or to its end; whoever asks bounds `to`, because a file has any length.
    pub(crate) fn read(storage: &Storage, name: &str, to: usize) -> Result<Self> {
        let file = storage.open_read(name)?;
        let len = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(to.max(FRAMES_AT));
        let mut head = vec![0; FRAMES_AT];
        let mut readable = read_what_there_is(&file, &mut head[..len.min(FRAMES_AT)], 0)?;
        let mut frames = in_memory(Operation::Read, file.path(), Blank::new(len.saturating_sub(FRAMES_AT)))?;
        let mut chunk = vec![0; CHUNK.min(frames.len())];
        for at in (FRAMES_AT..len).step_by(CHUNK) {
            let end = (at + CHUNK).min(len);
            let read = &mut chunk[..end - at];
            readable &= read_what_there_is(&file, read, at)?;
            // Memory that is not written to is not taken.
            if !is_zero(read) {
                frames[at - FRAMES_AT..end - FRAMES_AT].copy_from_slice(read);
            }
        }
        Ok(Self { head, frames, readable })
    }

    /// What the two copies of the identity say.
    pub(crate) fn identities(&self) -> [Option<Identity>; 2] {
        IDENTITY_AT.map(|at| Identity::decode(&self.head[at..]))
    }

    /// What the file says that it is, if its copies do not contradict each other.
    pub(crate) fn identity(&self) -> Option<Identity> {
        match self.identities() {
            [Some(a), Some(b)] => (a == b).then_some(a),
            [a, b] => a.or(b),
        }
    }

    /// As the judge of unsealed segments wants it.
    pub(crate) fn unsealed(&self, entry: Entry) -> Unsealed<'_> {
        Unsealed { head: &self.head, frames: &self.frames, entry }
    }
}

/// Reads page by page where the device fails; `false` if it does.
fn read_what_there_is(file: &StoredFile, bytes: &mut [u8], at: usize) -> Result<bool> {
    match file.read_at(bytes, at as u64) {
        Err(e) if is_device_failure(&e) => {}
        other => return other.map(|()| true),
    }
    for (i, page) in bytes.chunks_mut(PAGE).enumerate() {
        match file.read_at(page, (at + i * PAGE) as u64) {
            Err(e) if is_device_failure(&e) => page.fill(0),
            other => other?,
        }
    }
    Ok(false)
}

fn is_device_failure(e: &Error) -> bool {
    let device = Some(rustix::io::Errno::IO.raw_os_error());
    matches!(e, Error::Io(failure) if failure.source.raw_os_error() == device)
}

/// A segment that the manifest names, and its file.
pub(crate) struct Piece {
    pub(crate) entry: Entry,
    /// `None` if it is not there.
    pub(crate) loaded: Option<Loaded>,
    /// What is wrong with the file as a whole.
    pub(crate) fault: Option<&'static str>,
}

impl Piece {
    /// Reads the file of `entry` up to `to`, if `listed` has it.
    pub(crate) fn read(
        storage: &Storage,
        entry: Entry,
        log_id: [u8; 16],
        listed: Option<&Listed>,
        to: usize,
    ) -> Result<Self> {
        let Some(listed) = listed.filter(|file| file.is_file) else {
            return Ok(Self { entry, loaded: None, fault: Some("it is not there") });
        };
        let loaded = Loaded::read(storage, &listed.name, to)?;
        let fault = match check_identity(&storage.path(&listed.name), &loaded.head, &entry, log_id) {
            Err(Error::Foreign(_)) => Some("its header carries the id of another log"),
            Err(_) => Some("its header is that of another segment"),
            Ok(()) if listed.len != entry.capacity => Some("it has another length"),
            Ok(()) if !loaded.readable => Some("it cannot be read in part"),
            Ok(()) => None,
        };
        Ok(Self { entry, loaded: Some(loaded), fault })
    }

    /// Whether every byte that the file should have was read.
    pub(crate) fn is_complete(&self) -> bool {
        let there =
            |loaded: &Loaded| loaded.readable && FRAMES_AT + loaded.frames.len() >= self.entry.capacity as usize;
        self.loaded.as_ref().is_some_and(there)
    }

    /// Whether a copy of the identity is damaged.
    pub(crate) fn has_damaged_header(&self) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| loaded.identities().iter().any(Option::is_none))
    }

    /// When it was prepared, in Unix nanoseconds.
    pub(crate) fn created(&self) -> Option<u64> {
        self.loaded.as_ref().and_then(Loaded::identity).map(|identity| identity.created)
    }
}
