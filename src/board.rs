//! The page on which a log shows itself to other processes. Nothing depends on it: what cannot be written is not shown.

use std::time::Duration;

use crate::error::Result;
use crate::format::name::STATS;
use crate::format::stats::{PAGE_LEN, SLOT_LEN, SLOTS, SLOTS_AT, Slot, WRITER_LEN, Writer};
use crate::storage::{Storage, StoredFile};
use crate::sync::{Instant, Mutex, lock, thread};

/// The writer's part is written at most this often.
pub(crate) const PERIOD: Duration = Duration::from_millis(100);
/// A reader that said nothing for so long, in nanoseconds, has given its slot up.
const STALE: u64 = 10_000_000_000;

/// The page, as its writer holds it.
pub(crate) struct Board {
    file: StoredFile,
    /// In which the writer's process id counts.
    pub(crate) namespace: u32,
    /// When it was written last.
    shown: Mutex<Option<Instant>>,
}

impl Board {
    /// The page of the log in `storage`; `None` if there can be none, or if an observer looks, who wants to see the log.
    pub(crate) fn open(storage: &Storage) -> Option<Self> {
        if storage.is_observed() {
            return None;
        }
        let file = open(storage).ok()?;
        Some(Self { file, namespace: pid_namespace(), shown: Mutex::default() })
    }

    /// Shows what `writer` says, unless that was done a moment ago and need not be `now`.
    pub(crate) fn show(&self, now: bool, writer: impl FnOnce() -> Writer) {
        let mut shown = lock(&self.shown);
        if now || shown.is_none_or(|shown| shown.elapsed() >= PERIOD) {
            // By a write and not through a map: a store to a page for which there is no space is a signal.
            let _ = self.file.write_at(&writer().encode(), 0);
            *shown = Some(Instant::now());
        }
    }

    /// Whether anything was shown in this life of the log.
    pub(crate) fn has_shown(&self) -> bool {
        lock(&self.shown).is_some()
    }
}

/// The inode number of this process's pid namespace; 0 where the system tells none.
pub(crate) fn pid_namespace() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |found| u32::try_from(found.ino()).unwrap_or(0))
}

/// Opens the page, making it whole: nothing is written to it later for which there might be no space.
fn open(storage: &Storage) -> Result<StoredFile> {
    let file = storage.open_or_create(STATS)?;
    if file.len()? < PAGE_LEN as u64 {
        file.write_at(&[0; PAGE_LEN], 0)?;
    }
    Ok(file)
}

/// What stands on the page of the log in `storage`: what the writer says, if it is whole, and the readers.
///
/// # Errors
/// What the system says, but for a page that is not there: that is nobody.
pub(crate) fn read(storage: &Storage) -> Result<(Option<Writer>, Vec<Slot>)> {
    let file = match storage.open_read(STATS) {
        Err(e) if e.is_not_found() => return Ok((None, Vec::new())),
        other => other?,
    };
    if file.len()? < PAGE_LEN as u64 {
        return Ok((None, Vec::new()));
    }
    let mut page = [0; PAGE_LEN];
    // What is being written is not whole, and is at the next look.
    for _ in 0..LOOKS {
        file.read_at(&mut page, 0)?;
        if Writer::decode(&page[..WRITER_LEN]).is_some() {
            break;
        }
        // Whoever writes it may need this processor to come to its end.
        thread::yield_now();
    }
    let now = storage.now();
    let slots = page[SLOTS_AT..].chunks_exact(SLOT_LEN).filter_map(Slot::decode);
    Ok((Writer::decode(&page[..WRITER_LEN]), slots.filter(|slot| !is_stale(slot, now)).collect()))
}

/// Looks at a page that is not whole.
const LOOKS: usize = 100;

fn is_stale(slot: &Slot, now: u64) -> bool {
    // Far ahead is no better: the clock was set back since, or never stood there.
    now.abs_diff(slot.updated) > STALE
}

/// A reader's slot.
pub(crate) struct Seat {
    storage: Storage,
    file: StoredFile,
    index: usize,
    token: u64,
    said: Option<(u64, Instant)>,
}

impl Seat {
    /// Takes a slot on the page of the log in `storage`; `None` if all are taken.
    ///
    /// # Errors
    /// What the system says: to take a slot is to write.
    pub(crate) fn take(storage: &Storage) -> Result<Option<Self>> {
        let file = open(storage)?;
        let token = storage.random()? | 1;
        let mut seat = Self { storage: storage.clone(), file, index: 0, token, said: None };
        // Two that come at once must not take the same one.
        seat.file.lock_exclusive()?;
        let took = seat.take_free();
        // Also after a failure: a child between `fork` and `exec` keeps a lock that is only closed.
        seat.file.unlock()?;
        Ok(took?.then_some(seat))
    }

    /// Takes a slot that is free; the caller has locked the page.
    fn take_free(&mut self) -> Result<bool> {
        let Some(index) = free(&self.file, self.storage.now()) else { return Ok(false) };
        self.index = index;
        self.write(0).map(|()| true)
    }

    /// Says that everything up to `seq` was dealt with, unless something was said a moment ago.
    pub(crate) fn say(&mut self, seq: u64) {
        let recent = self.said.is_some_and(|(said, at)| said == seq && at.elapsed() < 10 * PERIOD);
        if !recent && (self.is_mine() || self.take_another()) {
            // What cannot be written is not shown.
            let _ = self.write(seq);
        }
        if !recent {
            self.said = Some((seq, Instant::now()));
        }
    }

    /// Whoever took a slot that was silent for long has it now: takes another one, if there is one.
    fn take_another(&mut self) -> bool {
        // Whoever has the page locked is taking one, and this is asked again soon.
        if !self.file.try_lock_exclusive().unwrap_or(false) {
            return false;
        }
        let took = self.take_free();
        // Given up with the file at the latest.
        let _ = self.file.unlock();
        took.unwrap_or(false)
    }

    fn is_mine(&self) -> bool {
        let mut slot = [0; SLOT_LEN];
        let read = self.file.read_at(&mut slot, at(self.index));
        read.is_ok() && Slot::decode(&slot).is_some_and(|slot| slot.token == self.token)
    }

    fn write(&mut self, seq: u64) -> Result<()> {
        let (token, pid, updated) = (self.token, u64::from(std::process::id()), self.storage.now());
        self.file.write_at(&Slot { token, pid, seq, updated }.encode(), at(self.index))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.is_mine() {
            // What is left is given up in a while.
            let _ = self.file.write_at(&[0; SLOT_LEN], at(self.index));
        }
    }
}

fn at(index: usize) -> u64 {
    (SLOTS_AT + index * SLOT_LEN) as u64
}

/// A slot that nobody has, or that nobody has used for long.
fn free(file: &StoredFile, now: u64) -> Option<usize> {
    let mut slots = [0; SLOTS * SLOT_LEN];
    file.read_at(&mut slots, at(0)).ok()?;
    slots.chunks_exact(SLOT_LEN).position(|slot| Slot::decode(slot).is_none_or(|slot| is_stale(&slot, now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage() -> (tempfile::TempDir, Storage) {
        let dir = tempfile::tempdir().expect("a directory");
        let storage = crate::storage::Place::new(dir.path(), 0o600, None).open().expect("an open directory");
        (dir, storage)
    }

    #[test]
    fn what_a_writer_shows_is_read_and_no_page_is_nobody() {
        let (_dir, storage) = storage();
        assert_eq!(read(&storage).expect("no page"), (None, Vec::new()));
        let board = Board::open(&storage).expect("a page");
        assert_eq!(read(&storage).expect("an empty page").0, None);
        board.show(false, || Writer { last_seq: 1, ..Writer::default() });
        board.show(false, || Writer { last_seq: 2, ..Writer::default() });
        assert_eq!(read(&storage).expect("a page").0.map(|said| said.last_seq), Some(1));
        board.show(true, || Writer { last_seq: 3, ..Writer::default() });
        assert_eq!(read(&storage).expect("a page").0.map(|said| said.last_seq), Some(3));
    }

    #[test]
    fn a_slot_from_the_future_is_nobodys() {
        let (_dir, storage) = storage();
        let seats: Vec<Seat> = std::iter::from_fn(|| Seat::take(&storage).expect("a page")).take(SLOTS).collect();
        let hostile = Slot { token: 1, pid: 1, seq: 1, updated: u64::MAX };
        for seat in &seats {
            seat.file.write_at(&hostile.encode(), at(seat.index)).expect("a write");
        }
        assert!(read(&storage).expect("a page").1.is_empty());
        assert!(Seat::take(&storage).expect("a page").is_some());
    }

    #[test]
    fn a_reader_that_was_silent_for_long_takes_another_slot_when_it_speaks_again() {
        let (_dir, storage) = storage();
        let mut silent = Seat::take(&storage).expect("a page").expect("a slot");
        silent.say(7);
        let long_ago = Slot { token: silent.token, pid: 1, seq: 7, updated: 0 };
        silent.file.write_at(&long_ago.encode(), at(silent.index)).expect("a write");
        let mut other = Seat::take(&storage).expect("a page").expect("a slot");
        assert_eq!(other.index, silent.index);
        other.say(100);
        silent.say(8);
        let said: Vec<u64> = read(&storage).expect("a page").1.iter().map(|slot| slot.seq).collect();
        assert_eq!(said, [100, 8]);
        drop(silent);
        assert_eq!(read(&storage).expect("a page").1.len(), 1);
    }

    #[test]
    fn every_reader_has_a_slot_of_its_own_until_it_goes() {
        let (_dir, storage) = storage();
        let take = || Seat::take(&storage).expect("a page");
        let mut seats: Vec<Seat> = std::iter::from_fn(take).take(SLOTS).collect();
        assert!(seats.len() == SLOTS && take().is_none());
        seats.iter_mut().zip(1..).for_each(|(seat, seq)| seat.say(seq));
        let said: Vec<u64> = read(&storage).expect("a page").1.iter().map(|slot| slot.seq).collect();
        assert!(said.into_iter().eq(1..=SLOTS as u64));
        drop(seats.remove(5));
        assert_eq!(read(&storage).expect("a page").1.len(), SLOTS - 1);
        assert!(take().is_some());
    }
}
