//! The whole of a log that may be damaged: what is found, and what a repair would make of it.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::format::manifest::Entry;
use crate::format::name::{MANIFEST, SegmentName};
use crate::format::segment::{FRAMES_AT, Identity};
use crate::inspect::assess::{Assessment, Extent, Files, Part, Tail};
use crate::inspect::ending::assess_end;
use crate::inspect::files::Loaded;
use crate::inspect::plan::{Lost, NewSegment, RebuiltManifest, RepairPlan, SetAside, time};
use crate::inspect::rebuild::{Rebuilt, rebuild};
use crate::inspect::runs::Stretch;
use crate::manifest::Manifest;
use crate::reader::present;
use crate::recovery::examine::{Access, examine};
use crate::recovery::next_ordinal;
use crate::scan;
use crate::segment::file_name;
use crate::storage::{Listed, Storage};

/// What was found.
pub(crate) struct Survey {
    pub(crate) found: Assessment,
    /// Whether there was no manifest that can be believed.
    pub(crate) is_rebuilt: bool,
    /// Whether there was one that is older than the segments.
    pub(crate) is_older: bool,
    pub(crate) plan: RepairPlan,
    /// The sealed segments as a repair leaves them.
    pub(crate) sealed: Vec<Slot>,
    /// The ordinal of a fresh segment to go on in, if one has to be made.
    pub(crate) fresh: Option<u64>,
}

/// A sealed segment as a repair leaves it.
pub(crate) enum Slot {
    Kept(Entry),
    /// Made of these frames of that segment.
    Copied {
        ordinal: u64,
        from: Entry,
        created: u64,
        stretch: Stretch,
    },
    /// An empty one, so that a gap at the front is seen.
    Empty {
        ordinal: u64,
        base_seq: u64,
    },
}

impl Survey {
    /// Looks at everything beside a writer: what is seen at once may belong to two moments, and only what is wrong twice
    /// is wrong.
    ///
    /// # Errors
    /// As [`Log::plan_repair`](crate::inspect::Log::plan_repair).
    pub(crate) fn settled(storage: &Storage) -> Result<Self> {
        let mut before: Option<Result<Self>> = None;
        loop {
            let looked = Self::take(storage);
            let is_same = match (&looked, &before) {
                (Ok(now), _) if now.plan.is_empty() => true,
                (Ok(now), Some(Ok(then))) => now.plan == then.plan,
                (Err(now), Some(Err(then))) => now.is_same_as(then),
                _ => false,
            };
            if is_same {
                return looked;
            }
            before = Some(looked);
        }
    }

    /// Looks at everything, and writes nothing.
    ///
    /// # Errors
    /// As [`Log::plan_repair`](crate::inspect::Log::plan_repair).
    pub(crate) fn take(storage: &Storage) -> Result<Self> {
        let older = match present(storage) {
            Ok(manifest) => Some(manifest),
            Err(Error::NoManifest { .. }) => None,
            Err(e) => return Err(e),
        };
        let is_believed = older.as_ref().map_or(Ok(false), |manifest| is_believed(storage, manifest))?;
        let is_older = older.is_some() && !is_believed;
        let (manifest, rebuilt, unknown) = match older {
            Some(manifest) if is_believed => (manifest, None, 0),
            older => {
                let Rebuilt { manifest, aside, unknown } = rebuild(storage, &storage.list()?, older.as_ref())?;
                (manifest, Some(aside), unknown)
            }
        };
        let listed = storage.list()?;
        let files: Files<'_> = listed.iter().map(|file| (file.name.as_str(), file)).collect();
        let mut found = Assessment::of_sealed(storage, manifest, &files)?;
        found.unknown = unknown;
        assess_end(&mut found, storage, &files)?;
        found.refuse_foreign(storage)?;
        if rebuilt.is_some() {
            add_gaps(&mut found);
        }
        let (is_rebuilt, plan) = (rebuilt.is_some(), RepairPlan::default());
        let mut survey = Self { found, is_rebuilt, is_older, plan, sealed: Vec::new(), fresh: None };
        survey.lay_out(&listed);
        survey.plan = survey.planned(storage, rebuilt, &files);
        if !survey.plan.is_empty() {
            survey.keep_strangers(storage, &listed, &files)?;
        }
        Ok(survey)
    }

    /// Decides which segments there will be.
    fn lay_out(&mut self, listed: &[Listed]) {
        let first_seq = self.found.manifest.header.first_seq;
        let mut ordinals = next_ordinal(&self.found.manifest, listed)..;
        let mut next = || ordinals.next().unwrap_or(u64::MAX);
        let base_seq = match &self.found.tail {
            Tail::Kept(entries) => entries[0].base_seq,
            Tail::Fresh { base_seq, .. } => *base_seq,
        };
        let bases = self.found.parts.iter().filter_map(|part| match part {
            Part::Kept(entry) => Some(entry.base_seq),
            Part::Copied { stretch, .. } => is_copied(stretch, first_seq).then_some(stretch.whole_from.seq),
        });
        if bases.chain([base_seq]).next().is_some_and(|base| base > first_seq) {
            self.sealed.push(Slot::Empty { ordinal: next(), base_seq: first_seq });
        }
        for part in &self.found.parts {
            match part {
                Part::Kept(entry) => self.sealed.push(Slot::Kept(*entry)),
                Part::Copied { entry, created, stretch } if is_copied(stretch, first_seq) => {
                    let (ordinal, from, created, stretch) = (next(), *entry, *created, *stretch);
                    self.sealed.push(Slot::Copied { ordinal, from, created, stretch });
                }
                Part::Copied { .. } => {}
            }
        }
        if let Tail::Fresh { reused: None, .. } = self.found.tail {
            self.fresh = Some(next());
        }
    }

    /// Lets segment files that the manifest does not name, and that say nothing or something else than their names do,
    /// outlive the next open: they may be what is missed. What a truncation or a repair has left says what it is.
    fn keep_strangers(&mut self, storage: &Storage, listed: &[Listed], files: &Files<'_>) -> Result<()> {
        let manifest = &self.found.manifest;
        let named: HashSet<u64> = manifest.entries.iter().map(|entry| entry.ordinal).collect();
        for file in listed.iter().filter(|file| file.is_file) {
            let Some(ordinal) = SegmentName::decode(&file.name).filter(|ordinal| !named.contains(ordinal)) else {
                continue;
            };
            let head = Loaded::read(storage, &file.name, FRAMES_AT)?;
            let is_own = |identity: Identity| (identity.log_id, identity.ordinal) == (manifest.header.log_id, ordinal);
            let is_planned = self.plan.set_aside.iter().any(|aside| aside.name == file.name);
            if !is_planned && !head.identity().is_some_and(is_own) && !scan::is_zero(&head.head) {
                let reason = "the manifest does not name it, and it is not what its name says";
                self.plan.set_aside.push(set_aside(file.name.clone(), reason, files));
            }
        }
        Ok(())
    }

    fn planned(
        &self,
        storage: &Storage,
        rebuilt: Option<Vec<(String, &'static str)>>,
        files: &Files<'_>,
    ) -> RepairPlan {
        let found = &self.found;
        let damaged = found.aside.iter().map(|(ordinal, reason)| (file_name(*ordinal).as_str().to_owned(), *reason));
        let mut aside: Vec<(String, &'static str)> = damaged.collect();
        let is_rebuilt = rebuilt.is_some();
        aside.extend(rebuilt.into_iter().flatten());
        if is_rebuilt && files.contains_key(MANIFEST) {
            let reason = if self.is_older { "it is older than the segments" } else { "no slot of it verifies" };
            aside.push((MANIFEST.to_owned(), reason));
        }
        let first_seq = found.manifest.header.first_seq;
        let segments = found.manifest.entries.len() as u64;
        RepairPlan {
            rebuilt: is_rebuilt.then_some(RebuiltManifest { segments, first_seq, is_older: self.is_older }),
            set_aside: aside.into_iter().map(|(name, reason)| set_aside(name, reason, files)).collect(),
            missing: found.gone.clone(),
            made: self.made(),
            headers: found.headers.clone(),
            lost: self.lost(storage),
            left_out: found.out_of_order + found.parts.iter().map(|part| left_out(part, first_seq)).sum::<u64>(),
            next_seq: match &found.tail {
                Tail::Kept(_) => None,
                Tail::Fresh { base_seq, .. } => Some(*base_seq),
            },
            user_tag: [0; 16],
        }
    }

    fn made(&self) -> Vec<NewSegment> {
        let empty =
            |segment, base_seq: u64| NewSegment { segment, first_seq: base_seq, last_seq: base_seq - 1, from: None };
        let made = self.sealed.iter().filter_map(|slot| match slot {
            Slot::Kept(_) => None,
            Slot::Empty { ordinal, base_seq } => Some(empty(*ordinal, *base_seq)),
            Slot::Copied { ordinal, from, stretch, .. } => Some(NewSegment {
                segment: *ordinal,
                first_seq: stretch.whole_from.seq,
                last_seq: stretch.whole_to.seq - 1,
                from: Some(from.ordinal),
            }),
        });
        let fresh = match self.found.tail {
            Tail::Fresh { base_seq, .. } => self.fresh.map(|ordinal| empty(ordinal, base_seq)),
            Tail::Kept(_) => None,
        };
        made.chain(fresh).collect()
    }

    /// The numbers of damaged segments that no segment will have.
    fn lost(&self, storage: &Storage) -> Vec<Lost> {
        let mut lost = Vec::new();
        for extent in &self.found.extents {
            let mut next = extent.first_seq.max(self.found.manifest.header.first_seq);
            let kept = self.sealed.iter().filter_map(|slot| match slot {
                Slot::Copied { stretch, .. } => Some((stretch.whole_from.seq, stretch.whole_to.seq)),
                _ => None,
            });
            let mut add = |first_seq: u64, last_seq: u64, is_bound: bool| {
                if first_seq <= last_seq {
                    let (prepared, next_prepared) = self.times(storage, extent.ordinal);
                    extend(&mut lost, Lost { first_seq, last_seq, is_bound, prepared, next_prepared });
                }
            };
            for (from, to) in kept.filter(|(_, to)| *to > extent.first_seq) {
                if from > extent.last_seq {
                    break;
                }
                add(next, from - 1, false);
                next = next.max(to);
            }
            add(next, extent.last_seq, extent.is_bound);
        }
        lost
    }

    /// When a segment and the one behind it were prepared.
    fn times(&self, storage: &Storage, ordinal: u64) -> (Option<std::time::SystemTime>, Option<std::time::SystemTime>) {
        let entries = &self.found.manifest.entries;
        let index = entries.iter().position(|entry| entry.ordinal == ordinal);
        let created = |index: usize| {
            let entry = entries.get(index)?;
            // A time for a person: what cannot be read is not told.
            let loaded = Loaded::read(storage, file_name(entry.ordinal).as_str(), FRAMES_AT).ok()?;
            loaded.identity().and_then(|identity| time(identity.created))
        };
        index.map_or((None, None), |index| (created(index), created(index + 1)))
    }
}

/// Whether the segments do not say that `manifest` is older than they are. Of a log that is damaged otherwise, that is for
/// the survey to find.
fn is_believed(storage: &Storage, manifest: &Manifest) -> Result<bool> {
    let found = examine(storage, manifest, &storage.list()?, Access::Shared);
    Ok(!matches!(found, Err(Error::StaleManifest(_))))
}

/// Adds what is lost, to the range before it if that is of the same segment and adjoins.
fn extend(lost: &mut Vec<Lost>, next: Lost) {
    match lost.last_mut() {
        Some(last) if last.last_seq + 1 == next.first_seq && last.prepared == next.prepared && !last.is_bound => {
            (last.last_seq, last.is_bound) = (next.last_seq, next.is_bound);
        }
        _ => lost.push(next),
    }
}

/// Whether a repair copies the stretch: it has a whole batch that was not truncated.
fn is_copied(stretch: &Stretch, first_seq: u64) -> bool {
    stretch.whole() > 0 && stretch.whole_to.seq > first_seq
}

/// How many records of a part that were not truncated a repair leaves out.
fn left_out(part: &Part, first_seq: u64) -> u64 {
    let Part::Copied { stretch, .. } = part else { return 0 };
    let shown = |from: u64, to: u64| to.saturating_sub(from.max(first_seq));
    shown(stretch.from.seq, stretch.whole_from.seq) + shown(stretch.whole_to.seq, stretch.to.seq)
}

/// A name that is free for `name`, or that the same file has already.
fn set_aside(name: String, reason: &'static str, files: &Files<'_>) -> SetAside {
    let id = files.get(name.as_str()).map(|file| file.id);
    let mut names = (1_u64..).map(|n| if n == 1 { format!("{name}.damaged") } else { format!("{name}.damaged-{n}") });
    let is_free = |as_name: &String| files.get(as_name.as_str()).is_none_or(|file| Some(file.id) == id);
    let as_name = names.find(is_free).unwrap_or_default();
    let is_linked = files.contains_key(as_name.as_str());
    SetAside { name, as_name, reason, is_linked }
}

/// What a manifest that was lost would have told: numbers between two segments that neither has were lost.
fn add_gaps(found: &mut Assessment) {
    let active_at = found.manifest.active_index();
    for pair in found.manifest.entries[..=active_at].windows(2) {
        let (first_seq, last_seq) = (pair[0].last_seq + 1, pair[1].base_seq - 1);
        if first_seq <= last_seq {
            found.extents.push(Extent { ordinal: pair[0].ordinal, first_seq, last_seq, is_bound: false });
        }
    }
    found.extents.sort_by_key(|extent| extent.first_seq);
}
