//! What a crash leaves: one directory tree, made of what is durable and of a choice among what is not.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::disk::{Bytes, Disk, SECTOR, What, parent};
use super::rng::{Digest, Rng};

const PAGE: usize = 4096;

#[derive(Clone, Default)]
pub struct Image {
    pub dirs: BTreeSet<String>,
    /// The file of each name; two names can be of one file.
    pub files: BTreeMap<String, usize>,
    /// What each file holds.
    pub contents: BTreeMap<usize, Bytes>,
}

impl Image {
    /// The tree of `names`; what stands in a directory that is not there is lost with it.
    pub fn of(names: &BTreeMap<String, What>, bytes: impl Fn(usize) -> Bytes) -> Self {
        let mut image = Self::default();
        for (path, what) in names {
            let above = parent(path);
            if !above.is_empty() && !image.dirs.contains(above) {
                continue;
            }
            match what {
                What::Dir => drop(image.dirs.insert(path.clone())),
                What::File(node) => {
                    image.files.insert(path.clone(), *node);
                    image.contents.entry(*node).or_insert_with(|| bytes(*node));
                }
            }
        }
        image
    }

    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        self.dirs.iter().for_each(|dir| digest.bytes(dir.as_bytes()));
        let mut first_names: BTreeMap<usize, &str> = BTreeMap::new();
        for (path, node) in &self.files {
            digest.bytes(path.as_bytes());
            if let Some(first) = first_names.get(node) {
                digest.bytes(first.as_bytes());
                continue;
            }
            first_names.insert(*node, path);
            let bytes = &self.contents[node];
            digest.word(bytes.len() as u64);
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                if !is_zero(sector) {
                    digest.word(index as u64);
                    digest.bytes(sector);
                }
            }
        }
        digest.value()
    }

    /// Makes it real, below `root`.
    pub fn materialise(&self, root: &Path) -> io::Result<()> {
        for dir in &self.dirs {
            DirBuilder::new().create(root.join(dir))?;
        }
        let mut first_names: BTreeMap<usize, &str> = BTreeMap::new();
        for (path, node) in &self.files {
            if let Some(first) = first_names.get(node) {
                std::fs::hard_link(root.join(first), root.join(path))?;
                continue;
            }
            first_names.insert(*node, path);
            let bytes = &self.contents[node];
            let file = File::create_new(root.join(path))?;
            file.set_len(bytes.len() as u64)?;
            for (index, page) in bytes.chunks(PAGE).enumerate() {
                if !is_zero(page) {
                    file.write_all_at(page, (index * PAGE) as u64)?;
                }
            }
        }
        Ok(())
    }

    /// The files of `dir`, by name.
    pub fn files_in(&self, dir: &str) -> BTreeMap<String, Vec<u8>> {
        let inside = self.files.iter().filter(|(path, _)| parent(path) == dir);
        inside.map(|(path, node)| (path[dir.len() + 1..].to_owned(), self.contents[node].to_vec())).collect()
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| word.iter().fold(0, |sum, byte| sum | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Something that may have reached the disk or not.
#[derive(Clone, Copy)]
enum Doubt {
    Name(usize),
    Len(usize),
    Sector { node: usize, at: usize, versions: usize },
}

impl Doubt {
    /// In how many ways it can end; way 0 is not to have reached the disk, the last is its newest version.
    fn ways(self) -> usize {
        match self {
            Self::Name(_) | Self::Len(_) => 2,
            Self::Sector { versions, .. } => versions + 1,
        }
    }
}

/// All that a power loss can leave of a disk.
pub struct Doubts<'a> {
    disk: &'a Disk,
    doubts: Vec<Doubt>,
}

/// One way for each doubt.
pub type Choice = Vec<usize>;

impl<'a> Doubts<'a> {
    pub fn of(disk: &'a Disk) -> Self {
        let mut doubts: Vec<Doubt> = (0..disk.pending.len()).map(Doubt::Name).collect();
        let mut names = disk.durable.clone();
        let mut named: BTreeSet<usize> = nodes_of(&names);
        for op in &disk.pending {
            op.apply(&mut names);
            named.append(&mut nodes_of(&names));
        }
        for index in named {
            let node = &disk.nodes[index];
            if node.live.len() != node.durable.len() {
                doubts.push(Doubt::Len(index));
            }
            let sectors = node.dirty.iter();
            doubts.extend(sectors.map(|(at, seen)| Doubt::Sector { node: index, at: *at, versions: seen.len() }));
        }
        Self { disk, doubts }
    }

    /// Every choice if there are at most `all_below`, otherwise `some` of them: corner cases, then random ones.
    pub fn choices(&self, all_below: usize, some: usize, rng: &mut Rng) -> Vec<Choice> {
        let total = self.doubts.iter().try_fold(1_usize, |total, doubt| total.checked_mul(doubt.ways()));
        match total {
            Some(total) if total <= all_below => (0..total).map(|number| self.numbered(number)).collect(),
            _ => self.some(some, rng),
        }
    }

    /// Nothing of it has reached the disk.
    pub fn none(&self) -> Choice {
        vec![0; self.doubts.len()]
    }

    fn numbered(&self, mut number: usize) -> Choice {
        let mut digit = |doubt: &Doubt| {
            let way = number % doubt.ways();
            number /= doubt.ways();
            way
        };
        self.doubts.iter().map(&mut digit).collect()
    }

    fn some(&self, count: usize, rng: &mut Rng) -> Vec<Choice> {
        let len = self.doubts.len();
        let newest: Choice = self.doubts.iter().map(|doubt| doubt.ways() - 1).collect();
        let mut choices = vec![vec![0; len], newest.clone()];
        while choices.len() < count {
            let one = rng.below(len);
            let choice = match rng.below(6) {
                0 => (0..len).map(|i| if i == one { newest[i] } else { 0 }).collect(),
                1 => (0..len).map(|i| if i == one { 0 } else { newest[i] }).collect(),
                2 => (0..len).map(|i| if i < one { newest[i] } else { 0 }).collect(),
                3 => (0..len).map(|i| if i < one { 0 } else { newest[i] }).collect(),
                density => {
                    let lost_in = if density == 4 { 2 } else { 8 };
                    let way = |i: usize| if rng.one_in(lost_in) { 0 } else { 1 + rng.below(newest[i]) };
                    (0..len).map(way).collect()
                }
            };
            choices.push(choice);
        }
        let mut seen = HashSet::new();
        choices.retain(|choice| seen.insert(choice.clone()));
        choices
    }

    /// What is left if `choice` reached the disk. A change of a name counts only with all earlier ones of that name.
    pub fn image(&self, choice: &Choice) -> Image {
        let mut names = self.disk.durable.clone();
        let mut held_back: HashSet<&str> = HashSet::new();
        let mut nodes: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut changed = |node: usize| {
            nodes.entry(node).or_insert_with(|| self.disk.nodes[node].durable.to_vec());
        };
        for (doubt, way) in self.doubts.iter().zip(choice) {
            match *doubt {
                Doubt::Name(index) => {
                    let op = &self.disk.pending[index];
                    if *way == 0 || op.names().iter().any(|name| held_back.contains(name)) {
                        held_back.extend(op.names());
                    } else {
                        op.apply(&mut names);
                    }
                }
                Doubt::Len(node) | Doubt::Sector { node, .. } if *way > 0 => changed(node),
                Doubt::Len(_) | Doubt::Sector { .. } => {}
            }
        }
        self.doubts.iter().zip(choice).for_each(|(doubt, way)| self.settle(*doubt, *way, &mut nodes));
        let nodes: BTreeMap<usize, Bytes> = nodes.into_iter().map(|(node, bytes)| (node, Arc::new(bytes))).collect();
        let bytes = |node: usize| nodes.get(&node).unwrap_or(&self.disk.nodes[node].durable).clone();
        Image::of(&names, bytes)
    }

    /// Lengths come before sectors, of which those behind the end of a file are lost.
    fn settle(&self, doubt: Doubt, way: usize, nodes: &mut BTreeMap<usize, Vec<u8>>) {
        match doubt {
            Doubt::Len(node) if way > 0 => {
                let len = self.disk.nodes[node].live.len();
                nodes.entry(node).and_modify(|bytes| bytes.resize(len, 0));
            }
            Doubt::Sector { node, at, .. } if way > 0 => {
                let version = &self.disk.nodes[node].dirty[&at][way - 1];
                let bytes = nodes.get_mut(&node).and_then(|bytes| bytes.get_mut(at..at + version.len()));
                if let Some(bytes) = bytes {
                    bytes.copy_from_slice(version);
                }
            }
            _ => {}
        }
    }
}

fn nodes_of(names: &BTreeMap<String, What>) -> BTreeSet<usize> {
    let node = |what: &What| match what {
        What::File(node) => Some(*node),
        What::Dir => None,
    };
    names.values().filter_map(node).collect()
}
