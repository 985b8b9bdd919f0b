//! The directory that a log is copied to: what may stand there, and what stands there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::manifest::{Entry, MAX_NUMBER};
use crate::format::name::{LOCK, MANIFEST, SegmentName, UNFINISHED};
use crate::format::segment::{DURABLE_AT, FRAMES_AT, Identity, MIN_CAPACITY, PUBLISHED_AT, checked};
use crate::format::{get_u64, salted_crc};
use crate::inspect::files::Loaded;
use crate::inspect::make::unfinished_ordinal;
use crate::limits::default_max_maps;
use crate::manifest::{Manifest, ManifestFile, remove_if_there};
use crate::reader::attend;
use crate::recovery::examine::{Access, examine};
use crate::recovery::{LOCK_LEN, Locks, random_id};
use crate::scan::is_zero;
use crate::segment::{Maps, file_name};
use crate::storage::{Listed, Place, Storage};

/// What the mark of an unfinished copy says to whoever finds it.
const MARK: &str =
    "The copy of a log in this directory is not finished. Make the same copy again, or remove the directory.\n";
/// What a fresh file system has in its root.
const LOST_AND_FOUND: &str = "lost+found";

/// The directory, locked against writers and other copies.
pub(crate) struct Target {
    pub(crate) storage: Storage,
    lock: Locks,
    /// Those of its segments.
    pub(crate) maps: Arc<Maps>,
    /// Of the copy: its own, so that no file of it is taken for one of the log.
    pub(crate) log_id: [u8; 16],
    /// Of a copy that was finished before; `None` if none was.
    pub(crate) manifest: Option<ManifestFile>,
}

impl Target {
    /// Refuses a place that no log is ever copied to.
    pub(crate) fn place(log: &Storage, to: &Path) -> Result<Place> {
        // A slash behind the name of a link would lead through it.
        let to: PathBuf = to.components().collect();
        let out = log.elsewhere(&to, 0o600);
        let refusal = match out.kind()? {
            _ if to.as_os_str().is_empty() => "it has no name; name a directory",
            Some(kind) if kind.is_symlink() => "it is a symbolic link; give the directory that it should lead to",
            Some(kind) if !kind.is_dir() => "it is not a directory; give one that is empty or not there",
            _ => match out.depth_in(log)? {
                Some(0) => "it is the directory of the log; give another one",
                Some(_) => "it lies in the directory of the log; give one outside",
                None => return Ok(out),
            },
        };
        Err(Error::destination(&to, refusal))
    }

    /// Makes `out` ready for a copy of the log with the id `of`: empty, or with an earlier copy of it in any state.
    ///
    /// # Errors
    /// `Destination` if anything else is there, and then nothing has changed; `Locked`; what the system says.
    pub(crate) fn open(out: Storage, of: [u8; 16]) -> Result<Self> {
        stands_there(&out, of)?;
        let lock = Locks::take(&out)?;
        let (log_id, manifest, maps) = Self::enter(&out, of)?;
        Ok(Self { storage: out, lock, maps, log_id, manifest })
    }

    fn enter(out: &Storage, of: [u8; 16]) -> Result<([u8; 16], Option<ManifestFile>, Arc<Maps>)> {
        // Another copy may have come and gone before the lock was taken.
        let log_id = match stands_there(out, of)? {
            There::Nothing => None,
            There::Unfinished(log_id) => log_id,
            There::Finished => {
                let manifest = ManifestFile::open(out)?;
                let log_id = manifest.as_ref().map(|manifest| manifest.current().header.log_id);
                let maps = attend(out, default_max_maps())?;
                return Ok((log_id.unwrap_or_default(), manifest, maps));
            }
        };
        mark(out)?;
        let maps = attend(out, default_max_maps())?;
        let random = random_id(out)?;
        Ok((log_id.unwrap_or_else(|| copy_id(&of, &random)), None, maps))
    }

    /// Gives the lock back.
    pub(crate) fn close(self) -> Result<()> {
        self.lock.unlock()
    }

    /// Refuses a finished copy that is not as it was left, and whose state would be lost.
    pub(crate) fn refuse_changed(&self, copy: &Manifest, log: &Manifest) -> Result<()> {
        let found = examine(&self.storage, copy, &self.storage.list()?, Access::Exclusive)?;
        let refuse = |reason| Err(Error::destination(self.storage.dir(), reason));
        if found.judged.judged != 0 || found.end().offset != FRAMES_AT {
            return refuse("records were appended to the copy that is there; keep it, and give another directory");
        }
        let state_is_lost = copy.meta != log.meta || copy.header.checkpoint_seq > log.header.checkpoint_seq;
        if state_is_lost && !is_signed(&found.last().head, copy.active().salt) {
            return refuse(
                "the copy that is there was opened for writing, and its metadata or checkpoint are not the log's; \
                 keep it, and give another directory",
            );
        }
        Ok(())
    }

    /// The segment files of earlier, unfinished work on this copy, with their ordinals, in order.
    pub(crate) fn leftovers(&self, listed: &[Listed]) -> Result<Vec<(u64, Option<Identity>)>> {
        let current = self.manifest.as_ref().map(ManifestFile::current);
        let is_named = |ordinal| current.is_some_and(|now| now.entries.iter().any(|entry| entry.ordinal == ordinal));
        let mut found = Vec::new();
        for file in listed.iter().filter(|file| file.is_file) {
            let Some(ordinal) = SegmentName::decode(&file.name).filter(|ordinal| !is_named(*ordinal)) else { continue };
            let loaded = Loaded::read(&self.storage, &file.name, MIN_CAPACITY)?;
            let identity = loaded.identity();
            // Behind a number that no log reaches there would be none for the segments to come.
            let has_numbers = ordinal <= MAX_NUMBER / 2;
            let is_whole =
                |identity: &Identity| has_numbers && (identity.ordinal, identity.capacity) == (ordinal, file.len);
            let is_own = identity.is_some_and(|identity| identity.log_id == self.log_id);
            // What was being prepared does not say yet what it is; a file that holds anything may be somebody else's.
            let is_empty = || file.len <= MIN_CAPACITY as u64 && is_zero(&loaded.head) && is_zero(&loaded.frames);
            if is_own || is_empty() {
                found.push((ordinal, identity.filter(is_whole)));
            }
        }
        found.sort_unstable_by_key(|(ordinal, _)| *ordinal);
        Ok(found)
    }

    /// Removes the segments that were being made when an earlier work on this copy ended.
    pub(crate) fn remove_unfinished(&self, listed: &[Listed]) -> Result<()> {
        let is_unfinished = |file: &&Listed| file.is_file && unfinished_ordinal(&file.name).is_some();
        listed.iter().filter(is_unfinished).try_for_each(|file| remove_if_there(&self.storage, &file.name))
    }

    /// Marks a finished copy before segments are added to it that its manifest does not name yet.
    pub(crate) fn mark(&self) -> Result<()> {
        if self.manifest.is_some() { mark(&self.storage) } else { Ok(()) }
    }

    /// Takes the mark away, once the manifest stands.
    pub(crate) fn unmark(&self) -> Result<()> {
        remove_if_there(&self.storage, UNFINISHED)
    }
}

/// Marks the segment in which a copy would go on as one that nobody has opened for writing; not synced.
pub(crate) fn sign(storage: &Storage, active: &Entry) -> Result<()> {
    let file = storage.open_write(file_name(active.ordinal).as_str())?;
    file.write_at(&checked(active.salt, FRAMES_AT as u64), DURABLE_AT[1] as u64)
}

/// Whether nobody has opened the copy whose active segment has this `head`: an open for writing publishes something there
/// and writes both slots, and in a segment that took its place, after a cut, the first slot is written first.
fn is_signed(head: &[u8], salt: u32) -> bool {
    let signature = checked(salt, FRAMES_AT as u64);
    let is_first_free = get_u64(head, DURABLE_AT[0]) == 0;
    get_u64(head, PUBLISHED_AT) == 0 && is_first_free && head[DURABLE_AT[1]..].starts_with(&signature)
}

/// What stands in a directory.
enum There {
    /// Nothing that matters.
    Nothing,
    /// A copy that was not finished, and its id, if it came to that.
    Unfinished(Option<[u8; 16]>),
    /// A copy that was finished.
    Finished,
}

/// What stands in `out`; refuses what is no copy of the log `of`.
fn stands_there(out: &Storage, of: [u8; 16]) -> Result<There> {
    let refuse = |reason| Err(Error::destination(out.dir(), reason));
    let listed = out.list()?;
    let is_there = |name| listed.iter().any(|file| file.name == name);
    if is_there(MANIFEST) {
        return match ManifestFile::peek(out)?.map(|found| found.header.log_id) {
            Some(id) if is_copy(&id, &of) => Ok(There::Finished),
            Some(id) if id == of => refuse(
                "it holds the log itself, or a duplicate of its files that this cannot go on with; give another \
                 directory",
            ),
            _ => refuse("it holds a log that is not a copy of this one; give another directory"),
        };
    }
    if is_there(UNFINISHED) {
        return unfinished_id(out, of, &listed).map(There::Unfinished);
    }
    // More than a pid is no lock of a log, and would be written over.
    let is_lock = |file: &Listed| file.name == LOCK && file.is_file && file.len <= LOCK_LEN;
    let is_nothing = |file: &Listed| is_lock(file) || file.name == LOST_AND_FOUND;
    if listed.iter().all(is_nothing) {
        return Ok(There::Nothing);
    }
    refuse("it is not empty, and holds no copy of this log; give a directory that is empty or not there")
}

/// The id that the segments of an unfinished copy carry.
fn unfinished_id(out: &Storage, of: [u8; 16], listed: &[Listed]) -> Result<Option<[u8; 16]>> {
    let mut id = None;
    for file in listed.iter().filter(|file| file.is_file && SegmentName::decode(&file.name).is_some()) {
        // What does not say what it is was being made.
        let Some(identity) = Loaded::read(out, &file.name, FRAMES_AT)?.identity() else { continue };
        if !is_copy(&identity.log_id, &of) {
            let reason = "it holds an unfinished copy of another log; give another directory";
            return Err(Error::destination(out.dir(), reason));
        }
        id = Some(identity.log_id);
    }
    Ok(id)
}

/// Lets everybody see that what is here is no whole copy yet, before anything of it is.
fn mark(out: &Storage) -> Result<()> {
    let file = out.open_or_create(UNFINISHED)?;
    file.write_at(MARK.as_bytes(), 0)?;
    file.sync()?;
    out.sync_dir()
}

/// An id for a copy of the log `of`: a half of its own, and a half that says of which log it is a copy.
///
/// A copy may be opened and go on by itself, so it is another log and has another id; a later copy must still find out
/// whether it can go on with this one. No two random ids are related so, but for one pair in 2^64.
fn copy_id(of: &[u8; 16], random: &[u8; 16]) -> [u8; 16] {
    let mut id = *random;
    let own = &random[..8];
    id[8..12].copy_from_slice(&salted_crc(0, &[&of[..], own].concat()).to_le_bytes());
    id[12..].copy_from_slice(&salted_crc(0, &[own, &of[..]].concat()).to_le_bytes());
    id
}

fn is_copy(id: &[u8; 16], of: &[u8; 16]) -> bool {
    copy_id(of, id) == *id
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_id_of_a_copy_says_of_which_log_it_is_one(of: [u8; 16], other: [u8; 16], random: [u8; 16]) {
            let id = copy_id(&of, &random);
            prop_assert!(is_copy(&id, &of));
            prop_assert!(!is_copy(&id, &other) || of == other);
            prop_assert!(!is_copy(&copy_id(&id, &random), &of));
            prop_assert_eq!(&id[..8], &random[..8]);
        }
    }
}
