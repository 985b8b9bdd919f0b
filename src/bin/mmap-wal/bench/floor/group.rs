//! A plain group commit: whoever finds no leader writes what all have appended, and the others wait.
//!
//! It is what a log does that has no map: frames are gathered in a buffer under a lock, and one durable write is under way
//! at a time.

use std::io;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::bench::floor::disk::Disk;
use crate::bench::floor::memory::{encode, frame_size};

/// The group commit of threads that append frames.
pub(crate) struct Group {
    state: Mutex<State>,
    synced: Condvar,
    disk: Mutex<Disk>,
    /// Bytes of the file, after which it is written from the front.
    len: u64,
}

#[derive(Default)]
struct State {
    /// What is appended and not handed to a leader.
    pending: Vec<u8>,
    seq: u64,
    appended: u64,
    durable: u64,
    leading: bool,
    failed: Option<io::ErrorKind>,
    /// A buffer that no leader has.
    spare: Vec<u8>,
}

impl Group {
    /// Over `disk`, the files of which have `len` bytes.
    pub(crate) fn new(disk: Disk, len: u64) -> Self {
        Self { state: Mutex::default(), synced: Condvar::new(), disk: Mutex::new(disk), len }
    }

    /// Appends a record, and returns when it is durable.
    pub(crate) fn append(&self, payload: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (size, at) = (frame_size(payload.len()), state.pending.len());
        state.seq += 1;
        let seq = state.seq;
        state.pending.resize(at + size, 0);
        encode(&mut state.pending[at..], seq, payload);
        state.appended += size as u64;
        let mine = state.appended;
        loop {
            if let Some(kind) = state.failed {
                return Err(kind.into());
            }
            if state.durable >= mine {
                return Ok(());
            }
            if state.leading {
                state = self.synced.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.leading = true;
            let spare = std::mem::take(&mut state.spare);
            let mut batch = std::mem::replace(&mut state.pending, spare);
            let from = state.durable;
            drop(state);
            let written = self.write(from, &batch);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.leading = false;
            match written {
                Ok(()) => state.durable = from + batch.len() as u64,
                Err(e) => state.failed = Some(e.kind()),
            }
            batch.clear();
            state.spare = batch;
            self.synced.notify_all();
        }
    }

    fn write(&self, from: u64, batch: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.fill(batch);
        // What would run over the end goes to the front.
        let at = from % self.len;
        let at = if at + batch.len() as u64 > self.len { 0 } else { at };
        disk.overwrite(at, batch.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_returns_when_its_record_is_durable_and_all_bytes_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let group = Group::new(Disk::create(dir.path(), 1 << 20).unwrap(), 1 << 20);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| group.append(&[1; 100]).unwrap()));
            }
        });
        let state = group.state.into_inner().unwrap();
        assert_eq!((state.seq, state.appended, state.durable), (200, 200 * 128, 200 * 128));
        assert!(state.pending.is_empty() && !state.leading);
    }
}
