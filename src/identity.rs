//! Whether a segment file is the one that the manifest means.

use std::path::Path;

use crate::error::{Corruption, Error, Foreign, Result};
use crate::format::manifest::Entry;
use crate::format::segment::{FRAMES_AT, IDENTITY_AT, Identity};

/// Refuses a segment file whose identity says that it is another one; a damaged copy says nothing.
pub(crate) fn check_identity(path: &Path, page: &[u8], entry: &Entry, log_id: [u8; 16]) -> Result<()> {
    let copies = IDENTITY_AT.into_iter().filter_map(|at| Identity::decode(page.get(at..)?));
    for copy in copies {
        if copy.log_id != log_id {
            let reason = "its header carries the id of another log";
            return Err(Error::Foreign(Box::new(Foreign { path: path.to_owned(), reason })));
        }
        if (copy.salt, copy.ordinal, copy.capacity) != (entry.salt, entry.ordinal, entry.capacity) {
            return Err(Error::Corrupt(Box::new(Corruption {
                path: path.to_owned(),
                segment: entry.ordinal,
                offset: 0,
                expected_seq: entry.base_seq,
                durable_offset: FRAMES_AT as u64,
                reason: "its header is that of another segment",
            })));
        }
    }
    Ok(())
}
