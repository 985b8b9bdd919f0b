//! What views go on showing when the log has given it up: it is mapped while its file is there, or keeps its file.

use crate::error::{Error, Result};
use crate::segment::Segment;
use crate::sync::Arc;

/// Segments that the manifest names no longer, whose files are there for the views that show them.
#[derive(Default)]
pub(crate) struct Lingering(Vec<Arc<Segment>>);

impl Lingering {
    /// One more.
    pub(crate) fn push(&mut self, segment: Arc<Segment>) {
        self.0.push(segment);
    }

    /// Maps segments for their views, and has the files of those that are mapped or shown no more removed by `remove`,
    /// which gets their ordinals. When there may not be more maps, the others keep their files.
    ///
    /// # Errors
    /// The first of `remove`, or of a map for another reason.
    pub(crate) fn remove(&mut self, remove: impl Fn(u64) -> Result<()>) -> Result<()> {
        let mut left = std::mem::take(&mut self.0).into_iter();
        let mut done = Ok(());
        for segment in left.by_ref() {
            match if Segment::is_shown(&segment) { segment.keep_mapped() } else { Ok(()) } {
                Ok(()) => done = remove(segment.ordinal()),
                Err(Error::MapLimit(_)) => {
                    // None of the others would find room for its map, either.
                    self.0.push(segment);
                    break;
                }
                Err(e) => done = Err(e),
            }
            if done.is_err() {
                break;
            }
        }
        self.0.extend(left);
        done
    }
}

/// Maps what is not mapped yet, so that it can be read when the files are gone, as far as there may be maps. What cannot
/// be mapped is told when it is read.
pub(crate) fn map_all(segments: &[Arc<Segment>]) {
    for segment in segments {
        if let Err(Error::MapLimit(_)) = segment.keep_mapped() {
            break;
        }
    }
}
