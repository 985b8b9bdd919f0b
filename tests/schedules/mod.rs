//! Runs a scenario of several threads in many orders, each of which can be repeated.
#![allow(dead_code)]

pub mod bed;
pub mod scenarios;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::FailurePersistence;
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};

use crate::simulator::order;

/// What threads do together, once.
pub type Scenario = fn();

/// How often the second scheduler changes who goes first.
const DEPTH: usize = 4;

/// A scenario that went wrong in one order.
pub struct Failure {
    pub message: String,
    /// In how many orders it had been run, this one included.
    pub schedules: usize,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in schedule {}: {}", self.schedules, self.message)
    }
}

/// Runs `scenario` in `schedules` orders: half of them random at each step, half with few changes at random places. One
/// that fails is noted as `persistence` says.
pub fn search(
    scenario: Scenario,
    schedules: usize,
    seed: u64,
    persistence: &FailurePersistence,
) -> Result<usize, Failure> {
    let count = Arc::new(AtomicUsize::new(0));
    let half = schedules.div_ceil(2);
    let ran = run(RandomScheduler::new_from_seed(seed, half), scenario, &count, persistence)
        .and_then(|()| run(PctScheduler::new_from_seed(seed, DEPTH, half), scenario, &count, persistence));
    let schedules = count.load(Ordering::Relaxed);
    ran.map(|()| schedules).map_err(|message| Failure { message, schedules })
}

fn run(
    scheduler: impl Scheduler + Send + 'static,
    scenario: Scenario,
    count: &Arc<AtomicUsize>,
    persistence: &FailurePersistence,
) -> Result<(), String> {
    let count = Arc::clone(count);
    let counted = move || {
        count.fetch_add(1, Ordering::Relaxed);
        scenario();
    };
    order::run(scheduler, persistence.clone(), counted)
}

/// Runs `scenario` once more in an order that was noted.
pub fn replay(scenario: Scenario, schedule: &str) -> Result<(), String> {
    order::run(ReplayScheduler::new_from_encoded(schedule), FailurePersistence::None, scenario)
}
