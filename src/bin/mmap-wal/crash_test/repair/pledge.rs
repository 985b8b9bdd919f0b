//! What a repair is held to: that it loses nothing but what was hit, whenever it is killed.

use std::path::{Path, PathBuf};

use mmap_wal::Error;
use mmap_wal::inspect::{Log, RepairPlan};

use crate::crash_test::mixed::ledger::{Ledger, Seen};
use crate::crash_test::repair::damage::Damage;
use crate::crash_test::repair::files::Files;
use crate::failure::sentence_of;

/// A damaged log, and what the first plan has promised of it.
pub(crate) struct Pledge {
    dir: PathBuf,
    plan: RepairPlan,
    files: Files,
    /// What the manifest names, if there is one.
    ordinals: Option<Vec<u64>>,
}

/// How far a repair has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not a byte is another one.
    Untouched,
    /// There are files that the log does not know of; it is as before.
    Begun,
    /// The log is as repaired, and what it does not need any more may still be there.
    Repaired {
        /// Whether nothing is left to repair.
        whole: bool,
    },
}

impl Pledge {
    /// Plans the repair of what `damage` has left in `dir`, and makes `ledger` what must be there in the end.
    ///
    /// # Errors
    /// What the plan gives up and need not, or does not say.
    pub(crate) fn of(dir: &Path, damage: &Damage, ledger: &mut Ledger) -> Result<Self, String> {
        let (plan, ordinals) = survey(dir)?;
        hold_to_damage(&plan, damage, ledger)?;
        let Seen { first, last, checkpoint } = ledger.seen();
        let seen = Seen {
            first: plan.rebuilt.as_ref().map_or(first, |rebuilt| rebuilt.first_seq),
            last: plan.next_seq.map_or(last, |next| next - 1),
            checkpoint: if plan.rebuilt.is_some() { 0 } else { checkpoint },
        };
        ledger.repair(seen, &lost(&plan));
        let files = Files::of(dir).map_err(|e| format!("reading the files: {e}"))?;
        Ok(Self { dir: dir.to_owned(), plan, files, ordinals })
    }

    /// How many files the repair makes or sets aside.
    pub(crate) fn steps(&self) -> u32 {
        (self.plan.made.len() + self.plan.set_aside.len()).try_into().unwrap_or(u32::MAX)
    }

    /// Looks at what a repair has left that was killed or got through.
    ///
    /// # Errors
    /// What is lost by it: the log must be as before or as repaired, and no byte gone.
    pub(crate) fn look(&self) -> Result<State, String> {
        let now = Files::of(&self.dir).map_err(|e| format!("reading the files: {e}"))?;
        self.files.outlive(&now, &self.plan)?;
        let (plan, ordinals) = survey(&self.dir)?;
        if plan.is_empty() || ordinals != self.ordinals {
            if plan.rebuilt.is_some() || !plan.lost.is_empty() || plan.left_out > 0 {
                return Err(format!("the log is neither as before nor as repaired, its next repair would be:\n{plan}"));
            }
            return Ok(State::Repaired { whole: plan.is_empty() });
        }
        if promise(&plan) != promise(&self.plan) {
            return Err(format!("the first plan was:\n{}the next one is:\n{plan}", self.plan));
        }
        Ok(if self.files == now { State::Untouched } else { State::Begun })
    }

    /// What the repair, which got through, has set aside.
    ///
    /// # Errors
    /// Which file is not there as it was damaged.
    pub(crate) fn aside(&self) -> Result<Files, String> {
        let now = Files::of(&self.dir).map_err(|e| format!("reading the files: {e}"))?;
        now.aside(&self.plan, &self.files)
    }
}

fn survey(dir: &Path) -> Result<(RepairPlan, Option<Vec<u64>>), String> {
    let of_plan = |e: Error| format!("planning the repair: {}", sentence_of(&e));
    let log = Log::open(dir).map_err(of_plan)?;
    let ordinals = match log.ordinals() {
        Err(Error::NoManifest { .. }) => None,
        other => Some(other.map_err(of_plan)?),
    };
    Ok((log.plan_repair().map_err(of_plan)?, ordinals))
}

/// What a plan loses, and where the log begins and goes on.
fn promise(plan: &RepairPlan) -> (Vec<(u64, u64)>, Option<u64>, Option<u64>) {
    (lost(plan), plan.rebuilt.as_ref().map(|rebuilt| rebuilt.first_seq), plan.next_seq)
}

fn lost(plan: &RepairPlan) -> Vec<(u64, u64)> {
    plan.lost.iter().map(|lost| (lost.first_seq, lost.last_seq)).collect()
}

/// The plan must lose nothing that was not hit, give no number again, and name every file that it cannot trust.
fn hold_to_damage(plan: &RepairPlan, damage: &Damage, ledger: &Ledger) -> Result<(), String> {
    let seen = ledger.seen();
    let spared = |(first, last): (u64, u64)| {
        let mut records = ledger.records().range(first..=last);
        records.find(|(seq, _)| !damage.hit.contains(seq)).map(|(seq, part)| (*seq, part.name))
    };
    // A rebuilt manifest may let the log begin further back, and must not let it begin further on.
    let first_seq = plan.rebuilt.as_ref().map_or(seen.first, |rebuilt| rebuilt.first_seq);
    let dropped = (first_seq > seen.first).then(|| (seen.first, first_seq - 1));
    if let Some((seq, name)) = lost(plan).into_iter().chain(dropped).find_map(spared) {
        return Err(format!("record {seq} ({name}) was not hit and is to be given up:\n{plan}"));
    }
    if let Some(next) = plan.next_seq.filter(|next| *next <= seen.last) {
        return Err(format!("the number {next} is to be given again, and {} was the last:\n{plan}", seen.last));
    }
    if plan.rebuilt.is_some() != damage.manifest {
        return Err(format!("the MANIFEST is lost, or it is not, and the plan is:\n{plan}"));
    }
    // Without a manifest, a segment whose last record is damaged ends before it, and stays.
    let is_aside = |name: &String| damage.manifest || plan.set_aside.iter().any(|aside| aside.name == *name);
    if let Some(name) = damage.flipped.iter().find(|name| !is_aside(name)) {
        return Err(format!("{name} is damaged, and the plan is:\n{plan}"));
    }
    match damage.removed.iter().find(|ordinal| !damage.manifest && !plan.missing.contains(ordinal)) {
        Some(ordinal) => Err(format!("segment {ordinal} is missing, and the plan is:\n{plan}")),
        None => Ok(()),
    }
}
