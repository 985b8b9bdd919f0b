//! A repair: new segments, other names for the damaged ones, one update of the manifest.
//!
//! New segments come first, under new ordinals; then every file that goes gets a second name; then the manifest changes
//! in one step; only then are the old names taken away. A crash at any point leaves the old log or the new one, and
//! every byte of the old one under some name.

use crate::error::{Error, Operation, Result};
use crate::format::manifest::Entry;
use crate::format::name::MANIFEST;
use crate::format::segment::{IDENTITY_AT, Identity};
use crate::inspect::assess::Tail;
use crate::inspect::files::Loaded;
use crate::inspect::make::{Frames, Source, begin, write_sealed};
use crate::inspect::plan::{RepairPlan, SetAside};
use crate::inspect::survey::{Slot, Survey};
use crate::manifest::{Manifest, ManifestFile, remove_if_there};
use crate::planted::{Bug, planted};
use crate::recovery::{Locks, draw_salt};
use crate::segment::{Preparation, Spare, file_name};
use crate::storage::Storage;

/// Carries out `plan`, if it is still what the log needs.
pub(crate) fn repair(storage: &Storage, plan: &RepairPlan) -> Result<()> {
    let lock = Locks::take(storage)?;
    carry_out(storage, plan)?;
    lock.unlock()
}

fn carry_out(storage: &Storage, plan: &RepairPlan) -> Result<()> {
    let mut survey = Survey::take(storage)?;
    survey.plan.user_tag = plan.user_tag;
    if survey.plan != *plan {
        return Err(Error::Stale { path: Box::new(storage.dir().to_owned()) });
    }
    let mut work = Work { storage, survey: &survey, made: Vec::new(), salts: salts(&survey) };
    match work.prepare() {
        Ok(ready) => work.finish(ready),
        Err(e) => {
            // What made it fail is what the caller must hear; what is left is in nobody's way.
            work.made.iter().for_each(|name| drop(remove_if_there(storage, name)));
            Err(e)
        }
    }
}

fn salts(survey: &Survey) -> Vec<u32> {
    survey.found.manifest.entries.iter().map(|entry| entry.salt).collect()
}

struct Work<'a> {
    storage: &'a Storage,
    survey: &'a Survey,
    /// Names that were made and that the log does not need yet.
    made: Vec<String>,
    /// Salts that are taken.
    salts: Vec<u32>,
}

/// What is to be written when everything else is durable.
struct Ready {
    /// `None` if there is none yet.
    manifest: Option<ManifestFile>,
    next: Manifest,
}

impl Work<'_> {
    /// Does everything that the log does not notice.
    fn prepare(&mut self) -> Result<Ready> {
        let next = self.next_manifest()?;
        for aside in self.survey.plan.set_aside.iter().filter(|aside| !aside.is_linked) {
            self.link(aside)?;
        }
        if !planted(Bug::RepairNamesNotSynced) {
            self.storage.sync_dir()?;
        }
        if self.survey.is_rebuilt {
            // Want of space shows before the new manifest gets its name.
            return Ok(Ready { manifest: None, next });
        }
        let absent = || Error::Stale { path: Box::new(self.storage.dir().to_owned()) };
        let mut manifest = ManifestFile::open(self.storage)?.ok_or_else(absent)?;
        manifest.settle()?;
        manifest.make_room(next.entries.len().saturating_sub(manifest.current().entries.len()))?;
        Ok(Ready { manifest: Some(manifest), next })
    }

    /// Makes the segments that are needed; returns what the log will be.
    fn next_manifest(&mut self) -> Result<Manifest> {
        let mut next = self.survey.found.manifest.clone();
        next.entries.clear();
        let mut loaded: Option<(u64, Loaded)> = None;
        for slot in &self.survey.sealed {
            let entry = self.sealed(slot, &mut loaded)?;
            next.entries.push(entry);
        }
        match &self.survey.found.tail {
            Tail::Kept(entries) => next.entries.extend(entries),
            Tail::Fresh { base_seq, capacity, reused, spares } => {
                let active = match (reused, self.survey.fresh) {
                    (None, Some(ordinal)) => self.fresh(ordinal, *capacity)?,
                    (reused, _) => reused.unwrap_or(*self.survey.found.manifest.active()),
                };
                next.entries.push(Entry { base_seq: *base_seq, ..active });
                next.entries.extend(spares);
                next.header.clean_offset = 0;
            }
        }
        if self.survey.is_rebuilt && !self.survey.is_older {
            next.header.user_tag = self.survey.plan.user_tag;
        }
        Ok(next)
    }

    fn sealed(&mut self, slot: &Slot, loaded: &mut Option<(u64, Loaded)>) -> Result<Entry> {
        match slot {
            Slot::Kept(entry) => Ok(*entry),
            Slot::Empty { ordinal, base_seq } => {
                let (frames, created) = (Frames::none(*base_seq), self.storage.now());
                let replaces = self.survey.found.manifest.entries[0].ordinal;
                self.write(*ordinal, &frames, |identity| Identity { created, replaces, ..identity })
            }
            Slot::Copied { ordinal, from, created, stretch } => {
                let name = file_name(from.ordinal);
                let bytes = match loaded.take() {
                    Some((of, bytes)) if of == from.ordinal => bytes,
                    _ => Loaded::read(self.storage, name.as_str(), from.capacity as usize)?,
                };
                let salt = self.draw()?;
                let (from_mark, to) = (stretch.whole_from, stretch.whole_to);
                let whole = from_mark.offset..to.offset;
                let (path, of, frames) = (self.storage.path(name.as_str()), from.salt, &bytes.frames[..]);
                let source = Source { path, of, frames, from: from_mark, to, whole, least_seq: 0, salt };
                let frames = Frames::copy(&source)?;
                // What was made by an earlier repair stands where the segment stood that was damaged first.
                let first = bytes.identity().map(|identity| identity.replaces).filter(|ordinal| *ordinal != 0);
                let (created, replaces) = (*created, first.unwrap_or(from.ordinal));
                *loaded = Some((from.ordinal, bytes));
                self.write(*ordinal, &frames, |identity| Identity { salt, created, replaces, ..identity })
            }
        }
    }

    fn write(&mut self, ordinal: u64, frames: &Frames, what: impl FnOnce(Identity) -> Identity) -> Result<Entry> {
        let (log_id, salt) = (self.survey.found.manifest.header.log_id, self.draw()?);
        let identity = Identity { salt, log_id, ordinal, capacity: frames.capacity(), created: 0, replaces: 0 };
        write_sealed(self.storage, &what(identity), frames, &mut self.made)
    }

    fn draw(&mut self) -> Result<u32> {
        let salt = draw_salt(self.storage, &self.salts)?;
        self.salts.push(salt);
        Ok(salt)
    }

    /// A segment for the log to go on in.
    fn fresh(&mut self, ordinal: u64, capacity: u64) -> Result<Entry> {
        let (log_id, salt) = (self.survey.found.manifest.header.log_id, self.draw()?);
        let spare = Spare::prepare(self.storage, &Preparation { log_id, ordinal, salt, capacity, sync_zeros: true })?;
        self.made.push(file_name(ordinal).as_str().to_owned());
        Ok(spare.entry)
    }

    fn link(&mut self, aside: &SetAside) -> Result<()> {
        match self.storage.link(&aside.name, &aside.as_name) {
            Err(e) if is_without_links(&e) => {
                let reason = "the file system has no hard links, by which a repair keeps damaged files; \
                              copy the directory to another one and repair it there";
                Err(Error::io(Operation::Link, &self.storage.path(&aside.name), std::io::Error::other(reason)))
            }
            other => other.map(|()| self.made.push(aside.as_name.clone())),
        }
    }

    /// Changes the log, and takes away what it does not need any more.
    fn finish(&self, ready: Ready) -> Result<()> {
        let Ready { manifest, next } = ready;
        let entries = next.entries.clone();
        if planted(Bug::RepairRemovesFirst) {
            self.remove_old_names()?;
        }
        match manifest {
            Some(mut manifest) if *manifest.current() != next => manifest.update(|now| {
                now.header.clean_offset = next.header.clean_offset;
                now.entries = next.entries;
            })?,
            Some(_) => {}
            None => {
                ManifestFile::create(self.storage, next).map(drop).inspect_err(|e| {
                    if matches!(e, Error::NoSpace(_)) {
                        self.made.iter().for_each(|name| drop(remove_if_there(self.storage, name)));
                    }
                })?;
            }
        }
        for ordinal in &self.survey.plan.headers {
            let named = entries.iter().find(|entry| entry.ordinal == *ordinal);
            named.map_or(Ok(()), |entry| self.restore_header(entry))?;
        }
        if let Tail::Fresh { base_seq, .. } = self.survey.found.tail {
            let active = entries.iter().find(|entry| entry.base_seq == base_seq && entry.end_offset == 0);
            active.map_or(Ok(()), |entry| begin(self.storage, entry))?;
        }
        self.remove_old_names()?;
        self.storage.sync_dir()
    }

    /// Of files that have others by now.
    fn remove_old_names(&self) -> Result<()> {
        let old = self.survey.plan.set_aside.iter().map(|aside| aside.name.as_str());
        old.filter(|name| *name != MANIFEST).try_for_each(|name| remove_if_there(self.storage, name))
    }

    fn restore_header(&self, entry: &Entry) -> Result<()> {
        let name = file_name(entry.ordinal);
        let copies = Loaded::read(self.storage, name.as_str(), 0)?.identities();
        let other = copies.iter().flatten().next();
        let (created, replaces) = other.map_or((0, 0), |copy| (copy.created, copy.replaces));
        let Entry { ordinal, salt, capacity, .. } = *entry;
        let log_id = self.survey.found.manifest.header.log_id;
        let whole = Identity { salt, log_id, ordinal, capacity, created, replaces }.encode();
        let file = self.storage.open_write(name.as_str())?;
        for (at, _) in IDENTITY_AT.into_iter().zip(copies).filter(|(_, copy)| copy.is_none()) {
            file.write_at(&whole, at as u64)?;
        }
        file.sync()
    }
}

fn is_without_links(e: &Error) -> bool {
    use rustix::io::Errno;
    let kinds = [Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS, Errno::MLINK].map(|errno| Some(errno.raw_os_error()));
    matches!(e, Error::Io(failure) if kinds.contains(&failure.source.raw_os_error()))
}
