//! Pods and Secrets of workers: what is asked for, and what is said of it.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::super::fleet::Berth;
use super::super::piloted::Each;
use super::super::provider::Start;
use super::Living;
use super::access::KubeAccess;
use crate::error::KubeError;

/// What pods of one cluster are made of.
#[derive(Debug)]
pub(super) struct Blueprint {
    /// Tells this cluster's pods from those of others.
    cluster: Living,
    /// The head's pod, in whose place workers end.
    owner: Value,
    image: String,
    each: Each,
    template: Value,
    argv: Vec<String>,
    env: Vec<(String, String)>,
}

/// The label with the cluster's name, and with the berth's number.
pub(super) const CLUSTER: &str = "regatta/cluster";
const BERTH: &str = "regatta/berth";
/// What all pods of workers have.
pub(super) const WORKERS: &str = "app.kubernetes.io/name=regatta,app.kubernetes.io/component=worker";
const SCRATCH: &str = "/scratch";
/// What a worker may be told only by us.
const OURS: [&str; 2] = ["REGATTA_JOIN", "REGATTA_TOKEN"];

impl Blueprint {
    /// # Errors
    /// The template is no pod, or there is no image.
    pub(super) fn new(
        cluster: Living,
        access: &KubeAccess,
        (image, each, template): (Option<String>, Each, Value),
    ) -> Result<Self, KubeError> {
        let wrong = |why: &str| KubeError::Template { why: why.to_owned() };
        let container = template.pointer("/spec/containers/0");
        if !(template.is_null() || template.is_object()) {
            return Err(wrong("the template is no JSON object, as {\"spec\": {\"nodeSelector\": {..}}}"));
        }
        if let Some(name) = container.and_then(|container| container.get("name")).filter(|name| *name != "worker") {
            let why = format!("the template's first container is called {name}: call it \"worker\", or leave that out");
            return Err(wrong(&why));
        }
        let own = container.and_then(|container| container.get("image")?.as_str());
        let image = own.map(str::to_owned).or(image);
        let image =
            image.ok_or_else(|| wrong("it is not known which image the head's pod runs: say KubeOptions::image"))?;
        let (name, uid) = &access.pod;
        // Not as its controller, and without blocking its end: that would need the right to change the owner.
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        Ok(Self { cluster, owner, image, each, template, argv: Vec::new(), env: Vec::new() })
    }

    /// With what its workers are started as, and where they find the head.
    pub(super) fn starting(mut self, start: Start, head: std::net::SocketAddr) -> Self {
        self.argv = start.argv;
        self.env = start.env.into_iter().chain([("REGATTA_JOIN".to_owned(), head.to_string())]).collect();
        self
    }

    pub(super) fn name(&self, berth: Berth) -> String {
        format!("regatta-{}-{}", self.cluster.name(), berth.0)
    }

    /// The labels by which this cluster's pods are found.
    pub(super) fn labels(&self) -> String {
        format!("{CLUSTER}={}", self.cluster.name())
    }

    fn metadata(&self, berth: Berth) -> Value {
        json!({
            "name": self.name(berth),
            "labels": {
                "app.kubernetes.io/name": "regatta", "app.kubernetes.io/component": "worker",
                CLUSTER: self.cluster.name(), BERTH: berth.0.to_string(),
            },
            "ownerReferences": [self.owner],
        })
    }

    pub(super) fn secret(&self, berth: Berth, token: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": self.metadata(berth), "stringData": {"token": token},
        })
    }

    pub(super) fn pod(&self, berth: Berth) -> Value {
        let mut resources = Map::from_iter([("cpu".to_owned(), cpus(self.each.cpus).into())]);
        self.each
            .memory
            .into_iter()
            .for_each(|bytes| _ = resources.insert("memory".to_owned(), bytes.to_string().into()));
        let mut limits = resources.clone();
        if self.each.gpus > 0 {
            limits.insert("nvidia.com/gpu".to_owned(), self.each.gpus.to_string().into());
        }
        let env = self.env.iter().map(|(name, value)| json!({"name": name, "value": value}));
        let env = env.chain(["REGATTA_SCRATCH", "TMPDIR"].map(|name| json!({"name": name, "value": SCRATCH})));
        let mut pod = json!({
            "metadata": {"annotations": {
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true",
            }},
            "spec": {
                "serviceAccountName": "regatta-worker",
                "terminationGracePeriodSeconds": 30,
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "worker",
                    "image": self.image,
                    "command": self.argv,
                    "env": env.collect::<Vec<_>>(),
                    "resources": {"requests": resources, "limits": limits},
                    // The end of its log, without a right to read logs.
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "scratch", "mountPath": SCRATCH}],
                }],
                "volumes": [{"name": "scratch", "emptyDir": {}}],
            },
        });
        merge(&mut pod, &self.template);
        let from = json!({"secretKeyRef": {"name": self.name(berth), "key": "token"}});
        let join = self
            .env
            .iter()
            .filter(|(name, _)| name == OURS[0])
            .map(|(name, value)| json!({"name": name, "value": value}));
        let ours: Vec<_> = join.chain([json!({"name": OURS[1], "valueFrom": from})]).collect();
        // What the template said of these is of no use.
        if let Some(Value::Array(env)) = pod.pointer_mut("/spec/containers/0/env") {
            env.retain(|entry| !OURS.iter().any(|name| entry["name"] == *name));
        }
        let must = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": self.metadata(berth),
            // A worker that has ended does not come back: its token lets in one.
            "spec": {"restartPolicy": "Never", "automountServiceAccountToken": false, "containers": [{"env": ours}]},
        });
        merge(&mut pod, &must);
        pod
    }
}

/// Cores in thousandths, as Kubernetes rounds to those.
fn cpus(cpus: f64) -> String {
    let thousandths = (cpus * 1000.0).ceil() as u64;
    if thousandths.is_multiple_of(1000) { (thousandths / 1000).to_string() } else { format!("{thousandths}m") }
}

/// Puts one description over another: fields of objects one by one; of lists, what has the same name, or is the first container, and
/// the rest behind; else what is over.
fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (_, Value::Null) => (),
        (Value::Object(under), Value::Object(over)) => {
            for (name, over) in over {
                merge(under.entry(name.clone()).or_insert(Value::Null), over);
            }
        }
        (Value::Array(under), Value::Array(over)) => {
            for (at, over) in over.iter().enumerate() {
                let same = |key: &str| {
                    let value = over.get(key)?;
                    under.iter().position(|under| under.get(key) == Some(value))
                };
                let nameless = over.is_object() && over.get("name").is_none();
                // Two mounts of one volume are two.
                let same = match over.get("mountPath") {
                    Some(_) => same("mountPath"),
                    None => same("name").or_else(|| (nameless && at < under.len()).then_some(at)),
                };
                match same {
                    Some(at) => merge(&mut under[at], over),
                    None => under.push(over.clone()),
                }
            }
        }
        (under, over) => under.clone_from(over),
    }
}

/// What is read of a list of pods.
#[derive(Debug, Deserialize)]
pub(super) struct Pods {
    #[serde(default)]
    pub(super) metadata: ListMetadata,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) items: Vec<Pod>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ListMetadata {
    pub(super) resource_version: String,
}

/// What is read of a pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    labels: std::collections::BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "or_default")]
    owner_references: Vec<Owner>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Owner {
    uid: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(deserialize_with = "or_default")]
    containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    image: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    reason: Option<String>,
    message: Option<String>,
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<Condition>,
    #[serde(deserialize_with = "or_default")]
    container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "or_default")]
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    r#type: String,
    status: String,
    reason: Option<String>,
    message: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: String,
    state: ContainerState,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    waiting: Option<Reason>,
    running: Option<Value>,
    terminated: Option<Reason>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reason {
    reason: Option<String>,
    message: Option<String>,
    exit_code: Option<i32>,
    signal: Option<i32>,
}

/// Go writes an empty list as none.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// Where a pod of a worker stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stands {
    /// It does not run yet; why, and whether that is no matter of time.
    Waits {
        why: Option<String>,
        is_stuck: bool,
    },
    Runs,
    /// With what it left.
    Ended(String),
}

/// Of a container that waits: those that may pass, though mostly they do not.
const STUCK: [&str; 7] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

impl Pod {
    pub(super) fn berth(&self) -> Option<Berth> {
        self.metadata.labels.get(BERTH)?.parse().ok().map(Berth)
    }

    pub(super) fn cluster(&self) -> Option<&str> {
        self.metadata.labels.get(CLUSTER).map(String::as_str)
    }

    pub(super) fn is_owned_by(&self, uid: &str) -> bool {
        self.metadata.owner_references.iter().any(|owner| owner.uid == uid)
    }

    /// Somebody has deleted it, and it may still run for its grace.
    pub(super) fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// The image of its container of this name, else of its first.
    pub(super) fn image(&self, container: &str) -> Option<String> {
        let all = &self.spec.containers;
        let of = all.iter().find(|each| each.name == container).or_else(|| all.first())?;
        (!of.image.is_empty()).then(|| of.image.clone())
    }

    pub(super) fn stands(&self) -> Stands {
        let status = &self.status;
        let containers = status.container_statuses.iter();
        let state = containers.clone().find(|each| each.name == "worker").map(|each| &each.state);
        let terminated = state.and_then(|state| state.terminated.as_ref());
        if terminated.is_some() || ["Succeeded", "Failed"].contains(&&*status.phase) {
            return Stands::Ended(self.how_it_ended(terminated));
        }
        if state.is_some_and(|state| state.running.is_some()) {
            return Stands::Runs;
        }
        let waiting = containers.chain(&status.init_container_statuses).filter_map(|each| each.state.waiting.as_ref());
        let is_stuck = |reason: &Reason| reason.reason.as_ref().is_some_and(|reason| STUCK.contains(&&**reason));
        if let Some(reason) = waiting.clone().find(|reason| is_stuck(reason)) {
            return Stands::Waits { why: Some(reason.text()), is_stuck: true };
        }
        let unscheduled = status.conditions.iter().find(|all| all.r#type == "PodScheduled" && all.status == "False");
        let why = unscheduled.map(|all| text(all.reason.as_deref(), all.message.as_deref()));
        Stands::Waits { why, is_stuck: false }
    }

    fn how_it_ended(&self, terminated: Option<&Reason>) -> String {
        let mut words = Vec::new();
        if self.status.reason.is_some() || self.status.message.is_some() {
            words.push(text(self.status.reason.as_deref(), self.status.message.as_deref()));
        }
        if let Some(ended) = terminated {
            let code = match (ended.signal.filter(|signal| *signal != 0), ended.exit_code) {
                (Some(signal), _) => format!("signal {signal}"),
                (None, Some(code)) => format!("exit code {code}"),
                (None, None) => String::new(),
            };
            words.extend(ended.reason.clone().filter(|reason| reason != "Error" && reason != "Completed"));
            words.extend(Some(code).filter(|code| !code.is_empty()));
        }
        if words.is_empty() {
            words.push(self.status.phase.clone());
        }
        let message = terminated.and_then(|ended| ended.message.as_deref()).map(str::trim).unwrap_or_default();
        let last: Vec<_> = message.lines().rev().take(LINES).map(beginning).collect();
        let last: String = last.into_iter().rev().map(|line| format!("\n  {line}")).collect();
        let last = if last.is_empty() { last } else { format!(". Its last words:{last}") };
        format!("its pod {} ended ({}){last}", self.metadata.name, words.join(", "))
    }
}

impl Reason {
    fn text(&self) -> String {
        text(self.reason.as_deref(), self.message.as_deref())
    }
}

/// Lines of a worker's output that are kept for an error, and letters of each.
const LINES: usize = 20;
const LETTERS: usize = 500;

fn beginning(line: &str) -> String {
    super::super::pilot::beginning(line, LETTERS)
}

fn text(reason: Option<&str>, message: Option<&str>) -> String {
    let words: Vec<_> =
        [reason, message].into_iter().flatten().map(beginning).filter(|text| !text.is_empty()).collect();
    words.join(": ")
}

#[cfg(test)]
mod tests;
