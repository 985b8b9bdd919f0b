//! Where the directory of a log is, or will be: a path that is resolved once, when the directory is opened.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::storage::dir::Dir;
use crate::storage::{Act, Inner, Observer, Owner, Storage, observed};

/// A directory that is not open yet, and may not be there.
pub(crate) struct Place {
    path: PathBuf,
    file_mode: u32,
    observer: Option<Arc<dyn Observer>>,
    owner: Owner,
}

impl Place {
    /// The directory `path`, there or not; new files get `file_mode`.
    pub(crate) fn new(path: &Path, file_mode: u32, observer: Option<Arc<dyn Observer>>) -> Self {
        Self { path: path.to_owned(), file_mode, observer, owner: Owner::current() }
    }

    /// The same place, for a handle of `owner`.
    pub(crate) fn owned_by(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    fn act<T>(&self, act: Act<'_>, run: impl FnOnce() -> io::Result<T>) -> Result<T> {
        self.owner.check()?;
        observed(self.observer.as_deref(), act, run)
    }

    /// Opens the directory, which must be there.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(&self) -> Result<Storage> {
        self.open_locking_memory(false)
    }

    /// Opens the directory, which is made if it is not there.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn made(&self) -> Result<Storage> {
        self.make_dirs()?;
        self.open()
    }

    /// Opens the directory, which must be there; what is mapped to be written is kept in memory if `lock_memory`.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open_locking_memory(&self, lock_memory: bool) -> Result<Storage> {
        let dir = self.act(Act::Open(&self.path), || Dir::open(&self.path))?;
        let (path, file_mode, observer, owner) = (self.path.clone(), self.file_mode, self.observer.clone(), self.owner);
        Ok(Storage(Arc::new(Inner { dir, path, file_mode, lock_memory, observer, owner })))
    }

    /// What its own name is, which may be a link; `None` if nothing has the name.
    pub(crate) fn kind(&self) -> Result<Option<std::fs::FileType>> {
        self.act(Act::Open(&self.path), || match self.path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|found| Some(found.file_type())),
        })
    }

    /// How many directories below `other` it is, or will be; `None` if it is elsewhere.
    pub(crate) fn depth_in(&self, other: &Storage) -> Result<Option<usize>> {
        self.act(Act::Open(&self.path), || {
            let log = other.0.dir.id()?.numbers();
            let id = |dir: &Path| dir.metadata().map(|found| (found.dev(), found.ino()));
            let whole = std::path::absolute(&self.path)?;
            let mut missing = 0;
            for dir in whole.ancestors() {
                match dir.canonicalize() {
                    Ok(real) => {
                        let depth = real.ancestors().position(|dir| id(dir).is_ok_and(|id| id == log));
                        return Ok(depth.map(|depth| depth + missing));
                    }
                    Err(e) if e.kind() == io::ErrorKind::NotFound => missing += 1,
                    Err(e) => return Err(e),
                }
            }
            Ok(None)
        })
    }

    /// Makes the directory and those above it that are missing.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn make_dirs(&self) -> Result<()> {
        let missing: Vec<&Path> = self.path.ancestors().take_while(|dir| is_missing(dir)).collect();
        missing.into_iter().rev().try_for_each(|dir| self.make_dir(dir))
    }

    fn make_dir(&self, dir: &Path) -> Result<()> {
        let searchable = self.file_mode | ((self.file_mode & 0o444) >> 2);
        self.act(Act::MakeDir(dir), || match std::fs::DirBuilder::new().mode(searchable).create(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            other => other,
        })
    }
}

fn is_missing(dir: &Path) -> bool {
    !dir.as_os_str().is_empty() && matches!(dir.symlink_metadata(), Err(e) if e.kind() == io::ErrorKind::NotFound)
}
