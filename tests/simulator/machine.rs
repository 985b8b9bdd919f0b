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

/// What the log was about when the power failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Create,
    Recover,
    Append,
    Batch,
    Rotate,
    Recycle,
    Sync,
    Manifest,
    Checkpoint,
    Truncate,
    TruncateBack,
    Reset,
    Meta,
    Close,
    Idle,
}

/// Where the frames of a segment begin.
const FRAMES: usize = 8192;

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

    /// Whether the fault has come to pass.
    pub fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// What is done from now on, and what a crash may leave of it.
    pub fn enter(&self, phase: Phase, model: &Arc<Model>) {
        let mut state = self.state();
        (state.asked, state.phase, state.model) = (phase, phase, Arc::clone(model));
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
            state.turn_to(act);
            state.note(what);
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
                return Err(io::Error::from_raw_os_error(5));
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
        let Some(moments) = &mut self.moments else { return };
        let (disk, model) = (self.disk.clone(), Arc::clone(&self.model));
        moments.push(Moment { disk, model, phase: self.phase, before, failed: self.failed });
    }

    /// Which part of an operation `act` belongs to.
    fn turn_to(&mut self, act: &Act<'_>) {
        let is_write = matches!(self.asked, Phase::Append | Phase::Batch);
        if matches!(act, Act::Link { .. }) {
            self.phase = Phase::Recycle;
        } else if act.path().ends_with("MANIFEST") {
            self.phase = if is_write { Phase::Manifest } else { self.asked };
        } else if is_write && self.phase != Phase::Manifest && matches!(act, Act::Create(_)) {
            self.phase = Phase::Rotate;
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
