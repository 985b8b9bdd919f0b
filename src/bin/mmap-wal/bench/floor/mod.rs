//! Floors: the least that any log would have to do for the same effect, measured beside it.
//!
//! The two files below stand alone, because the benches of `benches/` include them.

pub(crate) mod disk;
pub(crate) mod group;
pub(crate) mod memory;
