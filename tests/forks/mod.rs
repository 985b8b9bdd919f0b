//! A forked process that runs a closure in bounded time and tells its parent what came of it.
#![allow(missing_docs)]

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn alarm(seconds: u32) -> u32;
    fn _exit(code: i32) -> !;
}

/// A child that takes longer waits for a lock or a thread that it does not have; the signal ends it.
const BOUND: u32 = 60;

/// Which of the two processes this is.
pub enum Side {
    Parent(Child),
    Child(Report),
}

/// The child, as its parent sees it.
pub struct Child {
    pid: i32,
    report: PipeReader,
}

/// How the child tells its parent.
pub struct Report(PipeWriter);

/// Forks this process.
pub fn forked() -> Side {
    let (report, writer) = std::io::pipe().expect("a pipe");
    // SAFETY: the child runs on this thread alone, calls nothing that waits for another one but what is tested, in bounded
    // time, and ends by `_exit`.
    match unsafe { fork() } {
        0 => {
            // SAFETY: it sets a timer.
            unsafe { alarm(BOUND) };
            Side::Child(Report(writer))
        }
        pid => {
            assert!(pid > 0, "a child");
            Side::Parent(Child { pid, report })
        }
    }
}

impl Report {
    /// Runs the child to its end.
    pub fn run(mut self, run: impl FnOnce() -> Result<(), String>) -> ! {
        let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("it panicked".to_owned()));
        let code = outcome.as_ref().map_or(1, |()| 0);
        let told = self.0.write_all(outcome.err().unwrap_or_default().as_bytes());
        // SAFETY: it ends the process.
        unsafe { _exit(if told.is_ok() { code } else { 2 }) }
    }

    /// Ends the child without dropping anything, as a daemon's first process does.
    pub fn vanish(self) -> ! {
        drop(self);
        // SAFETY: it ends the process.
        unsafe { _exit(0) }
    }
}

impl Child {
    /// Waits for the child; its complaint, or how it ended.
    pub fn outcome(mut self) -> Result<(), String> {
        let mut said = String::new();
        self.report.read_to_string(&mut said).expect("what the child says");
        let mut status = 0;
        // SAFETY: `status` can be written, and the process is a child of this one that nobody else waits for.
        let waited = unsafe { waitpid(self.pid, &mut status, 0) };
        assert_eq!(waited, self.pid, "the child is there");
        match (status & 0x7f, status >> 8) {
            (0, 0) => Ok(()),
            (0, code) => Err(format!("exit code {code}: {said}")),
            (14, _) => Err("it waited for what does not exist in it".to_owned()),
            (signal, _) => Err(format!("signal {signal}")),
        }
    }
}

/// Runs `run` in a forked child, and asserts that it had nothing to complain of.
#[track_caller]
pub fn in_child(run: impl FnOnce() -> Result<(), String>) {
    match forked() {
        Side::Child(report) => report.run(run),
        Side::Parent(child) => child.outcome().expect("the child"),
    }
}
