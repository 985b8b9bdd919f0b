//! The files of a log, so that it is seen what became of them.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mmap_wal::inspect::RepairPlan;

use crate::crash_test::repair::damage::MANIFEST;

/// Files that a writer keeps for itself and for those who look on: no part of what the log says.
const BESIDE: [&str; 3] = ["LOCK", "READERS", "STATS"];
/// What names end in that are not final.
const UNFINISHED: [&str; 2] = [".new", ".tmp"];
/// Where frames begin: before them a segment says what it is, which a repair may have to write again.
const FRAMES_AT: usize = 8192;

/// A file, as far as one has to know it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    inode: u64,
    whole: u64,
    frames: u64,
}

/// The files in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files(BTreeMap<String, Print>);

impl Files {
    /// Reads all of them.
    pub(crate) fn of(dir: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !BESIDE.contains(&name.as_str()) {
                let bytes = fs::read(entry.path())?;
                let frames = hash(bytes.get(FRAMES_AT..).unwrap_or_default());
                files.insert(name, Print { inode: entry.metadata()?.ino(), whole: hash(&bytes), frames });
            }
        }
        Ok(Self(files))
    }

    /// That no file is gone in `now`, after a repair was begun: those that `plan` sets aside have one name or the other,
    /// or both, and the frames of segments are what they were.
    pub(crate) fn outlive(&self, now: &Self, plan: &RepairPlan) -> Result<(), String> {
        for (name, print) in &self.0 {
            let found = now.0.get(name);
            let aside = plan.set_aside.iter().find(|aside| aside.name == *name);
            let is_kept = match aside {
                Some(aside) => [found, now.0.get(&aside.as_name)].contains(&Some(print)),
                None if name == MANIFEST => found.is_some(),
                None if UNFINISHED.iter().any(|ending| name.ends_with(ending)) => true,
                None if name.ends_with(".wal") => found.is_some_and(|found| found.frames == print.frames),
                None => found == Some(print),
            };
            if !is_kept {
                return Err(format!("the bytes of {name} are gone"));
            }
        }
        Ok(())
    }

    /// That all of them are in `now` as they are here.
    pub(crate) fn stay(&self, now: &Self) -> Result<(), String> {
        let gone = self.0.iter().find(|(name, print)| now.0.get(*name) != Some(*print));
        gone.map_or(Ok(()), |(name, _)| Err(format!("{name}, which a repair had set aside, is gone or another one")))
    }

    /// Those that `plan` has set aside, by the names that they got; the error names one that is not there.
    pub(crate) fn aside(&self, plan: &RepairPlan, before: &Self) -> Result<Self, String> {
        let mut found = Self::default();
        for aside in &plan.set_aside {
            match (before.0.get(&aside.name), self.0.get(&aside.as_name)) {
                (Some(print), Some(kept)) if print == kept => found.0.insert(aside.as_name.clone(), *kept),
                _ => return Err(format!("{} is not what {} was", aside.as_name, aside.name)),
            };
        }
        Ok(found)
    }

    /// Adds `more`.
    pub(crate) fn add(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// The names that are neither of the log nor those of files that were set aside.
    pub(crate) fn strangers<'a>(&self, others: &'a [String]) -> Option<&'a String> {
        others.iter().find(|name| !self.0.contains_key(*name))
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
