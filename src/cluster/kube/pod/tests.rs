//! What pods are made of, and what is read of them.

use super::*;

fn access() -> KubeAccess {
    KubeAccess {
        server: "http://127.0.0.1:1".into(),
        token: "/token".into(),
        certificate: None,
        namespace: "sails".into(),
        pod: ("head".into(), "uid-1".into()),
        address: "10.0.0.1".into(),
    }
}

fn blueprint(each: Each, template: Value) -> Result<Blueprint, KubeError> {
    let start = Start {
        argv: vec!["/program".into()],
        env: [("REGATTA_CPUS".to_owned(), "1".to_owned())].into(),
        options: Value::Null,
    };
    let blueprint =
        Blueprint::new(Living::called("a1b2".into()), &access(), (Some("regatta:1".into()), each, template))?;
    Ok(blueprint.starting(start, "10.0.0.1:7700".parse().unwrap()))
}

const EACH: Each = Each { cpus: 1.5, memory: Some(1 << 30), gpus: 2 };

#[test]
fn a_pod_has_what_was_asked_for_and_its_secret_in_no_plain_text() {
    let blueprint = blueprint(EACH, Value::Null).unwrap();
    let pod = blueprint.pod(Berth(7));
    assert_eq!(pod["metadata"]["name"], "regatta-a1b2-7");
    assert_eq!(
        pod["metadata"]["ownerReferences"],
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "head", "uid": "uid-1"}])
    );
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["resources"]["requests"], json!({"cpu": "1500m", "memory": "1073741824"}));
    assert_eq!(container["resources"]["limits"]["nvidia.com/gpu"], "2");
    let env = container["env"].as_array().unwrap();
    let of = |name: &str| env.iter().filter(|entry| entry["name"] == name).collect::<Vec<_>>();
    assert_eq!(of("REGATTA_JOIN"), [&json!({"name": "REGATTA_JOIN", "value": "10.0.0.1:7700"})]);
    let from = json!({"secretKeyRef": {"name": "regatta-a1b2-7", "key": "token"}});
    assert_eq!(of("REGATTA_TOKEN"), [&json!({"name": "REGATTA_TOKEN", "valueFrom": from})]);
    let secret = blueprint.secret(Berth(7), "sesame");
    assert_eq!(
        (&secret["metadata"]["name"], &secret["stringData"]["token"]),
        (&pod["metadata"]["name"], &"sesame".into())
    );
    assert_eq!(secret["metadata"]["ownerReferences"], pod["metadata"]["ownerReferences"]);
    let read: Pod = serde_json::from_value(pod).unwrap();
    assert_eq!((read.berth(), read.cluster(), read.is_owned_by("uid-1")), (Some(Berth(7)), Some("a1b2"), true));
}

#[test]
fn a_template_goes_over_what_is_made_and_not_over_what_must_be() {
    let template = json!({
        "metadata": {"name": "mine", "labels": {"team": "sails", "regatta/cluster": "other"}, "annotations": {"karpenter.sh/do-not-disrupt": null}},
        "spec": {
            "restartPolicy": "Always",
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "scratch", "emptyDir": {"sizeLimit": "50Gi"}}],
            "containers": [
                {"image": "own:2", "env": [{"name": "A", "value": "b"}, {"name": "REGATTA_TOKEN", "value": "mine"}],
                 "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "data", "mountPath": "/more"}]},
                {"name": "side", "image": "side:1"},
            ],
        },
    });
    let pod = blueprint(EACH, template).unwrap().pod(Berth(0));
    assert_eq!(pod["metadata"]["name"], "regatta-a1b2-0");
    assert_eq!(
        (&pod["metadata"]["labels"]["team"], &pod["metadata"]["labels"][CLUSTER]),
        (&json!("sails"), &json!("a1b2"))
    );
    let spec = &pod["spec"];
    assert_eq!((&spec["restartPolicy"], &spec["tolerations"][0]["key"]), (&json!("Never"), &json!("gpu")));
    assert_eq!(
        spec["volumes"],
        json!([{"name": "scratch", "emptyDir": {"sizeLimit": "50Gi"}}, {"name": "data", "emptyDir": {}}])
    );
    assert_eq!(spec["containers"].as_array().unwrap().len(), 2);
    let worker = &spec["containers"][0];
    assert_eq!(
        (&worker["name"], &worker["image"], &worker["command"]),
        (&json!("worker"), &json!("own:2"), &json!(["/program"]))
    );
    assert_eq!(worker["volumeMounts"].as_array().unwrap().len(), 3);
    assert!(!pod.to_string().contains("\"mine\""), "{pod}");
    for (template, why) in
        [(json!([1]), "no JSON object"), (json!({"spec": {"containers": [{"name": "side"}]}}), "call it \"worker\"")]
    {
        let text = blueprint(EACH, template).unwrap_err().to_string();
        assert!(text.contains(why), "{text}");
    }
    let none =
        Blueprint::new(Living::called("a".into()), &access(), (None, EACH, Value::Null)).unwrap_err().to_string();
    assert!(none.contains("KubeOptions::image"), "{none}");
}

#[test]
fn where_a_pod_stands_is_read_of_what_kubernetes_says() {
    let stands = |status: Value| {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap();
        pod.stands()
    };
    let container =
        |state: Value| json!({"phase": "Pending", "containerStatuses": [{"name": "worker", "state": state}]});
    let waits = |why: Option<&str>, is_stuck| Stands::Waits { why: why.map(str::to_owned), is_stuck };
    assert_eq!(stands(json!({"phase": "Pending"})), waits(None, false));
    assert_eq!(stands(json!({"phase": "Pending", "conditions": null})), waits(None, false));
    let condition =
        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"});
    assert_eq!(
        stands(json!({"phase": "Pending", "conditions": [condition]})),
        waits(Some("Unschedulable: 0/3 nodes"), false)
    );
    assert_eq!(stands(container(json!({"waiting": {"reason": "ContainerCreating"}}))), waits(None, false));
    let image = json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}});
    assert_eq!(stands(container(image)), waits(Some("ErrImagePull: not found"), true));
    assert_eq!(stands(container(json!({"running": {}}))), Stands::Runs);
    let ended = |state: Value| {
        let Stands::Ended(why) = stands(container(json!({"terminated": state}))) else { panic!() };
        why
    };
    assert_eq!(ended(json!({"exitCode": 137, "reason": "OOMKilled"})), "its pod p ended (OOMKilled, exit code 137)");
    let bad = ended(json!({"exitCode": 2, "reason": "Error", "message": "one\nthe token is used up\n"}));
    assert_eq!(bad, "its pod p ended (exit code 2). Its last words:\n  one\n  the token is used up");
    assert_eq!(ended(json!({"signal": 9})), "its pod p ended (signal 9)");
    let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "low on resource: memory"});
    assert_eq!(stands(evicted), Stands::Ended("its pod p ended (Evicted: low on resource: memory)".into()));
}

#[test]
fn cpus_are_said_in_thousandths_where_they_are_no_whole_number() {
    assert_eq!([4.0, 0.5, 0.0001, 2.25].map(cpus), ["4", "500m", "1m", "2250m"]);
}
