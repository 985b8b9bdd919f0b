//! A new log of every record that verifies.

use std::path::Path;

use crate::error::{Error, Operation, Result};
use crate::format::manifest::{Entry, Header};
use crate::format::name::LOCK;
use crate::format::segment::{FRAMES_AT, Identity};
use crate::inspect::assess::{Part, Tail};
use crate::inspect::files::Loaded;
use crate::inspect::make::{Frames, Source, begin, write_sealed};
use crate::inspect::runs::{Mark, Stretch};
use crate::inspect::survey::Survey;
use crate::manifest::{Manifest, ManifestFile};
use crate::recovery::{Locks, draw_salt, random_id};
use crate::segment::{Preparation, Spare, file_name};
use crate::storage::{Listed, Storage};

/// What was copied into a new log.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Salvage {
    /// Records that were copied.
    pub records: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// How many of them are of batches that may not be whole; each is a batch of its own now.
    pub partial: u64,
    /// Numbers, first and last, that no record was found for.
    pub gaps: Vec<(u64, u64)>,
    /// The number of the next record.
    pub next_seq: u64,
    /// Whether the name of the directory is durable, as [`RecoveryReport::name_synced`](crate::RecoveryReport) says.
    pub name_synced: bool,
}

/// Copies every record of `storage` that verifies into a new log in `dir`.
pub(crate) fn salvage(storage: &Storage, dir: &Path) -> Result<Salvage> {
    let survey = Survey::settled(storage)?;
    let out = storage.elsewhere(dir, 0o600).made()?;
    refuse_unless_empty(&out, |file| file.name == LOCK && file.len == 0)?;
    let lock = Locks::take(&out)?;
    // Another process may have made a log there before the lock was taken.
    refuse_unless_empty(&out, |file| file.name == LOCK)?;
    let copied = copy(storage, &survey, &out)?;
    let name_synced = out.sync_own_name()?;
    lock.unlock()?;
    Ok(Salvage { name_synced, ..copied })
}

fn refuse_unless_empty(out: &Storage, may_be_there: impl Fn(&Listed) -> bool) -> Result<()> {
    if out.list()?.iter().all(may_be_there) {
        return Ok(());
    }
    let source = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "the directory is not empty");
    Err(Error::io(Operation::Salvage, out.dir(), source))
}

fn copy(from: &Storage, survey: &Survey, out: &Storage) -> Result<Salvage> {
    let log_id = random_id(out)?;
    let mut copy = Copy { from, survey, out, log_id, entries: Vec::new(), done: Salvage::default() };
    copy.run()?;
    Ok(copy.done)
}

struct Copy<'a> {
    from: &'a Storage,
    survey: &'a Survey,
    out: &'a Storage,
    log_id: [u8; 16],
    entries: Vec<Entry>,
    done: Salvage,
}

impl Copy<'_> {
    fn run(&mut self) -> Result<()> {
        let found = &self.survey.found;
        let header = found.manifest.header;
        let mut next_seq = header.first_seq;
        let mut loaded: Option<(u64, Loaded)> = None;
        for part in found.parts.iter().chain(&found.end_parts) {
            let (entry, created, stretch) = match part {
                Part::Kept(entry) => (entry, 0, whole(entry)),
                Part::Copied { entry, created, stretch } => (entry, *created, *stretch),
            };
            if stretch.to.seq <= header.first_seq || stretch.from.seq == stretch.to.seq {
                continue;
            }
            let bytes = match loaded.take() {
                Some((of, bytes)) if of == entry.ordinal => bytes,
                _ => Loaded::read(self.from, file_name(entry.ordinal).as_str(), entry.capacity as usize)?,
            };
            self.copy(&bytes, entry, created, &stretch, &mut next_seq)?;
            loaded = Some((entry.ordinal, bytes));
        }
        let base_seq = match &found.tail {
            Tail::Kept(_) => next_seq.max(self.end_seq()),
            Tail::Fresh { base_seq, .. } => *base_seq,
        };
        self.gap(next_seq, base_seq)?;
        self.finish(base_seq)
    }

    /// The number behind the records of an end that stays.
    fn end_seq(&self) -> u64 {
        self.survey.found.end_parts.iter().fold(0, |seq, part| match part {
            Part::Copied { stretch, .. } => seq.max(stretch.to.seq),
            Part::Kept(_) => seq,
        })
    }

    fn copy(
        &mut self,
        bytes: &Loaded,
        entry: &Entry,
        created: u64,
        stretch: &Stretch,
        next_seq: &mut u64,
    ) -> Result<()> {
        let least_seq = self.survey.found.manifest.header.first_seq;
        self.gap(*next_seq, stretch.from.seq)?;
        let salt = draw_salt(self.out, &self.salts())?;
        let whole = stretch.whole_from.offset..stretch.whole_to.offset;
        let (from, to) = (stretch.from, stretch.to);
        let path = self.from.path(file_name(entry.ordinal).as_str());
        let source = Source { path, of: entry.salt, frames: &bytes.frames, from, to, whole, least_seq, salt };
        let frames = Frames::copy(&source)?;
        self.write(&frames, salt, created)?;
        let shown = |from: u64, to: u64| to.saturating_sub(from.max(least_seq));
        self.done.records += frames.count();
        self.done.bytes += frames.len() as u64;
        self.done.partial +=
            shown(stretch.from.seq, stretch.whole_from.seq) + shown(stretch.whole_to.seq, stretch.to.seq);
        *next_seq = to.seq;
        Ok(())
    }

    /// Takes note of the numbers from `from` to before `to`; at the front, an empty segment shows them.
    fn gap(&mut self, from: u64, to: u64) -> Result<()> {
        if from < to {
            self.done.gaps.push((from, to - 1));
            if self.entries.is_empty() {
                let salt = draw_salt(self.out, &[])?;
                self.write(&Frames::none(from), salt, 0)?;
            }
        }
        Ok(())
    }

    fn salts(&self) -> Vec<u32> {
        self.entries.iter().map(|entry| entry.salt).collect()
    }

    fn write(&mut self, frames: &Frames, salt: u32, created: u64) -> Result<()> {
        let created = if created == 0 { self.out.now() } else { created };
        let (log_id, ordinal) = (self.log_id, self.entries.len() as u64 + 1);
        let identity = Identity { salt, log_id, ordinal, capacity: frames.capacity(), created, replaces: 0 };
        let entry = write_sealed(self.out, &identity, frames, &mut Vec::new())?;
        self.entries.push(entry);
        Ok(())
    }

    /// Makes what is written a log: the manifest comes last.
    fn finish(&mut self, base_seq: u64) -> Result<()> {
        self.done.next_seq = base_seq;
        let before = &self.survey.found.manifest;
        let unsealed = &before.entries[before.active_index()..];
        let capacity = unsealed.get(1).unwrap_or(&unsealed[0]).capacity;
        let (log_id, ordinal) = (self.log_id, self.entries.len() as u64 + 1);
        let salt = draw_salt(self.out, &self.salts())?;
        let active = Spare::prepare(self.out, &Preparation { log_id, ordinal, salt, capacity, sync_zeros: true })?;
        let active = Entry { base_seq, ..active.entry };
        begin(self.out, &active)?;
        self.entries.push(active);
        let header = Header { generation: 1, log_id, clean_offset: 0, ..before.header };
        let manifest = Manifest { header, meta: before.meta.clone(), entries: std::mem::take(&mut self.entries) };
        ManifestFile::create(self.out, manifest).map(drop)
    }
}

/// All frames of a sealed segment that is sound.
fn whole(entry: &Entry) -> Stretch {
    let from = Mark { offset: FRAMES_AT, seq: entry.base_seq };
    let to = Mark { offset: entry.end_offset as usize, seq: entry.last_seq + 1 };
    Stretch { from, whole_from: from, whole_to: to, to }
}
