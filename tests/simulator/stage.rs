//! The machine under a log whose threads a model checker schedules: every act is a point at which another thread may go
//! on, syncs have a beginning and an end, and no file is synced twice at once.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mmap_wal::{Act, Observer};

use super::disk::{Disk, What};
use super::machine::{ENOSPC, Famine, Fault, Machine, changes, is_sync};
use super::model::Model;

pub struct Stage {
    machine: Arc<Machine>,
    /// Whether threads are at work.
    on: AtomicBool,
    /// Whether there is no space for a file.
    full: AtomicBool,
    /// Files that are being synced, if no file may be synced twice at once.
    syncing: Option<Mutex<BTreeSet<PathBuf>>>,
}

/// Lets another thread go on.
pub fn pause() {
    shuttle::thread::sleep(Duration::ZERO);
}

impl Stage {
    /// On the files below `root`, which are those of `disk`. If `counts_syncs`, it panics when a file is synced by two
    /// threads at once: the kernel would tell one of them of an error.
    pub fn new(root: &Path, disk: Disk, seed: u64, counts_syncs: bool) -> Arc<Self> {
        Arc::new(Self {
            machine: Machine::new(root, disk, &Arc::new(Model::new()), seed),
            on: AtomicBool::new(false),
            full: AtomicBool::new(false),
            syncing: counts_syncs.then(Mutex::default),
        })
    }

    /// From now on threads are at work; and no longer.
    pub fn turn(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
    }

    /// From now on there is no space; and space again.
    pub fn fill(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }

    pub fn set_fault(&self, fault: Fault) {
        self.machine.set_fault(Some(fault));
    }

    /// From now on there is space, or none for a while.
    pub fn set_famine(&self, famine: Option<Famine>) {
        self.machine.set_famine(famine);
    }

    /// Whether something found no space.
    pub fn has_refused(&self) -> bool {
        self.machine.has_refused()
    }

    /// Whether something found no space, and would find none now.
    pub fn is_starving(&self) -> bool {
        self.machine.is_full()
    }

    pub fn has_failed(&self) -> bool {
        self.machine.has_failed()
    }

    /// What a crash would find now.
    pub fn disk(&self) -> Disk {
        self.machine.disk()
    }

    /// The process is gone.
    pub fn kill(&self) {
        self.machine.kill();
    }

    /// Whether these bytes stand in a segment for certain, whatever crashes now.
    pub fn is_durable(&self, bytes: &[u8]) -> bool {
        let disk = self.disk();
        let segments = disk.live.iter().filter(|(path, _)| path.ends_with(".wal"));
        let mut durable = segments.filter_map(|(_, what)| match what {
            What::File(node) => Some(&disk.nodes[*node].durable),
            What::Dir => None,
        });
        durable.any(|durable| durable.windows(bytes.len()).any(|window| window == bytes))
    }

    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    fn begin_sync(&self, path: &Path) {
        let Some(syncing) = &self.syncing else { return };
        let alone = syncing.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
        assert!(alone, "two threads sync {} at once", path.display());
    }

    fn end_sync(&self, path: &Path) {
        if let Some(syncing) = &self.syncing {
            syncing.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        }
    }
}

impl Observer for Stage {
    fn before(&self, act: &Act<'_>) -> io::Result<()> {
        if !self.is_on() || !changes(act) {
            return self.machine.before(act);
        }
        pause();
        if matches!(act, Act::Allocate { .. }) && self.is_full() && self.machine.needs_space(act) {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        let path = act.path();
        if is_sync(act) {
            self.begin_sync(path);
        }
        let answer = self.machine.before(act);
        if is_sync(act) {
            // While the device is at work, or before it says that it has failed.
            pause();
            if answer.is_err() {
                self.end_sync(path);
            }
        }
        answer
    }

    fn after(&self, act: &Act<'_>) {
        self.machine.after(act);
        if is_sync(act) && self.is_on() {
            self.end_sync(act.path());
            pause();
        }
    }

    fn random(&self) -> Option<u64> {
        self.machine.random()
    }

    fn now(&self) -> Option<u64> {
        self.machine.now()
    }
}
