//! Logs that a killed writer has left are damaged, and their repair is killed again and again until it gets through; then
//! the writer goes on.

mod damage;
mod files;
mod layout;
mod pledge;
pub(crate) mod repairer;
pub(crate) mod rounds;
