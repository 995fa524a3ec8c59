//! What goes wrong: with pods, with the API server, and with the head.

use std::time::{Duration, Instant};

use regatta::KubeOptions;
use regatta::prelude::*;
use regatta::testing::eventually;
use serde_json::json;

use super::server::Kubernetes;
use super::work::{lives, processes, slow_query, sum};
use super::{eager, session, waits, workers};

/// What a query says that finds no worker within three seconds.
fn no_worker(kubernetes: &Kubernetes, options: KubeOptions) -> String {
    let config = regatta::Config { worker_timeout: Duration::from_secs(3), ..eager() };
    let session = Session::kubernetes_with(options, config).unwrap();
    let error = slow_query(10).collect_on(&session).unwrap_err().to_string();
    drop(session);
    eventually("nothing is left", || kubernetes.names().is_empty() && kubernetes.secrets().is_empty());
    error
}

#[test]
fn what_kubernetes_refuses_is_said_and_what_it_gave_works() {
    let kubernetes = Kubernetes::new();
    kubernetes.rules(|rules| rules.quota = Some(2));
    let on_two = session(kubernetes.options(4..=4));
    eventually("two of four have joined", || workers(&on_two) == 2);
    assert_eq!(sum(&slow_query(500).collect_on(&on_two).unwrap()), 499 * 250);
    drop(on_two);
    eventually("nothing is left", || kubernetes.names().is_empty());
    kubernetes.rules(|rules| rules.quota = Some(0));
    let text = no_worker(&kubernetes, kubernetes.options(1..=1));
    assert!(
        text.contains("no worker for 3 s") && text.contains("exceeded quota: compute") && text.contains("(403)"),
        "{text}"
    );
}

#[test]
fn a_pod_whose_image_cannot_be_had_is_deleted_and_said() {
    let kubernetes = Kubernetes::new();
    kubernetes.rules(|rules| rules.no_image = true);
    let options = KubeOptions { stuck_timeout: Duration::from_secs(1), ..kubernetes.options(1..=1) };
    let text = no_worker(&kubernetes, options);
    assert!(text.contains("could not start within 1 s: ImagePullBackOff: Back-off pulling"), "{text}");
    // While it is not given up it is said what it waits for.
    let session = session(kubernetes.options(1..=1));
    eventually("it is said", || waits(&session).contains("(ImagePullBackOff: "));
    // An image that is there after all.
    let name = kubernetes.names()[0].clone();
    kubernetes.rules(|rules| rules.no_image = false);
    kubernetes.delete(&name);
    eventually("another has come", || workers(&session) == 1);
}

#[test]
fn a_worker_that_ends_before_it_joins_is_said_with_its_last_words() {
    let kubernetes = Kubernetes::new();
    kubernetes.rules(|rules| rules.runs = Some(vec!["sh", "-c", "echo no such port >&2; exit 2"]));
    let text = no_worker(&kubernetes, kubernetes.options(1..=1));
    assert!(text.contains("ended (exit code 2). Its last words:\n  no such port"), "{text}");
    kubernetes.rules(|rules| rules.runs = Some(vec!["sleep", "1000"]));
    let options = KubeOptions { join_timeout: Duration::from_secs(1), ..kubernetes.options(1..=1) };
    let text = no_worker(&kubernetes, options);
    assert!(text.contains("did not join within 1 s"), "{text}");
    eventually("and no process is left", || kubernetes.processes().is_empty());
}

#[test]
fn memory_that_ran_out_is_named_and_another_worker_comes() {
    let kubernetes = Kubernetes::new();
    let session = session(kubernetes.options(1..=1));
    eventually("one has joined", || workers(&session) == 1);
    let (name, process) = (kubernetes.names()[0].clone(), kubernetes.processes()[0]);
    let mut run = session.submit(slow_query(1000)).unwrap();
    eventually("some tasks are done", || run.status().unwrap().unwrap().stages[0].tasks.2 > 0);
    let ended = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    kubernetes.status(
        &name,
        json!({"phase": "Failed", "started": true, "containerStatuses": [{"name": "worker", "state": ended}]}),
    );
    // The kubelet's word is proof, whatever the process still does.
    eventually("another has come", || kubernetes.names().first().is_some_and(|other| *other != name));
    assert_eq!(sum(&run.collect().unwrap()), 999 * 500);
    eventually("and the first is gone", || !lives(process));
}

#[test]
fn a_pod_that_others_delete_hands_its_work_over_and_nobody_waits_for_it() {
    let kubernetes = Kubernetes::new();
    let session = session(kubernetes.options(2..=2));
    eventually("two have joined", || workers(&session) == 2);
    let mut run = session.submit(slow_query(2000)).unwrap();
    eventually("some tasks are done", || run.status().unwrap().unwrap().stages[0].tasks.2 > 0);
    let name = kubernetes.names()[0].clone();
    kubernetes.delete(&name);
    let began = Instant::now();
    eventually("it has ended", || !kubernetes.names().contains(&name));
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(sum(&run.collect().unwrap()), 1999 * 1000);
    eventually("another has come in its place", || workers(&session) == 2 && kubernetes.names().len() == 2);
}

#[test]
fn a_watch_that_ends_or_forgets_or_misses_is_made_up_for() {
    let kubernetes = Kubernetes::new();
    let session = session(kubernetes.options(1..=1));
    eventually("one has joined", || workers(&session) == 1);
    for forget in [false, true] {
        kubernetes.cut(forget);
        let name = kubernetes.names()[0].clone();
        // No event tells of its end: the next look at all of them does.
        kubernetes.vanish(&name);
        eventually("another has come", || {
            kubernetes.names().first().is_some_and(|other| *other != name) && workers(&session) == 1
        });
    }
    assert_eq!(sum(&slow_query(100).collect_on(&session).unwrap()), 99 * 50);
}

#[test]
fn while_the_api_server_is_away_workers_go_on_and_then_others_come() {
    let kubernetes = Kubernetes::new();
    let session = session(kubernetes.options(1..=3));
    eventually("one has joined", || workers(&session) == 1);
    kubernetes.rules(|rules| rules.is_away = true);
    let mut run = session.submit(slow_query(3000)).unwrap();
    eventually("it is said what is waited for", || {
        waits(&session).contains("for the API server of Kubernetes at http://127.0.0.1:")
    });
    eventually("the one works", || run.status().unwrap().unwrap().stages[0].tasks.2 > 0);
    // The token of the service account has changed meanwhile, as it does each hour.
    kubernetes.bearer(1);
    kubernetes.rules(|rules| rules.is_away = false);
    eventually("others come", || workers(&session) > 1);
    assert_eq!(sum(&run.collect().unwrap()), 2999 * 1500);
    drop(run);
    eventually("and go", || workers(&session) == 1);
}

#[test]
fn an_answer_that_is_lost_makes_no_second_pod() {
    let kubernetes = Kubernetes::new();
    for kind in ["secrets", "pods"] {
        // It runs only when it was asked for again: one that has joined need not be.
        kubernetes.rules(|rules| (rules.loses, rules.room) = (Some(("POST", kind)), Some(0)));
        let before = kubernetes.asked().len();
        let session = session(kubernetes.options(1..=1));
        let created = || {
            let asked = kubernetes.asked();
            asked[before..].iter().filter(|(method, path, _)| method == "POST" && path == kind).count()
        };
        eventually("it was asked for again", || created() == 2);
        kubernetes.rules(|rules| rules.room = None);
        eventually("one has joined", || workers(&session) == 1);
        eventually("its Secret is gone", || kubernetes.secrets().is_empty());
        assert_eq!(kubernetes.names().len(), 1);
        drop(session);
        eventually("nothing is left", || kubernetes.names().is_empty() && kubernetes.secrets().is_empty());
    }
}

#[test]
fn a_conflict_is_asked_again_and_is_no_pod_that_is_there() {
    let kubernetes = Kubernetes::new();
    let conflict = "Operation cannot be fulfilled on resourcequotas \"compute\": the object has been modified";
    for kind in ["secrets", "pods"] {
        kubernetes.rules(|rules| rules.refuses = Some(("POST", kind, 409, conflict)));
        let session = session(kubernetes.options(1..=1));
        eventually("it is said", || waits(&session).contains("resourcequotas"));
        kubernetes.rules(|rules| rules.refuses = None);
        eventually("one has joined", || workers(&session) == 1);
        assert_eq!(kubernetes.names().len(), 1);
        drop(session);
        eventually("nothing is left", || kubernetes.names().is_empty() && kubernetes.secrets().is_empty());
    }
}

#[test]
fn a_session_that_ends_while_a_request_hangs_leaves_nothing() {
    let kubernetes = Kubernetes::new();
    kubernetes.rules(|rules| rules.hangs = Some(("POST", "pods")));
    let session = session(kubernetes.options(2..=2));
    eventually("both are asked for", || kubernetes.asked().iter().filter(|(of, ..)| of == "POST").count() == 4);
    let began = Instant::now();
    drop(session);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(kubernetes.secrets().is_empty(), "tokens are taken back");
}

#[test]
fn watches_that_say_nonsense_cost_little_and_pods_are_seen_all_the_same() {
    static ENDLESS: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| "[".repeat(1 << 20));
    let deep = "{\"type\": \"ADDED\", \"object\": {\"metadata\": []}}\n";
    for (text, most) in [("\0\u{1b}[2J{\n", 100), (deep, 100), ("\n", 100), (&**ENDLESS, 80 << 20)] {
        let kubernetes = Kubernetes::new();
        kubernetes.rules(|rules| rules.babbles = Some(text));
        let began = Instant::now();
        let session = session(kubernetes.options(1..=1));
        eventually("one has joined", || workers(&session) == 1);
        let name = kubernetes.names()[0].clone();
        kubernetes.vanish(&name);
        eventually("its end is seen", || kubernetes.names().first().is_some_and(|other| *other != name));
        eventually("some was said", || kubernetes.babbled().1 >= 4);
        let (bytes, watches) = kubernetes.babbled();
        assert!(bytes / watches <= most, "{bytes} bytes in {watches} watches");
        // After half a second, a second, two, four, and then five each time.
        let pauses = (0..watches as u32 - 1).map(|nth| Duration::from_millis(500 << nth.min(8)));
        let least: Duration = pauses.map(|pause| pause.min(Duration::from_secs(5))).sum();
        assert!(began.elapsed() >= least, "{watches} watches in {:?}", began.elapsed());
        drop(session);
        eventually("nothing is left", || kubernetes.names().is_empty() && kubernetes.secrets().is_empty());
    }
}

#[test]
fn what_waits_for_a_node_is_taken_back_before_any_that_works() {
    let kubernetes = Kubernetes::new();
    kubernetes.rules(|rules| rules.room = Some(1));
    let session = session(kubernetes.options(0..=3));
    let mut run = session.submit(slow_query(1500)).unwrap();
    eventually("two wait, one has joined", || {
        let text = waits(&session);
        text.starts_with("for 2 of ")
            && text.contains("Unschedulable: 0/3 nodes are available")
            && workers(&session) == 1
    });
    assert_eq!(sum(&run.collect().unwrap()), 1499 * 750);
    let works = kubernetes.processes();
    drop(run);
    eventually("nobody waits", || kubernetes.names().len() <= 1 && waits(&session).is_empty());
    assert!(
        kubernetes.processes().is_empty() || kubernetes.processes() == works,
        "the one that worked was the last to go"
    );
    eventually("and it retires", || kubernetes.names().is_empty());
}

#[test]
fn two_heads_of_a_namespace_leave_each_others_pods_alone() {
    let kubernetes = Kubernetes::new();
    let one = session(kubernetes.options(1..=1));
    eventually("one has joined", || workers(&one) == 1);
    let access = regatta::KubeAccess { pod: ("other-head".into(), "uid-2".into()), ..kubernetes.access() };
    let other = session(KubeOptions { access: Some(access), ..kubernetes.options(1..=1) });
    eventually("another has joined there", || workers(&other) == 1);
    drop(other);
    eventually("one pod is left", || kubernetes.names().len() == 1);
    let frame = slow_query(100).collect_on(&one).unwrap();
    assert_eq!(processes(&frame), kubernetes.processes(), "it is the first one's");
}

#[test]
fn what_an_earlier_process_of_the_pod_has_left_is_deleted() {
    let kubernetes = Kubernetes::new();
    let left = |name: &str, uid: &str| {
        json!({
            "metadata": {
                "name": name, "ownerReferences": [{"uid": uid}],
                "labels": {"app.kubernetes.io/name": "regatta", "app.kubernetes.io/component": "worker", "regatta/cluster": "old", "regatta/berth": "0"},
            },
            "status": {"phase": "Running"},
        })
    };
    for (name, uid) in [("regatta-old-0", "uid-1"), ("regatta-their-0", "uid-2")] {
        kubernetes.put("pods", left(name, uid));
        kubernetes.put("secrets", left(name, uid));
    }
    let session = session(kubernetes.options(0..=1));
    assert_eq!(kubernetes.names(), ["regatta-their-0"]);
    assert_eq!(kubernetes.secrets().len(), 1);
    drop(session);
    assert_eq!(kubernetes.names(), ["regatta-their-0"]);
}

#[test]
fn an_api_server_that_refuses_or_is_not_there_is_an_error_with_what_to_do() {
    let kubernetes = Kubernetes::new();
    kubernetes.rules(|rules| rules.refuses = Some(("GET", "pods", 403, "pods is forbidden: User \"x\" cannot list")));
    let text = Session::kubernetes_with(kubernetes.options(0..=1), eager()).unwrap_err().to_string();
    assert!(
        text.contains("cannot list (403)") && text.contains("role of deploy/kubernetes") && text.contains("sails"),
        "{text}"
    );
    let access = regatta::KubeAccess { server: "http://127.0.0.1:1".into(), ..kubernetes.access() };
    let options = KubeOptions { access: Some(access), ..kubernetes.options(0..=1) };
    let text = Session::kubernetes_with(options, eager()).unwrap_err().to_string();
    assert!(text.contains("http://127.0.0.1:1 cannot be reached") && text.contains("refused"), "{text}");
}
