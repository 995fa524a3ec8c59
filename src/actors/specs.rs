//! What plans say to the scheduler's core, and what its answers say to tasks.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use regatta_remote::encode;

use super::messages::{Piece, Place};
use crate::notice::notice;
use crate::os;
use crate::plan::{Rows, Split, UdfStep, share};
use crate::sched::{DriverId, Output, PartitionId, PoolSpec, Resources};
use crate::store::{RowRange, Ticket};
use crate::udf::RunOn;

/// What a task reads of outputs that are so many partitions each.
pub(super) fn pieces(split: &Split, outputs: &[(Place, Output)], partitions: usize) -> Vec<Piece> {
    let Split::Share { part, of } = split else {
        let of_each = match split {
            Split::Hashed { part, .. } => *part..*part + 1,
            _ => 0..partitions,
        };
        let ids = outputs.iter().flat_map(|(place, output)| {
            of_each.clone().map(|partition| (*place, PartitionId { partition: partition as u32, ..output.id }))
        });
        return ids.map(|(place, id)| Piece { place, ticket: Ticket::Partition(id) }).collect();
    };
    let rows: Vec<u64> = outputs.iter().map(|(_, output)| output.rows).collect();
    let pieces = share(*part, *of, &rows).into_iter().filter_map(|Rows { partition, rows }| {
        let (place, output) = outputs.get(partition)?;
        let range = RowRange { offset: rows.start, len: rows.end - rows.start };
        let whole = range.len == output.rows;
        let ticket = if whole { Ticket::Partition(output.id) } else { Ticket::Rows(output.id, range) };
        Some(Piece { place: *place, ticket })
    });
    pieces.collect()
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
