//! Workers as pods: on a fake of Kubernetes that runs pods as processes of this machine, which are this test binary.

mod failures;
mod pods;
mod server;
mod tls;
#[path = "../support/work.rs"]
mod work;

use std::time::Duration;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::{assert_same_as_polars, eventually};
use regatta::{Config, Error, KubeOptions};
use server::Kubernetes;
use work::{processes, slow_query, sum};

regatta::testing::worker!();

/// Reacts at once.
pub(crate) fn eager() -> Config {
    Config {
        autoscaler_update_interval: Duration::from_millis(50),
        autoscaling_downscale_idle: Duration::from_millis(200),
        autoscaling_min_survivor_workers: 0,
        pool_warm: Duration::ZERO,
        worker_timeout: Duration::from_secs(60),
        ..Config::default()
    }
}

pub(crate) fn session(options: KubeOptions) -> Session {
    Session::kubernetes_with(options, eager()).unwrap()
}

pub(crate) fn workers(session: &Session) -> usize {
    session.status().unwrap().workers.len()
}

pub(crate) fn waits(session: &Session) -> String {
    session.status().unwrap().provider_waits.unwrap_or_default()
}

#[test]
fn pods_come_with_the_work_and_go_with_it_and_nothing_is_left_of_them() {
    let kubernetes = Kubernetes::new();
    let session = session(kubernetes.options(0..=3));
    assert!(kubernetes.names().is_empty(), "nobody asked for any");
    let frame = slow_query(2000).collect_on(&session).unwrap();
    assert_eq!(sum(&frame), 1999 * 1000);
    assert!(processes(&frame).len() > 1, "more came than one");
    eventually("all have retired", || workers(&session) == 0);
    eventually("and their pods are gone", || kubernetes.names().is_empty());
    eventually("and their Secrets", || kubernetes.secrets().is_empty());
    // And again, under other names.
    assert_eq!(sum(&slow_query(100).collect_on(&session).unwrap()), 99 * 50);
    let query = slow_query(500).group_by([col("x") % lit(7)]).agg([col("x").sum().alias("sum")]);
    assert_same_as_polars(&session, &query, false, &[]);
    drop(session);
    eventually("no pod is left", || kubernetes.names().is_empty());
    eventually("no process is left", || kubernetes.processes().is_empty());
    assert!(kubernetes.secrets().is_empty());
}

#[test]
fn a_worker_is_what_was_asked_for_and_its_secret_goes_when_it_has_joined() {
    let kubernetes = Kubernetes::new();
    let options = KubeOptions { cpus: 2.0, ..kubernetes.options(2..=2) };
    let cluster = Cluster::kubernetes_with(Some("127.0.0.1:0"), options, eager()).unwrap();
    let session = cluster.session();
    eventually("two have joined", || workers(session) == 2);
    assert!(session.status().unwrap().workers.iter().all(|worker| worker.cpus.0 == 2.0));
    eventually("their Secrets are gone", || kubernetes.secrets().is_empty());
    // Whoever sees pods sees no token: those were in Secrets, and nowhere else.
    let asked = kubernetes.asked();
    let tokens: Vec<_> = asked.iter().filter(|(method, path, _)| method == "POST" && path == "secrets").collect();
    assert_eq!(tokens.len(), 2);
    for (_, _, secret) in tokens {
        let secret: serde_json::Value = serde_json::from_str(secret).unwrap();
        let token = secret["stringData"]["token"].as_str().unwrap().to_owned();
        assert!(token.len() > 40);
        let elsewhere = |(_, path, body): &&(String, String, String)| {
            path.contains(&token) || (path != "secrets" && body.contains(&token))
        };
        assert_eq!(asked.iter().find(elsewhere), None);
        assert!(!serde_json::to_string(&kubernetes.pods()).unwrap().contains(&token));
    }
    // Nothing else is asked for than what the role allows.
    for (method, path, _) in &asked {
        let verb = (method.as_str(), path.split(['/', '?']).next().unwrap());
        assert!(
            [("GET", "pods"), ("POST", "pods"), ("DELETE", "pods"), ("POST", "secrets"), ("DELETE", "secrets")]
                .contains(&verb),
            "{method} {path}"
        );
    }
}

#[test]
fn a_pod_that_is_killed_with_work_is_missed_at_once_and_replaced() {
    let kubernetes = Kubernetes::new();
    let session = session(kubernetes.options(2..=2));
    eventually("two have joined", || workers(&session) == 2);
    let mut run = session.submit(slow_query(3000)).unwrap();
    eventually("some tasks are done", || run.status().unwrap().unwrap().stages[0].tasks.2 > 0);
    let first = kubernetes.names()[0].clone();
    server::signal(kubernetes.process(&first), "KILL");
    let began = std::time::Instant::now();
    eventually("it is missed", || !kubernetes.names().contains(&first));
    // Ten seconds of silence are what it takes where nobody tells.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(sum(&run.collect().unwrap()), 2999 * 1500);
    eventually("another has come", || workers(&session) == 2);
}

#[test]
fn outside_of_a_pod_it_is_said_what_to_do() {
    let error = Session::kubernetes_with(KubeOptions::default(), eager()).unwrap_err();
    let Error::Cluster(regatta::error::ClusterError::Kubernetes(error)) = &error else { panic!("{error}") };
    let text = error.to_string();
    assert!(text.contains("KUBERNETES_SERVICE_HOST is not set") && text.contains("deploy/kubernetes"), "{text}");
}
