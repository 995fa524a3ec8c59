//! Ray clusters of several nodes, of GPUs, of an autoscaler, and with tokens.

use std::collections::BTreeSet;
use std::time::Duration;

use regatta::Error;
use regatta::error::{ClusterError, RayError};
use regatta::polars::prelude::*;
use regatta::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cluster::Ray;
use super::real::RAY;
use super::work::{lives, processes, slow_query, sum};
use super::{eager, eventually, options, program};

/// What a variable is in the process that a row was in.
#[derive(Serialize, Deserialize)]
struct Variable(String);

#[regatta::udf]
impl Udf for Variable {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::String)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        // So that one replica does not do it all.
        std::thread::sleep(Duration::from_millis(20));
        let value = std::env::var(&self.0).ok();
        Ok(Column::new(self.0.as_str().into(), vec![value; batch.height()]))
    }
}

/// What a variable is on workers of one CPU each, for each of so many.
fn seen(session: &Session, variable: &str, workers: usize) -> Vec<Option<String>> {
    let rows = df!["x" => (0..200).collect::<Vec<_>>()].unwrap().lazy().into_partitions(20);
    let udf = Variable(variable.to_owned()).pool().replicas(workers..=workers).batch(10).on([col("x")]);
    let frame = rows.select([udf.alias("variable")]).collect_on(session).unwrap();
    let values = frame.column("variable").unwrap().str().unwrap().iter().map(|value| value.map(str::to_owned));
    values.collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn two_workers_with_a_gpu_each_see_different_ones_and_one_without_sees_none() {
    let Some(ray) = &*RAY else { return };
    let with = |gpus, workers| {
        let options = regatta::RayOptions { gpus, ..options(&ray.python(), &ray.address, workers) };
        Session::ray_with(options, eager()).unwrap()
    };
    let session = with(1, 2..=2);
    eventually("two workers have joined", || session.status().unwrap().workers.len() == 2);
    let visible = "CUDA_VISIBLE_DEVICES";
    assert_eq!(seen(&session, visible, 2), [Some("0".to_owned()), Some("1".to_owned())]);
    drop(session);
    assert_eq!(seen(&with(0, 1..=1), visible, 1), [Some(String::new())]);
}

#[test]
fn a_node_that_is_lost_in_mid_query_costs_no_row_and_its_worker_ends() {
    // Sooner than Ray would ordinarily say that it is gone.
    let health = r#"--system-config={"health_check_period_ms":500,"health_check_timeout_ms":1000,"health_check_failure_threshold":3}"#;
    let Some(ray) = Ray::start(&["--num-cpus=0", "--include-dashboard=false", health], &[], None) else { return };
    let node = || ray.node(&["--num-cpus=1"]);
    let nodes = [node(), node()];
    let session = ray.session(2..=2);
    eventually("two workers have joined", || session.status().unwrap().workers.len() == 2);
    let mut run = session.submit(slow_query(4000)).unwrap();
    eventually("some tasks are done", || run.status().unwrap().unwrap().stages[0].tasks.2 > 1);
    let waits = || session.status().unwrap().provider_waits.is_some();
    assert!(!waits());
    let raylet = nodes[1].1;
    assert!(std::process::Command::new("kill").args(["-9", &raylet.to_string()]).status().unwrap().success());
    eventually("another worker is asked for, for which there is no room", waits);
    let frame = run.collect().unwrap();
    assert_eq!((frame.height(), sum(&frame)), (4000, 3999 * 2000));
    eventually("the worker of that node has ended", || {
        processes(&frame).into_iter().filter(|process| lives(*process)).count() <= 1
    });
}

/// What Ray's own tests have for a cloud: nodes that are processes of this machine. It needs a name for its first node.
const FIRST: &str = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000";

fn autoscaling(address: &str) -> String {
    let provider = json!({
        "type": "fake_multinode", "gcs_address": address, "head_node_id": FIRST, "launch_multiple": true,
        "use_node_id_as_ip": true, "disable_node_updaters": true, "disable_launch_config_check": true,
    });
    let nodes = json!({
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "small": {"resources": {"CPU": 2, "object_store_memory": 80_000_000}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    });
    let lists = ["initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"];
    let more = [
        "head_start_ray_commands",
        "worker_start_ray_commands",
        "cluster_synced_files",
        "rsync_exclude",
        "rsync_filter",
    ];
    let mut config = json!({
        "cluster_name": "fake", "max_workers": 2, "provider": provider, "available_node_types": nodes,
        "head_node_type": "ray.head.default", "upscaling_speed": 1.0, "idle_timeout_minutes": 0.05, "docker": {}, "auth": {},
        "file_mounts": {}, "file_mounts_sync_continuously": false,
    });
    lists.iter().chain(&more).for_each(|list| config[*list] = json!([]));
    config.to_string()
}

#[test]
fn rays_autoscaler_starts_nodes_for_workers_and_ends_them_with_those() {
    let env = [
        ("AUTOSCALER_UPDATE_INTERVAL_S", "1"),
        ("RAY_FAKE_CLUSTER", "1"),
        ("RAY_enable_autoscaler_v2", "1"),
        ("RAY_CLOUD_INSTANCE_ID", FIRST),
        ("RAY_OVERRIDE_NODE_ID_FOR_TESTING", FIRST),
    ];
    let Some(ray) = Ray::start(&["--num-cpus=0", "--include-dashboard=false"], &env, Some(autoscaling)) else { return };
    // Its nodes say nothing of memory.
    let options = regatta::RayOptions { memory: None, ..options(&ray.python(), &ray.address, 0..=3) };
    let session = Session::ray_with(options, eager()).unwrap();
    assert_eq!(ray.raylets().len(), 1, "nobody has asked for more");
    let mut run = session.submit(slow_query(2000)).unwrap();
    eventually("two nodes are there, for three workers", || ray.raylets().len() == 3);
    assert_eq!(sum(&run.collect().unwrap()), 1999 * 1000);
    drop(run);
    eventually("they are gone without work", || ray.raylets().len() == 1);
    assert!(session.status().unwrap().workers.is_empty());
}

#[test]
fn a_cluster_with_tokens_lets_in_who_has_the_right_one() {
    let token = "0123456789abcdef0123456789abcdef0123456789ab";
    let env = [("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN", token)];
    let Some(ray) = Ray::start(&["--num-cpus=1", "--include-dashboard=false"], &env, None) else { return };
    let folder = tempfile::tempdir().unwrap();
    let session = |variables: &str| {
        // It tries twenty times ordinarily.
        let with_these = format!("{variables} RAY_NUM_REDIS_GET_RETRIES=2 exec {} \"$@\"", ray.python().display());
        let python = program(folder.path().join("python"), &with_these);
        Session::ray_with(options(&python, &ray.address, 1..=1), eager())
    };
    let wrong = "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=ffffffffffffffffffffffffffffffffffffffffffff";
    for variables in ["RAY_AUTH_MODE=disabled", wrong] {
        let error = session(variables).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Cluster(ClusterError::Ray(RayError::Refused { .. }))), "{variables}: {text}");
        assert!(text.contains("InvalidAuthToken") && text.contains("wants RAY_AUTH_MODE=token"), "{text}");
    }
    let session = session(&format!("RAY_AUTH_MODE=token RAY_AUTH_TOKEN={token}")).unwrap();
    assert_eq!(sum(&slow_query(100).collect_on(&session).unwrap()), 99 * 50);
}
