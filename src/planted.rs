//! Bugs that the tests must catch, present only under `--cfg mmap_wal_planted`.
//!
//! A harness that catches nothing proves nothing. Each bug here breaks one rule of the design; the test suite switches
//! them on one by one and fails if the simulator or a named test does not notice.

/// The rules that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(mmap_wal_planted), allow(dead_code))]
#[repr(u8)]
pub enum Bug {
    /// Everything is as it should be.
    None,
    /// An append in `Sync` mode returns before its sync.
    AckBeforeSync,
    /// Names are never made durable.
    NoDirectorySync,
    /// Recovery leaves what stands behind the append position.
    NoScrub,
    /// Recovery does not sync its zeros.
    ScrubNotSynced,
    /// Every segment has the same salt.
    CrcWithoutSalt,
    /// Every frame of a batch ends it.
    BatchWithoutCommit,
    /// Frames claim that everything before them is durable.
    WatermarkTooHigh,
    /// The manifest seals a rotated segment before its sync.
    SealBeforeSync,
    /// A spare is announced before its file and name are durable.
    AnnounceBeforeSync,
    /// A manifest update writes one slot.
    OneSlot,
    /// Recovery syncs pages that a failed or missing sync may have left clean, without making them dirty again.
    NoRedirty,
    /// A reopened log that was truncated whole starts at 1 again.
    SeqRestarts,
    /// A file that is used again keeps the salt of its earlier life.
    RecycleKeepsSalt,
    /// A file that is used again is announced before what it says of itself is durable.
    RecycleNotSynced,
    /// What follows a cut is begun before the manifest says so.
    RestartBeforeCut,
    /// The end of a sync wakes nobody.
    SyncWakesNobody,
    /// Whoever is woken to lead and has lost patience goes without waking another.
    LeaderNotPassedOn,
    /// A failure wakes nobody.
    FailureWakesNobody,
    /// A close wakes nobody.
    CloseWakesNobody,
    /// The end of a sync forgets those who wait by a waker.
    SyncForgetsWakers,
    /// Several threads sync at once.
    TwoLeaders,
    /// What is about to be synced counts as durable.
    DurableBeforeSync,
    /// What was published while a sync ran counts as synced by it.
    SyncedTooFar,
    /// Another thread may sync between a sync that failed and the poison.
    LeaderEndsBeforePoison,
    /// The first frames behind a rotation claim that the segment before is durable.
    WatermarkOverRotation,
    /// A cut does not wait for a sync under way, which then says of numbers given again that they are durable.
    CutBesideLeader,
    /// Who waits for a record that was cut off waits for its number.
    EpochIgnored,
    /// A rotation does not wait for the one before to be sealed.
    RotateBeforeSeal,
    /// Appends in `Batch` mode never wait.
    NoBackPressure,
    /// A file is used again while a view shows it.
    RecycleUnderView,
    /// An append tells nobody who follows.
    AppendTellsNobody,
    /// An attempt to append waits for the writer's lock.
    AttemptWaits,
    /// An append for which there is no space takes a number.
    NumberWithoutSpace,
    /// Want of space for a spare keeps the segment before from being sealed.
    NoSpaceNoSeal,
    /// A manifest that is older than the segments is believed.
    BelieveOlderManifest,
    /// A repair takes the names of damaged files away before the manifest changes.
    RepairRemovesFirst,
    /// A repair does not sync the segments that it makes.
    RepairNotSynced,
    /// A repair takes names away before the others are durable by which damaged files are kept.
    RepairNamesNotSynced,
}

#[cfg(mmap_wal_planted)]
mod switch {
    use super::Bug;
    use std::sync::atomic::{AtomicU8, Ordering};

    static PLANTED: AtomicU8 = AtomicU8::new(Bug::None as u8);

    /// Switches `bug` on for the whole process, and every other off.
    pub fn plant(bug: Bug) {
        PLANTED.store(bug as u8, Ordering::SeqCst);
    }

    /// Whether `bug` is on.
    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.load(Ordering::Relaxed) == bug as u8
    }
}

#[cfg(mmap_wal_planted)]
pub use switch::plant;
#[cfg(mmap_wal_planted)]
pub(crate) use switch::planted;

/// Whether `bug` is on: never, in a build without the cfg.
#[cfg(not(mmap_wal_planted))]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}
