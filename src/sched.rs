//! The scheduler without its shell: queue, ledger, pools and attempts as plain structs that take `now` and answer with
//! actions. No tokio, no actix, no Polars.

mod actors;
mod autoscale;
mod core;
mod ids;
mod ledger;
mod policy;
mod pool;
mod query;
mod queues;
mod resources;
mod status;

pub(crate) use self::core::{Action, Core, Event, MAX_ATTEMPTS, Settings};
pub(crate) use autoscale::ScaleSettings;
pub(crate) use ids::{Attempt, PartitionId, PoolId, ReplicaId};
pub use ids::{QueryId, StageId, StepId, TaskId, WorkerId};
pub(crate) use policy::Affinity;
pub(crate) use pool::PoolSpec;
pub(crate) use query::{Outcome, Output, QuerySpec, Report, StageSpec};
pub(crate) use resources::Resources;
pub use status::{PoolStatus, QueryStatus, SessionStatus, StageStatus, Wait, WaitsFor, WorkerStatus};

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// `docs/scheduler.md` names tests that exist.
    #[test]
    fn every_test_that_the_page_on_the_scheduler_names_exists() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(here.join("docs/scheduler.md")).unwrap();
        let mut sources = fs::read_to_string(here.join("src/udf/pool.rs")).unwrap();
        for folder in ["src/sched", "tests/scenarios"] {
            read_all(&here.join(folder), &mut sources);
        }
        // A test's name is a sentence: at least three words.
        let names = text.split('`').skip(1).step_by(2).filter(|code| !code.contains(' '));
        let names: Vec<_> =
            names.filter(|code| code.matches('_').count() >= 3 && **code == code.to_lowercase()).collect();
        assert!(names.len() > 60, "the names are no longer found: {names:?}");
        let missing: Vec<_> = names.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
        assert!(missing.is_empty(), "no such tests: {missing:?}");
    }

    fn read_all(folder: &Path, into: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read_all(&path, into);
            } else {
                into.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
}
