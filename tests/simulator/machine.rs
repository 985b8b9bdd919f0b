//! The machine under a log: sees every act, keeps the [`Disk`], and notes at each act what a crash there would find.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mmap_wal::{Act, Observer};

use super::disk::{Begun, Disk, NameOp, What};
use super::model::Model;
use super::rng::Rng;
use crate::reference::manifest::{self, Kind};

/// What the log was about when the power failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Create,
    Recover,
    Append,
    Batch,
    Rotate,
    Recycle,
    /// The sync of a segment that was rotated, and the update that seals it.
    Seal,
    Sync,
    Manifest,
    Checkpoint,
    Truncate,
    TruncateBack,
    Reset,
    Meta,
    Close,
    /// Something found no space, and there is none yet or the call is not over.
    FullDisk,
    Repair,
    Idle,
}

/// Where the frames of a segment begin.
pub const FRAMES: usize = 8192;
/// Where a segment says that it was begun.
pub const BEGUN: usize = 4160;

/// An update of the manifest writes two slots, each synced.
pub const ACTS_OF_UPDATE: usize = 4;

const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

/// Before what a moment is that is between two operations.
pub const AT_REST: &str = "the next operation";

/// A moment at which the machine could crash.
#[derive(Clone)]
pub struct Moment {
    pub disk: Disk,
    pub model: Arc<Model>,
    pub phase: Phase,
    pub before: String,
    /// Whether a sync has failed.
    pub failed: bool,
    /// Whether there is no space.
    pub full: bool,
    /// Whether a log is being opened that is there.
    pub recovers: bool,
}

/// There is no space for a while: for so many acts that need some, the `at`th one from when it is set being the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Famine {
    pub at: usize,
    pub lasts: usize,
}

/// A sync that fails: the `at`th from when it is set.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub at: usize,
    /// Whether the kernel takes the pages for clean afterwards, as Linux does, or keeps them dirty.
    pub forgets: bool,
}

pub struct Machine {
    root: PathBuf,
    state: Mutex<State>,
}

struct State {
    disk: Disk,
    files: BTreeMap<usize, File>,
    mapped: BTreeSet<usize>,
    rng: Rng,
    clock: u64,
    moments: Option<Vec<Moment>>,
    /// Syncs under way, oldest first.
    syncing: Vec<(String, Begun)>,
    model: Arc<Model>,
    /// What the user asked for, and which part of it is done.
    asked: Phase,
    phase: Phase,
    fault: Option<Fault>,
    syncs: usize,
    failed: bool,
    famine: Option<Famine>,
    /// Acts that needed space since the famine was set.
    hungry: usize,
    /// Whether something found no space since the user asked for what is under way.
    refused: bool,
    /// Whether a file is being used again, and how many acts of an update of the manifest are to come.
    recycles: bool,
    updating: usize,
    dead: bool,
    scratch: Vec<u8>,
}

impl Machine {
    pub fn new(root: &Path, disk: Disk, model: &Arc<Model>, seed: u64) -> Arc<Self> {
        let state = State {
            disk,
            files: BTreeMap::new(),
            mapped: BTreeSet::new(),
            rng: Rng::new(seed),
            clock: seed,
            moments: None,
            syncing: Vec::new(),
            model: Arc::clone(model),
            asked: Phase::Idle,
            phase: Phase::Idle,
            fault: None,
            syncs: 0,
            failed: false,
            famine: None,
            hungry: 0,
            refused: false,
            recycles: false,
            updating: 0,
            dead: false,
            scratch: Vec::new(),
        };
        Arc::new(Self { root: root.to_owned(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on notes every moment.
    pub fn record(&self) {
        self.state().moments.get_or_insert_default();
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut state = self.state();
        (state.fault, state.syncs) = (fault, 0);
    }

    /// From now on there is space, or none for a while.
    pub fn set_famine(&self, famine: Option<Famine>) {
        let mut state = self.state();
        (state.famine, state.hungry) = (famine, 0);
    }

    /// Whether something found no space since the user asked for what is under way.
    pub fn has_refused(&self) -> bool {
        self.state().refused
    }

    /// Whether something found no space, and would find none now.
    pub fn is_full(&self) -> bool {
        self.state().is_full()
    }

    /// Whether `act` would be refused by a disk that is full.
    pub fn needs_space(&self, act: &Act<'_>) -> bool {
        let path = self.relative(act.path());
        self.state().needs_space(act, &path)
    }

    /// Whether the fault has come to pass.
    pub fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// What is done from now on, and what a crash may leave of it.
    pub fn enter(&self, phase: Phase, model: &Arc<Model>) {
        let mut state = self.state();
        (state.asked, state.phase, state.model) = (phase, phase, Arc::clone(model));
        (state.refused, state.recycles, state.updating) = (false, false, 0);
    }

    /// It is done: a crash now is one of its own.
    pub fn leave(&self, model: &Arc<Model>) {
        let mut state = self.state();
        state.model = Arc::clone(model);
        state.look();
        state.note(AT_REST.to_owned());
    }

    /// The process is gone: nothing reaches the machine any more. What it has noted, and its disk.
    pub fn kill(&self) -> (Vec<Moment>, Disk) {
        let mut state = self.state();
        state.look();
        state.dead = true;
        (state.moments.take().unwrap_or_default(), state.disk.clone())
    }

    /// What a crash would find now.
    pub fn disk(&self) -> Disk {
        let mut state = self.state();
        state.look();
        state.disk.clone()
    }

    /// Bytes of the newest segment that has any, frames and all, from the head of one of them or from anywhere.
    pub fn echo(&self, len: usize) -> Vec<u8> {
        let mut state = self.state();
        state.look();
        let names = state.disk.live.iter().rev().filter(|(path, _)| path.ends_with(".wal"));
        let live = names.filter_map(|(_, what)| match what {
            What::File(node) => Some(&state.disk.nodes[*node].live),
            What::Dir => None,
        });
        let used = live.map(|bytes| (Arc::clone(bytes), heads(bytes))).find(|(_, heads)| !heads.is_empty());
        let Some((bytes, heads)) = used else { return Vec::new() };
        let rng = &mut state.rng;
        let from = if rng.one_in(4) { FRAMES + rng.below(bytes.len() - FRAMES) } else { *rng.pick(&heads) };
        bytes[from..(from + len).min(bytes.len())].to_vec()
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned()
    }
}

impl Observer for Machine {
    fn before(&self, act: &Act<'_>) -> io::Result<()> {
        let mut state = self.state();
        if state.dead {
            return Err(io::Error::other("the process is dead"));
        }
        if changes(act) {
            state.look();
            let what = if state.moments.is_some() { describe(act) } else { String::new() };
            let is_refused = state.needs_space(act, &self.relative(act.path())) && state.is_refused();
            state.turn_to(act);
            state.note(what);
            if is_refused {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
        }
        if is_sync(act) {
            state.syncs += 1;
            let fault = state.fault.filter(|fault| fault.at == state.syncs);
            if let Some(Fault { forgets, .. }) = fault {
                state.failed = true;
                if forgets {
                    let path = self.relative(act.path());
                    state.lose(act, &path);
                }
                return Err(io::Error::from_raw_os_error(EIO));
            }
            let path = self.relative(act.path());
            state.begin_sync(act, path);
        }
        Ok(())
    }

    fn after(&self, act: &Act<'_>) {
        let path = self.relative(act.path());
        let mut state = self.state();
        if !state.dead {
            state.took_place(act, path, |to| self.relative(to));
        }
    }

    fn random(&self) -> Option<u64> {
        Some(self.state().rng.draw())
    }

    fn now(&self) -> Option<u64> {
        let mut state = self.state();
        state.clock += 1;
        Some(state.clock)
    }
}

pub fn changes(act: &Act<'_>) -> bool {
    let of_names = matches!(act, Act::MakeDir(_) | Act::Create(_) | Act::Rename { .. } | Act::Remove(_));
    let of_names = of_names || matches!(act, Act::Link { .. });
    of_names || is_sync(act) || matches!(act, Act::Allocate { .. } | Act::Write { .. })
}

/// Which bytes a sync of a file writes.
fn range_of(act: &Act<'_>) -> Option<std::ops::Range<usize>> {
    match *act {
        Act::SyncRange { offset, len, .. } => Some(offset as usize..(offset + len) as usize),
        Act::SyncFile(_) => Some(0..usize::MAX),
        _ => None,
    }
}

/// Whether `act` is about the manifest, or about one that takes its place.
pub fn is_manifest(act: &Act<'_>) -> bool {
    act.path().file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"MANIFEST"))
}

/// Whether the log goes on in a segment that the manifest of `disk` calls a spare, and `act` is about the manifest or the
/// segment that was active before.
pub fn is_sealing(disk: &Disk, act: &Act<'_>) -> bool {
    let live = |path: &str| disk.node(path).map(|node| &disk.nodes[node].live);
    let Some(manifest) = disk.live.keys().find(|path| path.ends_with("/MANIFEST")) else { return false };
    let dir = manifest.trim_end_matches("MANIFEST");
    let Some(Ok(said)) = live(manifest).map(|bytes| manifest::decode(bytes)) else { return false };
    let name = |ordinal: u64| format!("{ordinal:020}.wal");
    let is_begun = |ordinal: u64| {
        let bytes = live(&format!("{dir}{}", name(ordinal)));
        bytes.and_then(|bytes| bytes.get(BEGUN..BEGUN + 8)).is_some_and(|begun| begun != [0; 8])
    };
    let of = |kind: Kind| said.entries.iter().filter(move |entry| entry.kind() == kind);
    let is_active = || of(Kind::Active).any(|entry| act.path().ends_with(name(entry.ordinal)));
    (is_manifest(act) || is_active()) && of(Kind::Spare).any(|entry| is_begun(entry.ordinal))
}

pub fn is_sync(act: &Act<'_>) -> bool {
    matches!(act, Act::SyncRange { .. } | Act::SyncFile(_) | Act::SyncDir(_))
}

pub fn describe(act: &Act<'_>) -> String {
    let name = act.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    match act {
        Act::Write { offset, len, .. } => format!("write {len} bytes at {offset} of {name}"),
        Act::SyncRange { offset, len, .. } => format!("sync {len} bytes at {offset} of {name}"),
        Act::SyncFile(_) => format!("sync {name}"),
        Act::SyncDir(_) => format!("sync the names in {name}"),
        Act::Allocate { len, .. } => format!("allocate {len} bytes for {name}"),
        Act::Create(_) | Act::MakeDir(_) => format!("create {name}"),
        Act::Rename { .. } => format!("rename {name}"),
        Act::Link { .. } => format!("link {name}"),
        Act::Remove(_) => format!("remove {name}"),
        other => format!("{other:?}"),
    }
}

/// Where frames seem to begin, one behind the other.
fn heads(bytes: &[u8]) -> Vec<usize> {
    let mut heads = Vec::new();
    let mut at = FRAMES;
    while let Some(&[_, _, _, _, a, b, c, d, ref seq @ ..]) = bytes.get(at..at + 16)
        && seq.iter().any(|byte| *byte != 0)
    {
        heads.push(at);
        at = (at + 24 + u32::from_le_bytes([a, b, c, d]) as usize).next_multiple_of(8);
    }
    heads
}

/// The lock files: their content means nothing to recovery.
fn is_lock(path: &str) -> bool {
    path.ends_with("/LOCK") || path.ends_with("/READERS")
}

impl State {
    /// Takes in what was stored through maps.
    fn look(&mut self) {
        for node in &self.mapped {
            let Some(file) = self.files.get(node) else { continue };
            self.scratch.resize(self.disk.nodes[*node].live.len(), 0);
            let read = file.read_exact_at(&mut self.scratch, 0);
            read.expect("a mapped file is as long as it was");
            if *self.scratch != **self.disk.nodes[*node].live {
                self.disk.change(*node).found(&self.scratch);
            }
        }
    }

    fn note(&mut self, before: String) {
        let full = self.is_full();
        let is_starved = (full || self.refused) && self.asked != Phase::Repair;
        let phase = if is_starved { Phase::FullDisk } else { self.phase };
        let (recovers, failed) = (self.asked == Phase::Recover, self.failed);
        let Some(moments) = &mut self.moments else { return };
        let (disk, model) = (self.disk.clone(), Arc::clone(&self.model));
        moments.push(Moment { disk, model, phase, before, failed, full, recovers });
    }

    /// Whether something was refused for want of space, and would be again.
    fn is_full(&self) -> bool {
        let is_over = |famine: Famine| self.hungry >= famine.at.saturating_add(famine.lasts).saturating_sub(1);
        self.famine.is_some_and(|famine| self.hungry >= famine.at && !is_over(famine))
    }

    /// Counts an act that needs space; whether there is none.
    fn is_refused(&mut self) -> bool {
        let Some(famine) = self.famine else { return false };
        self.hungry += 1;
        let refused = (famine.at..famine.at.saturating_add(famine.lasts)).contains(&self.hungry);
        self.refused |= refused;
        refused
    }

    /// Whether a disk that is full would refuse `act`, which is about the file or directory at `path`.
    fn needs_space(&self, act: &Act<'_>, path: &str) -> bool {
        match *act {
            Act::MakeDir(_) | Act::Create(_) | Act::Link { .. } | Act::Rename { .. } => true,
            // No file of this disk has holes: what is there has its space.
            Act::Allocate { len, .. } => len > self.len_of(path),
            Act::Write { offset, len, .. } => offset + len > self.len_of(path),
            _ => false,
        }
    }

    fn len_of(&self, path: &str) -> u64 {
        self.disk.node(path).map_or(0, |node| self.disk.nodes[node].live.len() as u64)
    }

    /// Which part of an operation `act` belongs to.
    fn turn_to(&mut self, act: &Act<'_>) {
        if self.moments.is_none() || matches!(self.asked, Phase::Create | Phase::Recover | Phase::Close | Phase::Repair)
        {
            return;
        }
        let is_write = matches!(self.asked, Phase::Append | Phase::Batch);
        let of_manifest = if is_write { Phase::Manifest } else { self.asked };
        match act {
            Act::Write { .. } | Act::SyncFile(_) if act.path().ends_with("MANIFEST") => {
                if self.updating == 0 {
                    let recycles = std::mem::take(&mut self.recycles);
                    self.phase = if recycles { Phase::Recycle } else { of_manifest };
                    self.phase = if is_sealing(&self.disk, act) { Phase::Seal } else { self.phase };
                    self.updating = ACTS_OF_UPDATE;
                }
                self.updating -= 1;
            }
            _ if is_manifest(act) => self.phase = of_manifest,
            Act::SyncRange { .. } if is_sealing(&self.disk, act) => self.phase = Phase::Seal,
            Act::Link { .. } => (self.phase, self.recycles) = (Phase::Recycle, true),
            Act::Create(_) if is_write => self.phase = Phase::Rotate,
            _ => {}
        }
    }

    fn lose(&mut self, act: &Act<'_>, path: &str) {
        let (Some(range), Some(node)) = (range_of(act), self.disk.node(path)) else { return };
        self.disk.lose(node, range, &mut self.rng);
    }

    /// What is written while the sync runs is not promised to be in it.
    fn begin_sync(&mut self, act: &Act<'_>, path: String) {
        let (Some(range), Some(node)) = (range_of(act), self.disk.node(&path)) else { return };
        self.syncing.push((format!("{path} {range:?}"), self.disk.begin_sync(node, range)));
    }

    fn end_sync(&mut self, act: &Act<'_>, path: &str) {
        let (Some(range), Some(node)) = (range_of(act), self.disk.node(path)) else { return };
        let key = format!("{path} {range:?}");
        if let Some(index) = self.syncing.iter().position(|(begun, _)| *begun == key) {
            let (_, begun) = self.syncing.remove(index);
            self.disk.sync(node, &begun);
        }
    }

    /// The node of `path`, with a handle of our own.
    fn reach(&mut self, path: &str, real: &Path) -> Option<usize> {
        let node = self.disk.node(path)?;
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.files.entry(node) {
            vacant.insert(File::open(real).expect("the file is there"));
        }
        Some(node)
    }

    fn took_place(&mut self, act: &Act<'_>, path: String, relative: impl Fn(&Path) -> String) {
        match *act {
            Act::MakeDir(_) if !self.disk.live.contains_key(&path) => {
                self.disk.rename_or_link(NameOp::Link { path, what: What::Dir });
            }
            Act::Create(real) => {
                let node = self.disk.create(&path);
                self.files.insert(node, File::open(real).expect("the file is there"));
            }
            Act::Map(real) => {
                let node = self.reach(&path, real);
                self.mapped.extend(node);
            }
            Act::Allocate { len, .. } => {
                if let Some(node) = self.disk.node(&path) {
                    self.disk.change(node).set_len(len as usize);
                }
            }
            Act::Write { path: real, offset, len } if !is_lock(&path) => {
                if let Some(node) = self.reach(&path, real) {
                    let mut bytes = vec![0; len as usize];
                    self.files[&node].read_exact_at(&mut bytes, offset).expect("what was just written");
                    self.disk.change(node).wrote(offset as usize, &bytes);
                }
            }
            Act::SyncRange { .. } | Act::SyncFile(_) => self.end_sync(act, &path),
            Act::SyncDir(_) => self.disk.sync_dir(&path),
            Act::Rename { to, .. } => {
                if let Some(what) = self.disk.live.get(&path).copied() {
                    self.disk.rename_or_link(NameOp::Rename { from: path, to: relative(to), what });
                }
            }
            Act::Link { to, .. } => {
                if let Some(what) = self.disk.live.get(&path).copied() {
                    self.disk.rename_or_link(NameOp::Link { path: relative(to), what });
                }
            }
            Act::Remove(_) => {
                let node = self.disk.node(&path);
                self.disk.rename_or_link(NameOp::Unlink { path });
                if let Some(node) = node.filter(|node| !self.disk.is_named(*node)) {
                    self.mapped.remove(&node);
                    self.files.remove(&node);
                }
            }
            _ => {}
        }
    }
}
