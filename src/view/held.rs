//! The maps through which a view is read: those that it keeps, and those that are given up one after the other.

use super::View;
use crate::error::Result;
use crate::segment::{MappedPart, Mapping};
use crate::sync::{Arc, OnceLock};

/// Segments for which there is room at once: of a long log most are never read through one view.
const GROUP: usize = 16;

type Pin = OnceLock<Arc<Mapping>>;
type Group = OnceLock<Box<[Pin]>>;

/// The maps that a view keeps.
#[derive(Default)]
pub(super) struct Held {
    /// Of the last segment, for which no memory is asked.
    last: Pin,
    others: OnceLock<Box<[Group]>>,
}

impl Held {
    /// The map of segment `index` of `shown`, if there is one.
    #[inline]
    pub(super) fn get(&self, index: usize, shown: usize) -> Option<&Arc<Mapping>> {
        if index + 1 == shown {
            return self.last.get();
        }
        self.others.get()?.get(index / GROUP)?.get()?[index % GROUP].get()
    }

    /// Keeps `mapping`, a map of segment `index` of `shown`; the one that is there, if another thread was faster.
    pub(super) fn put(&self, index: usize, shown: usize, mapping: Arc<Mapping>) -> &Arc<Mapping> {
        if index + 1 == shown {
            return self.last.get_or_init(|| mapping);
        }
        let groups = self.others.get_or_init(|| (0..shown.div_ceil(GROUP)).map(|_| OnceLock::new()).collect());
        let group = groups[index / GROUP].get_or_init(|| (0..GROUP).map(|_| OnceLock::new()).collect());
        group[index % GROUP].get_or_init(|| mapping)
    }
}

/// The map of one segment of a view at a time, for those who read one after the other.
#[derive(Default)]
pub(crate) struct MapWindow(Option<(usize, Arc<Mapping>)>);

impl MapWindow {
    /// Segment `index` of `view` as far as it is shown; the map of the one before is given up.
    ///
    /// # Errors
    /// As [`View::mapping`].
    #[inline]
    pub(crate) fn part<'a>(&'a mut self, view: &'a View, index: usize) -> Result<MappedPart<'a>> {
        if !matches!(&self.0, Some((at, _)) if *at == index) {
            self.open(view, index)?;
        }
        match &self.0 {
            Some((_, mapping)) => Ok(MappedPart::new(&view.segments[index], mapping, view.end_of(index))),
            None => view.part(index),
        }
    }

    #[cold]
    fn open(&mut self, view: &View, index: usize) -> Result<()> {
        self.0 = None;
        let mapping = view.segments[index].mapping().map_err(|e| view.gone(index, e))?;
        self.0 = Some((index, mapping));
        Ok(())
    }
}
