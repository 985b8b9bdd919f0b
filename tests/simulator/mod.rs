//! A machine whose power can fail at any act of a log, with any part of what was not synced on its disk.
//!
//! [`machine`] watches a real log on real files and keeps a [`disk`]: what is live, what is durable, what lies between.
//! [`image`] makes of it what a crash can leave; [`life`] opens that with the real library and holds it against the
//! [`model`] and the reference parser, and goes on; [`campaign`] does so for many a [`history`].
//! [`repairs`] does it for a log that is damaged and repaired, with [`mended`] to judge.
#![allow(dead_code)]

pub mod campaign;
#[cfg(mmap_wal_shuttle)]
pub mod crew;
pub mod directed;
pub mod disk;
pub mod history;
pub mod image;
#[cfg(mmap_wal_shuttle)]
pub mod ledger;
pub mod life;
pub mod machine;
pub mod mended;
pub mod model;
#[cfg(mmap_wal_shuttle)]
pub mod order;
pub mod repairs;
pub mod rng;
#[cfg(mmap_wal_shuttle)]
pub mod stage;
#[cfg(mmap_wal_shuttle)]
pub mod threads;
