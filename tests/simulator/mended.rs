//! What must hold after a repair that was cut short, however often: one oracle for the tests of repair and for the
//! campaign.

use std::collections::BTreeSet;
use std::path::Path;

use mmap_wal::inspect::{Log, RepairPlan};
use mmap_wal::{Options, Wal};

use crate::fixture::{files_of, segment};
use crate::reference::Files;

/// Where the frames of a segment begin.
const FRAMES: usize = 8192;

/// The files that any open may change.
fn is_helper(name: &str) -> bool {
    matches!(name, "LOCK" | "READERS" | "STATS")
}

/// Whether every file that was there is there, under some name; but for headers that were restored and the manifest,
/// which may change if it verifies.
pub fn nothing_is_gone(before: &Files, after: &Files, plan: &RepairPlan) -> Result<(), String> {
    let kept: BTreeSet<&Vec<u8>> = after.values().collect();
    let restored: BTreeSet<String> = plan.headers.iter().map(|ordinal| segment(*ordinal)).collect();
    let changes =
        |name: &str| is_helper(name) || restored.contains(name) || (name == "MANIFEST" && plan.rebuilt.is_none());
    for (name, bytes) in before.iter().filter(|(name, _)| !changes(name)) {
        let began = plan.next_seq.is_some() && bytes[FRAMES.min(bytes.len())..].iter().all(|byte| *byte == 0);
        if !kept.contains(bytes) && !began {
            return Err(format!("the bytes of {name} are gone"));
        }
    }
    Ok(())
}

/// What a log was that is being repaired.
pub struct Patient<'a> {
    pub files: &'a Files,
    /// What the first plan had promised.
    pub planned: &'a RepairPlan,
    /// How the log is opened, and what user tag it has.
    pub options: &'a Options,
    pub tag: [u8; 16],
}

fn ranges(plan: &RepairPlan) -> Vec<(u64, u64)> {
    plan.lost.iter().map(|lost| (lost.first_seq, lost.last_seq)).collect()
}

impl Patient<'_> {
    /// A log in a state that a repair may have left it in is as before or as repaired, and is repaired; it opens.
    pub fn recovers(&self, dir: &Path) -> Result<Wal, String> {
        let planned = self.planned;
        nothing_is_gone(self.files, &files_of(dir), planned)?;
        let plan = self.repair(dir)?;
        // Where the manifest was lost, part of a new segment to go on in may count as a lost one, and the log then goes
        // on in a spare.
        if planned.rebuilt.is_none() && !plan.lost.is_empty() && ranges(&plan) != ranges(planned) {
            return Err(format!("neither as before nor as repaired: {plan}"));
        }
        let last = if plan.next_seq.is_some() { &plan } else { planned };
        nothing_is_gone(self.files, &files_of(dir), last)?;
        let wal = self.options.open(dir).map_err(|e| format!("a repaired log cannot be opened: {e}"))?;
        self.keeps_what_is_set_aside(dir)?;
        Ok(wal)
    }

    /// An open changes the end of a log, and removes what the manifest does not name; nothing else.
    pub fn keeps_what_is_set_aside(&self, dir: &Path) -> Result<(), String> {
        let is_set_aside = |name: &str| self.planned.set_aside.iter().any(|aside| aside.name == name);
        let damaged = self.files.iter().filter(|(name, _)| is_set_aside(name));
        let damaged = damaged.map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
        nothing_is_gone(&damaged, &files_of(dir), self.planned)
    }

    /// Plans and repairs, and nothing is left to repair.
    pub fn repair(&self, dir: &Path) -> Result<RepairPlan, String> {
        let log = Log::open(dir).map_err(|e| format!("it cannot be looked at: {e}"))?;
        let plan = log.plan_repair().map_err(|e| format!("no plan: {e}"))?.with_user_tag(self.tag);
        log.repair(&plan).map_err(|e| format!("no repair: {e}"))?;
        match log.plan_repair() {
            Ok(again) if again.is_empty() => Ok(plan),
            again => Err(format!("after a repair: {again:?}")),
        }
    }
}
