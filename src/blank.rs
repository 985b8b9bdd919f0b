//! Private memory for bytes that must not be looked at where they stand.

use std::io;
use std::ops::{Deref, DerefMut};

/// Memory of nobody else: zero, and taken from the system only where it is written, however long it is.
#[derive(Debug)]
pub(crate) struct Blank(Anonymous);

#[cfg(not(miri))]
type Anonymous = memmap2::MmapMut;
#[cfg(miri)]
type Anonymous = Vec<u8>;

impl Blank {
    /// So many bytes.
    ///
    /// # Errors
    /// What the system says, where the standard library would end the process.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        anonymous(len).map(Self)
    }
}

/// Address space that is left to the heap when a file was mapped.
const HEADROOM: usize = if cfg!(miri) { 1 } else { 16 << 20 };

/// Takes address space and one map, to be given back when a file is mapped: so that a map which would leave none to the
/// heap is refused. An allocation that fails ends the process, and a map that fails is an error.
///
/// # Errors
/// What the system says.
pub(crate) fn headroom() -> io::Result<Blank> {
    Blank::new(HEADROOM)
}

#[cfg(not(miri))]
fn anonymous(len: usize) -> io::Result<Anonymous> {
    memmap2::MmapOptions::new().len(len).no_reserve_swap().map_anon()
}

#[cfg(miri)]
fn anonymous(len: usize) -> io::Result<Anonymous> {
    Ok(vec![0; len])
}

impl Deref for Blank {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Blank {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_memory_is_zero_and_may_be_longer_than_what_there_is() {
        // More than any machine has; a system that sets aside memory for it refuses, and does not end the process.
        let (len, at) = if cfg!(miri) { (8, 5) } else { (1 << 42, 1 << 41) };
        let Ok(mut blank) = Blank::new(len) else { return };
        blank[at] = 7;
        assert_eq!((blank.len(), &blank[at - 1..at + 2]), (len, &[0, 7, 0][..]));
        assert!(Blank::new(0).expect("nothing").is_empty());
    }
}
