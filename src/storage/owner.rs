//! The process that a handle belongs to: the one that opened it, and no child of that by `fork`.
//!
//! A child has copies of the parent's memory, shares its maps and its open files with it, and has one thread. Calls there
//! would write to the parent's log, give back its locks, and wait for locks that threads hold which the child does not
//! have. So every call asks first, before it takes a lock, and every act on the file system asks once more.

use crate::error::{Error, Result};
use crate::map::word_wiped_by_fork;
use crate::sync::Counter;
use crate::sync::atomic::Ordering;

/// The process that a handle belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    /// What a fork sets to 0 in the child; where there is no such word, the id of the process is asked for at each call.
    word: Option<&'static Counter>,
    /// What stands there, or the id, in the process that opened the handle.
    mark: u64,
}

impl Owner {
    /// This process.
    pub(crate) fn current() -> Self {
        let word = word_wiped_by_fork();
        Self { word, mark: word.map_or_else(process_id, mark) }
    }

    /// Whether this process is the owner.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        let now = match self.word {
            Some(word) => word.load(Ordering::Relaxed),
            None => process_id(),
        };
        now == self.mark
    }

    /// Refuses every process but the owner.
    ///
    /// # Errors
    /// `Forked`.
    #[inline]
    pub(crate) fn check(self) -> Result<()> {
        if self.is_current() { Ok(()) } else { Err(Error::Forked) }
    }
}

fn process_id() -> u64 {
    u64::from(std::process::id())
}

/// What stands in `word` in this process, which is not what stood there in any process that this one was forked from.
fn mark(word: &Counter) -> u64 {
    // Ordinary memory, which a child goes on counting in.
    static MARKS: Counter = Counter::new(0);
    let found = word.load(Ordering::Relaxed);
    if found != 0 {
        return found;
    }
    let new = MARKS.fetch_add(1, Ordering::Relaxed) + 1;
    match word.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => new,
        // Another thread was faster.
        Err(found) => found,
    }
}

#[cfg(test)]
mod tests {
    //! That a word or an id which is not the owner's is refused; forks are tested by the suite `fork`.
    use super::*;

    #[test]
    fn one_process_has_one_mark() {
        assert!(Owner::current().is_current());
        assert_eq!(Owner::current().mark, Owner::current().mark);
        assert!(Owner::current().word.is_some() || !cfg!(target_os = "linux"), "no id is asked for at each call");
    }

    #[test]
    fn a_word_that_was_wiped_and_set_again_is_not_that_of_the_owner() {
        let word: &'static Counter = Box::leak(Box::default());
        let owner = Owner { word: Some(word), mark: mark(word) };
        assert!(owner.is_current() && mark(word) == owner.mark);
        word.store(0, Ordering::Relaxed);
        assert!(matches!(owner.check(), Err(Error::Forked)));
        let child = Owner { word: Some(word), mark: mark(word) };
        assert!(child.is_current() && !owner.is_current());
    }

    #[test]
    fn without_a_word_another_id_is_refused() {
        let owner = Owner { word: None, mark: process_id() };
        assert!(owner.is_current());
        assert!(matches!(Owner { mark: owner.mark + 1, ..owner }.check(), Err(Error::Forked)));
    }
}
