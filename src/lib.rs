//! A memory-mapped segment write-ahead log.
#![deny(unsafe_code)]

mod format;
