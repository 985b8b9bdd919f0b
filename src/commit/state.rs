//! What is known of a live log, guarded by one lock.

use std::collections::VecDeque;

use super::gather::Gather;
use super::leader::Job;
use super::turns::Turns;
use crate::error::{Error, Result};
use crate::event::Syncs;
use crate::live::Live;
use crate::planted::{Bug, planted};
use crate::segment::Segment;
use crate::sync::Arc;
use crate::wakers::Wakers;

/// A segment that is not known to be durable whole.
pub(super) struct Part {
    pub(super) segment: Arc<Segment>,
    pub(super) synced: usize,
}

pub(super) struct State {
    pub(super) live: Live,
    pub(super) parts: VecDeque<Part>,
    pub(super) leading: bool,
    pub(super) turns: Turns,
    pub(super) gather: Gather,
    pub(super) failure: Option<Arc<Error>>,
    pub(super) closed: bool,
    pub(super) wakers: Wakers,
    pub(super) syncs: Syncs,
    /// For every cut at the back, the last seq that was kept; the count of them is the epoch.
    pub(super) cuts: Vec<u64>,
}

impl State {
    /// That of a log of which everything is durable.
    pub(super) fn new(live: Live) -> Self {
        let active = Arc::clone(live.active());
        let part = Part { synced: active.end().offset, segment: active };
        Self {
            live,
            parts: VecDeque::from([part]),
            leading: false,
            turns: Turns::default(),
            gather: Gather::default(),
            failure: None,
            closed: false,
            wakers: Wakers::default(),
            syncs: Syncs::default(),
            cuts: Vec::new(),
        }
    }

    /// As [`State::is_durable`]; an error if it cannot be any more.
    pub(super) fn stands(&self, seq: u64, epoch: usize) -> Result<bool> {
        Ok(self.is_durable(seq, epoch)? || self.refuse_if_failed().map(|()| false)?)
    }

    /// Whether the record that had the number `seq` in `epoch` is durable; an error if it was cut off since.
    pub(super) fn is_durable(&self, seq: u64, epoch: usize) -> Result<bool> {
        match self.cuts[epoch.min(self.cuts.len())..].iter().min() {
            Some(kept) if *kept < seq && !planted(Bug::EpochIgnored) => Err(Error::TruncatedBack { last_seq: *kept }),
            _ => Ok(self.live.durable_seq >= seq),
        }
    }

    pub(super) fn refuse_if_failed(&self) -> Result<()> {
        self.failure.as_ref().map_or(Ok(()), |failure| Err(Error::Poisoned(Arc::clone(failure))))
    }

    /// What is published and not synced; at most two segments are not sealed.
    pub(super) fn jobs(&self) -> [Option<Job>; 2] {
        let mut unsynced = self.parts.iter().filter_map(|part| {
            let to = part.segment.end();
            (to.offset > part.synced).then(|| Job { segment: Arc::clone(&part.segment), from: part.synced, to })
        });
        [unsynced.next(), unsynced.next()]
    }

    /// Takes note that `job` was synced: only now may anything claim it.
    pub(super) fn synced(&mut self, job: &Job) -> Result<()> {
        let to = if planted(Bug::SyncedTooFar) { job.segment.end() } else { job.to };
        match self.parts.iter_mut().find(|part| Arc::ptr_eq(&part.segment, &job.segment)) {
            Some(part) => part.synced = to.offset,
            // A cut came between: what was synced is no more.
            None if !planted(Bug::CutBesideLeader) => return Ok(()),
            None => {}
        }
        self.live.durable_seq = job.segment.base_seq() + to.count - 1;
        self.live.durable_offset = to.offset;
        job.segment.witness(to.offset)?;
        self.retire_whole();
        Ok(())
    }

    /// Forgets the segments that are durable whole, and lets the frames of the last one say so.
    pub(super) fn retire_whole(&mut self) {
        while self.parts.len() > 1 && self.parts[0].synced == self.parts[0].segment.end().offset {
            self.parts.pop_front();
        }
        if let [only] = self.parts.make_contiguous() {
            only.segment.raise_watermark(only.synced);
        }
    }
}
