//! What came of the rounds.

use std::fmt;

/// What was done and found; nothing of it was lost, or there would be a sentence instead.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) rounds: u64,
    /// Kills of a writer that was alive.
    pub(crate) killed: u64,
    /// Among them: before the first acknowledgement.
    pub(crate) unacknowledged: u64,
    /// Among them: near an end of a segment, or in a rotation.
    pub(crate) near_rotation: u64,
    /// Among them: in a checkpoint or a truncation of the front.
    pub(crate) in_truncation: u64,
    /// Among them: in a cut at the back or a reset.
    pub(crate) in_cut: u64,
    /// Records that were there after a kill and not before.
    pub(crate) appended: u64,
    /// Records that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Records that were compared.
    pub(crate) checked: u64,
    /// What came of repairs.
    pub(crate) repairs: Repairs,
}

/// What came of repairs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Repairs {
    /// Kills before a repair's first change.
    pub(crate) untouched: u64,
    /// Kills after that, of which the log does not know.
    pub(crate) begun: u64,
    /// Kills after the log was another one.
    pub(crate) changed: u64,
    /// Damaged logs that were repaired in the end.
    pub(crate) repaired: u64,
    /// Records that the damage has cost.
    pub(crate) given_up: u64,
}

impl Repairs {
    fn add(&mut self, other: &Self) {
        self.untouched += other.untouched;
        self.begun += other.begun;
        self.changed += other.changed;
        self.repaired += other.repaired;
        self.given_up += other.given_up;
    }
}

impl fmt::Display for Repairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { untouched, begun, changed, repaired, given_up } = self;
        let killed = untouched + begun + changed;
        write!(
            f,
            "{killed} kills of a repair ({untouched} before its first change, {begun} within, {changed} after the "
        )?;
        write!(f, "MANIFEST was updated), {repaired} damaged logs repaired, {given_up} records given up to the damage")
    }
}

impl Tally {
    /// Adds another one.
    pub(crate) fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.killed += other.killed;
        self.unacknowledged += other.unacknowledged;
        self.near_rotation += other.near_rotation;
        self.in_truncation += other.in_truncation;
        self.in_cut += other.in_cut;
        self.appended += other.appended;
        self.acknowledged += other.acknowledged;
        self.checked += other.checked;
        self.repairs.add(&other.repairs);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, killed, unacknowledged, near_rotation, in_truncation, in_cut, .. } = self;
        let Self { appended, acknowledged, checked, .. } = self;
        write!(f, "{rounds} rounds, {killed} kills of a living writer ({unacknowledged} before its first ")?;
        write!(f, "acknowledgement, {near_rotation} near a rotation")?;
        for (count, what) in [(in_truncation, "truncation"), (in_cut, "cut")] {
            if *count > 0 {
                write!(f, ", {count} in a {what}")?;
            }
        }
        write!(f, ")")?;
        if self.repairs.repaired > 0 {
            write!(f, ", {}", self.repairs)?;
        }
        write!(f, ", {appended} records appended, {acknowledged} acknowledged, {checked} checked, 0 lost")
    }
}
