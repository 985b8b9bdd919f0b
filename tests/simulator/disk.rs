//! What a disk and the page cache before it hold: of every file the live bytes, the durable ones, and every version of a
//! sector that was written since a sync covered it; of the names the live and the durable ones, and what lies between.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::image::Image;
use super::rng::Rng;

pub const SECTOR: usize = 512;
const PAGE: usize = 4096;

pub type Bytes = Arc<Vec<u8>>;

/// A file, whatever its names are now.
#[derive(Clone, Default)]
pub struct Node {
    /// What whoever reads the file sees.
    pub live: Bytes,
    /// What is on the disk for certain.
    pub durable: Bytes,
    /// Contents that sectors of dirty pages had since they were synced, oldest first; each may have reached the disk. A
    /// page that is clean and yet not on the disk (its sync has failed) is not here, and will not be written.
    pub dirty: BTreeMap<usize, Vec<Arc<[u8]>>>,
}

impl Node {
    fn of(bytes: &Bytes) -> Self {
        Self { live: Arc::clone(bytes), durable: Arc::clone(bytes), dirty: BTreeMap::new() }
    }

    pub fn set_len(&mut self, len: usize) {
        if self.live.len() < len {
            Arc::make_mut(&mut self.live).resize(len, 0);
        }
    }

    /// The file reads `bytes` at `at` because somebody wrote that there: the pages are dirty, changed or not.
    pub fn wrote(&mut self, at: usize, bytes: &[u8]) {
        self.set_len(at + bytes.len());
        if self.live[at..at + bytes.len()] != *bytes {
            Arc::make_mut(&mut self.live)[at..at + bytes.len()].copy_from_slice(bytes);
        }
        self.make_dirty(at..at + bytes.len());
    }

    /// The file was found to read `bytes`: stores to its map made pages dirty.
    pub fn found(&mut self, bytes: &[u8]) {
        if self.live.as_slice() == bytes {
            return;
        }
        let before = Arc::clone(&self.live);
        Arc::make_mut(&mut self.live).copy_from_slice(bytes);
        for at in (0..bytes.len()).step_by(PAGE) {
            let page = at..(at + PAGE).min(bytes.len());
            if before[page.clone()] != bytes[page.clone()] {
                self.make_dirty(page);
            }
        }
    }

    /// Whole pages are written back, so every sector of them may reach the disk.
    fn make_dirty(&mut self, range: Range<usize>) {
        let end = range.end.next_multiple_of(PAGE).min(self.live.len());
        for at in (range.start - range.start % PAGE..end).step_by(SECTOR) {
            let now = sector(&self.live, at);
            let is_durable = *now == *sector_or_zero(&self.durable, at, now.len());
            let known = self.dirty.get(&at).is_some_and(|seen| seen.iter().any(|version| **version == *now));
            if !is_durable && !known {
                self.dirty.entry(at).or_default().push(Arc::from(now));
            }
        }
    }

    /// What a sync that begins now will have written when it has ended.
    fn begin_sync(&self, range: Range<usize>) -> Begun {
        let seen = self.dirty.range(range).map(|(at, versions)| (*at, versions.len())).collect();
        Begun { live: Arc::clone(&self.live), seen }
    }

    /// Everything that was dirty when the sync began has reached the disk, and the length. What was written meanwhile may
    /// have or not.
    fn sync(&mut self, begun: &Begun) {
        if self.durable.len() < begun.live.len() {
            Arc::make_mut(&mut self.durable).resize(begun.live.len(), 0);
        }
        for (at, seen) in &begun.seen {
            let then = sector(&begun.live, *at);
            Arc::make_mut(&mut self.durable)[*at..at + then.len()].copy_from_slice(then);
            let later = self.dirty.remove(at).map(|versions| versions[(*seen).min(versions.len())..].to_vec());
            if later.as_ref().is_some_and(|later| !later.is_empty()) {
                self.dirty.insert(*at, later.unwrap_or_default());
            }
            let now = sector(&self.live, *at);
            if now != then {
                let versions = self.dirty.entry(*at).or_default();
                if !versions.iter().any(|version| **version == *now) {
                    versions.push(Arc::from(now));
                }
            }
        }
    }

    /// The sync of `range` has failed: some of it has reached the disk, and the kernel takes all of it for clean.
    fn lose(&mut self, range: Range<usize>, rng: &mut Rng) {
        let lost: Vec<usize> = self.dirty.range(range).map(|(at, _)| *at).collect();
        for at in lost {
            self.dirty.remove(&at);
            let now = sector(&self.live, at);
            if at + now.len() <= self.durable.len() && rng.one_in(3) {
                Arc::make_mut(&mut self.durable)[at..at + now.len()].copy_from_slice(now);
            }
        }
    }
}

/// A sync that has begun: what the file held, and how many versions of each dirty sector there were.
#[derive(Clone, Default)]
pub struct Begun {
    live: Bytes,
    seen: Vec<(usize, usize)>,
}

pub fn sector(bytes: &[u8], at: usize) -> &[u8] {
    &bytes[at..(at + SECTOR).min(bytes.len())]
}

fn sector_or_zero(bytes: &[u8], at: usize, len: usize) -> &[u8] {
    bytes.get(at..at + len).unwrap_or(&[0; SECTOR][..len])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Dir,
    File(usize),
}

/// A change of names that a sync of the directory has not covered yet. A link is a first name or one more.
#[derive(Clone, Debug)]
pub enum NameOp {
    Link { path: String, what: What },
    Unlink { path: String },
    Rename { from: String, to: String, what: What },
}

impl NameOp {
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Link { path, .. } | Self::Unlink { path } => vec![path],
            Self::Rename { from, to, .. } => vec![from, to],
        }
    }

    pub fn apply(&self, names: &mut BTreeMap<String, What>) {
        match self {
            Self::Link { path, what } => drop(names.insert(path.clone(), *what)),
            Self::Unlink { path } => drop(names.remove(path)),
            Self::Rename { from, to, what } => {
                names.remove(from);
                names.insert(to.clone(), *what);
            }
        }
    }
}

/// The directory in which `path` stands; the root is "".
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Paths are relative to a root that is always there.
#[derive(Clone, Default)]
pub struct Disk {
    pub nodes: Vec<Arc<Node>>,
    pub live: BTreeMap<String, What>,
    pub durable: BTreeMap<String, What>,
    pub pending: Vec<NameOp>,
}

impl Disk {
    /// After a power loss that left `image`.
    pub fn of(image: &Image) -> Self {
        let mut disk = Self::default();
        for dir in &image.dirs {
            disk.live.insert(dir.clone(), What::Dir);
        }
        let mut nodes = BTreeMap::new();
        for (node, bytes) in &image.contents {
            nodes.insert(*node, disk.nodes.len());
            disk.nodes.push(Arc::new(Node::of(bytes)));
        }
        for (path, node) in &image.files {
            disk.live.insert(path.clone(), What::File(nodes[node]));
        }
        disk.durable = disk.live.clone();
        disk
    }

    /// What is there after the process was killed and the system lives on.
    pub fn live_image(&self) -> Image {
        Image::of(&self.live, |node| Arc::clone(&self.nodes[node].live))
    }

    pub fn node(&self, path: &str) -> Option<usize> {
        match self.live.get(path) {
            Some(What::File(node)) => Some(*node),
            _ => None,
        }
    }

    /// Whether any name leads to `node`.
    pub fn is_named(&self, node: usize) -> bool {
        self.live.values().any(|what| *what == What::File(node))
    }

    pub fn change(&mut self, node: usize) -> &mut Node {
        Arc::make_mut(&mut self.nodes[node])
    }

    pub fn rename_or_link(&mut self, op: NameOp) {
        op.apply(&mut self.live);
        self.pending.push(op);
    }

    pub fn create(&mut self, path: &str) -> usize {
        let node = self.nodes.len();
        self.nodes.push(Arc::default());
        self.rename_or_link(NameOp::Link { path: path.to_owned(), what: What::File(node) });
        node
    }

    pub fn begin_sync(&self, node: usize, range: Range<usize>) -> Begun {
        self.nodes[node].begin_sync(range)
    }

    pub fn sync(&mut self, node: usize, begun: &Begun) {
        if begun.live.len() != self.nodes[node].durable.len() || !begun.seen.is_empty() {
            self.change(node).sync(begun);
        }
    }

    pub fn lose(&mut self, node: usize, range: Range<usize>, rng: &mut Rng) {
        self.change(node).lose(range, rng);
    }

    pub fn sync_dir(&mut self, dir: &str) {
        for op in std::mem::take(&mut self.pending) {
            if op.names().iter().any(|name| parent(name) == dir) {
                op.apply(&mut self.durable);
            } else {
                self.pending.push(op);
            }
        }
    }
}
