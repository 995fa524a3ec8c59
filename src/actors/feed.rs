//! What a task is told of what it reads.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::messages::Place;
use crate::plan::Own;
use crate::sched::PartitionId;
use crate::store::Part;

/// What a task reads of a stage, in this order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Feed {
    pub(crate) sections: Range<u32>,
    /// Each place once.
    pub(crate) places: Vec<Place>,
    /// Outputs, each with the number of its place.
    pub(crate) parts: Vec<(u32, Part)>,
    /// Which of the rows are the task's own, if it reads a share of them.
    pub(crate) own: Option<Own>,
}

impl Feed {
    /// Some sections of outputs, or some of their rows.
    pub(crate) fn new(sections: Range<u32>, outputs: impl IntoIterator<Item = (Place, Part)>) -> Self {
        let mut feed = Self { sections, ..Self::default() };
        for (place, part) in outputs {
            // Workers are few.
            let at = feed.places.iter().position(|known| *known == place).unwrap_or_else(|| {
                feed.places.push(place);
                feed.places.len() - 1
            });
            feed.parts.push((at as u32, part));
        }
        feed
    }

    /// All of one output.
    pub(crate) fn of(place: Place, output: PartitionId) -> Self {
        Self::new(ALL_SECTIONS, [(place, Part::all(output))])
    }
}

/// Whatever sections there are.
pub(crate) const ALL_SECTIONS: Range<u32> = 0..u32::MAX;
