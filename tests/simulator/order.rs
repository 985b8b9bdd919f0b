//! Which thread goes on: the model checker, and a scheduler for it whose every order follows from one number.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once};

use shuttle::current::TaskId;
use shuttle::scheduler::{Schedule, Scheduler, Task};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use super::rng::{Rng, mix};

/// Enough for whole operations of a log, whose buffers are pages.
const STACK: usize = 256 << 10;
/// More than any order needs that comes to an end.
const MOST_STEPS: usize = 5_000_000;

thread_local!(static PANIC: RefCell<String> = const { RefCell::new(String::new()) });

/// Keeps what a panic said: the model checker gives a thread that panics up where it stands.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let first =
                PANIC.with(|kept| std::mem::replace(&mut *kept.borrow_mut(), panic.to_string().replace('\n', " ")));
            if !first.is_empty() {
                PANIC.set(first);
            }
            before(panic);
        }));
    });
}

/// Runs `scenario` in the orders of `scheduler`; what went wrong in one of them.
pub fn run(
    scheduler: impl Scheduler + Send + 'static,
    persistence: FailurePersistence,
    scenario: impl Fn() + Send + Sync + 'static,
) -> Result<(), String> {
    keep_panics();
    let mut config = Config::new();
    config.stack_size = STACK;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    config.silence_warnings = true;
    config.failure_persistence = persistence;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    // A thread of its own: one in which a panic was given up counts as panicking ever after.
    let ran = std::thread::spawn(move || {
        let ran = catch_unwind(AssertUnwindSafe(|| Runner::new(scheduler, config).run(scenario)));
        ran.map(drop).map_err(|_| PANIC.take())
    });
    ran.join().unwrap_or_else(|_| Err("the model checker itself panicked".to_owned()))
}

/// The numbers that are left to try, shared by those who try them.
pub struct Seeds {
    pub next: AtomicU64,
    pub end: u64,
    pub stopped: AtomicBool,
}

/// Goes on with the same thread for a while, how long is part of the order, and then with any.
pub struct Order {
    seeds: Arc<Seeds>,
    /// The number of the order under way.
    pub current: Arc<AtomicU64>,
    rng: Rng,
    stays: usize,
}

impl Order {
    pub fn new(seeds: &Arc<Seeds>) -> Self {
        Self { seeds: Arc::clone(seeds), current: Arc::default(), rng: Rng::new(0), stays: 1 }
    }
}

impl Scheduler for Order {
    fn new_execution(&mut self) -> Option<Schedule> {
        let seed = self.seeds.next.fetch_add(1, Ordering::Relaxed);
        if seed >= self.seeds.end || self.seeds.stopped.load(Ordering::Relaxed) {
            return None;
        }
        self.current.store(seed, Ordering::Relaxed);
        self.rng = Rng::new(mix(seed ^ 0x5EED));
        self.stays = *self.rng.pick(&[1, 2, 4, 16, 64]);
        Some(Schedule::new(seed))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        let stays = runnable.len() == 1 || !is_yielding && !self.rng.one_in(self.stays);
        match current.filter(|current| stays && runnable.iter().any(|task| task.id() == *current)) {
            Some(current) => Some(current),
            None => Some(self.rng.pick(runnable).id()),
        }
    }

    fn next_u64(&mut self) -> u64 {
        self.rng.draw()
    }
}
