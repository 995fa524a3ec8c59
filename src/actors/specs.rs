//! What plans say to the scheduler's core, and what its answers say to tasks.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use regatta_remote::encode;

use super::feed::{ALL_SECTIONS, Feed};
use super::messages::Place;
use crate::notice::notice;
use crate::os;
use crate::plan::{Rows, Split, UdfStep, share};
use crate::sched::{DriverId, Output, PoolSpec, Resources, Way};
use crate::store::{Part, RowRange};
use crate::udf::RunOn;

/// What a task with this split reads of outputs, this way.
pub(super) fn feed(way: Way, split: &Split, outputs: &[(Place, Output)]) -> Feed {
    if let Split::Branch { split, .. } = split {
        return feed(way, split, outputs);
    }
    let (Way::Share, Split::Share { part, of, deal }) = (way, split) else {
        let sections = match (way, split) {
            (Way::Sections, Split::Sections { from, to, .. }) => *from..*to,
            _ => ALL_SECTIONS,
        };
        return Feed::new(sections, outputs.iter().map(|(place, output)| (*place, Part::all(output.id))));
    };
    let rows: Vec<u64> = outputs.iter().map(|(_, output)| output.rows).collect();
    let (share, own) = share(*part, *of, *deal, &rows);
    let parts = share.into_iter().filter_map(|Rows { partition, rows }| {
        let (place, output) = outputs.get(partition)?;
        let range = RowRange { offset: rows.start, len: rows.end - rows.start };
        let rows = (range.len < output.rows).then_some(range);
        Some((*place, Part { rows, ..Part::all(output.id) }))
    });
    Feed { own: Some(own), ..Feed::new(ALL_SECTIONS, parts) }
}

/// What a pool takes; `no_gpu`: why no worker has a GPU.
pub(super) fn pool_spec(step: &UdfStep, no_gpu: Option<&str>) -> PoolSpec {
    let options = &step.options;
    let ((least, most), ready_timeout, keep_warm) = (options.replicas, options.ready_timeout, options.keep_warm);
    let each = Resources::cpus(options.cpus).with_memory(options.memory);
    let each = match no_gpu {
        Some(why) if options.run_on == RunOn::PreferGpu => {
            notice(format_args!("UDF {} runs on CPUs, as no worker has a GPU: {why}", step.udf));
            each
        }
        _ => each.with_gpus(options.gpus, options.gpu_memory),
    };
    // What cannot be encoded is nobody else's.
    let key = encode(&(&step.udf, options, each, &step.arguments)).map(|key| Arc::from(&*key));
    let key = key.unwrap_or_else(|_| Arc::from(os::random().to_le_bytes()));
    PoolSpec { key, udf: step.udf.clone(), each, least, most, ready_timeout, keep_warm }
}

/// All that a driver submits is under one number.
pub(super) fn driver_id(driver: &Place) -> DriverId {
    let mut hasher = DefaultHasher::new();
    driver.node.map(|(node, _)| node).hash(&mut hasher);
    DriverId(hasher.finish())
}
