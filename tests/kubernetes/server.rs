//! A fake of Kubernetes in this process: an API server over plain HTTP, and a kubelet that runs pods as processes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use regatta::{KubeAccess, KubeOptions};
use serde_json::{Map, Value, json};

/// What the token of the service account is, and what it is after it was changed.
const BEARERS: [&str; 2] = ["account-token-1", "account-token-2"];

#[derive(Clone)]
pub(crate) struct Kubernetes {
    shared: Arc<Shared>,
    pub(crate) address: String,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    folder: tempfile::TempDir,
}

#[derive(Default)]
struct State {
    version: u64,
    pods: BTreeMap<String, Value>,
    secrets: BTreeMap<String, Value>,
    /// What has happened to pods, by version.
    events: Vec<(u64, Value)>,
    /// Versions up to this one are forgotten.
    forgotten: u64,
    processes: BTreeMap<String, u32>,
    /// Everything that was asked: method, path, body.
    asked: Vec<(String, String, String)>,
    watches: u64,
    /// Bytes that were said in the place of events, and how often.
    babbled: (usize, usize),
    rules: Rules,
}

/// How it behaves.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    /// Pods that the namespace may have.
    pub(crate) quota: Option<usize>,
    /// Pods that the nodes have room for; others wait.
    pub(crate) room: Option<usize>,
    /// No request is answered, and watches end.
    pub(crate) is_away: bool,
    /// Requests of this method and path's beginning are refused with this status, message.
    pub(crate) refuses: Option<(&'static str, &'static str, u16, &'static str)>,
    /// Pods run this instead of what they say.
    pub(crate) runs: Option<Vec<&'static str>>,
    /// The image is not there.
    pub(crate) no_image: bool,
    /// The answer to this request is lost, once, after it was carried out.
    pub(crate) loses: Option<(&'static str, &'static str)>,
    /// Requests of this method and path are not answered, though their connections stay.
    pub(crate) hangs: Option<(&'static str, &'static str)>,
    /// Watches say this instead, and end; without a line's end they say it over and over.
    pub(crate) babbles: Option<&'static str>,
}

impl Kubernetes {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), folder });
        let kubernetes = Self { shared, address };
        kubernetes.bearer(0);
        let server = Arc::downgrade(&kubernetes.shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(shared) = server.upgrade() else { return };
                thread::spawn(move || serve(&shared, stream.unwrap()));
            }
        });
        for (name, uid) in [("head", "uid-1"), ("other-head", "uid-2")] {
            let spec =
                json!({"containers": [{"name": "side", "image": "side:1"}, {"name": "head", "image": "regatta:test"}]});
            let head = json!({"metadata": {"name": name, "uid": uid}, "spec": spec, "status": {"phase": "Running"}});
            kubernetes.state().pods.insert(name.to_owned(), head);
        }
        kubernetes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// Changes the token of the service account.
    pub(crate) fn bearer(&self, which: usize) {
        std::fs::write(self.shared.folder.path().join("token"), BEARERS[which]).unwrap();
    }

    pub(crate) fn access(&self) -> KubeAccess {
        KubeAccess {
            server: self.address.clone(),
            token: self.shared.folder.path().join("token"),
            certificate: None,
            namespace: "sails".to_owned(),
            pod: ("head".to_owned(), "uid-1".to_owned()),
            address: "127.0.0.1".to_owned(),
        }
    }

    pub(crate) fn options(&self, workers: std::ops::RangeInclusive<usize>) -> KubeOptions {
        KubeOptions { workers, memory: Some(256 << 20), access: Some(self.access()), ..KubeOptions::default() }
    }

    pub(crate) fn rules(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.state().rules);
        self.shared.changed.notify_all();
        place(&self.shared);
    }

    /// Pods of workers that are there.
    pub(crate) fn pods(&self) -> Vec<Value> {
        let is_worker = |pod: &&Value| pod["metadata"]["labels"]["app.kubernetes.io/component"] == "worker";
        self.state().pods.values().filter(is_worker).cloned().collect()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.pods().iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn secrets(&self) -> Vec<Value> {
        self.state().secrets.values().cloned().collect()
    }

    /// Processes of pods that run.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.state().processes.values().copied().collect()
    }

    pub(crate) fn process(&self, pod: &str) -> u32 {
        self.state().processes[pod]
    }

    /// Everything that was asked: method, path, body.
    pub(crate) fn asked(&self) -> Vec<(String, String, String)> {
        self.state().asked.clone()
    }

    /// Bytes that watches have said in the place of events, and how many watches.
    pub(crate) fn babbled(&self) -> (usize, usize) {
        self.state().babbled
    }

    /// Puts an object there as somebody else would.
    pub(crate) fn put(&self, kind: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let mut state = self.state();
        if kind == "pods" {
            state.pods.insert(name, object)
        } else {
            state.secrets.insert(name, object)
        };
    }

    /// Deletes a pod as somebody else would.
    pub(crate) fn delete(&self, pod: &str) {
        delete(&self.shared, pod);
    }

    /// Deletes a pod of which nobody is told, as when a watch misses it.
    pub(crate) fn vanish(&self, pod: &str) {
        let process = {
            let mut state = self.state();
            state.pods.remove(pod);
            state.processes.remove(pod)
        };
        process.into_iter().for_each(|process| signal(process, "KILL"));
    }

    /// Sets the status of a pod's container, as the kubelet would.
    pub(crate) fn status(&self, pod: &str, status: Value) {
        update(&self.shared, pod, |pod| pod["status"] = status);
    }

    /// Ends all watches; or what has happened before is forgotten, which they say, and do not end by themselves.
    pub(crate) fn cut(&self, forget: bool) {
        let mut state = self.state();
        if forget {
            state.version += 1;
            state.forgotten = state.version;
        } else {
            state.watches += 1;
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let processes = std::mem::take(&mut self.state.get_mut().unwrap_or_else(PoisonError::into_inner).processes);
        processes.into_values().for_each(|process| signal(process, "KILL"));
    }
}

pub(crate) fn signal(process: u32, signal: &str) {
    drop(Command::new("kill").args([format!("-{signal}"), process.to_string()]).stderr(Stdio::null()).status());
}

/// Serves one connection.
fn serve(shared: &Arc<Shared>, mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut line, mut length, mut bearer) = (String::new(), 0, String::new());
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            let Some((name, value)) = header.trim().split_once(':') else { break };
            match &*name.to_ascii_lowercase() {
                "content-length" => length = value.trim().parse().unwrap(),
                "authorization" => bearer = value.trim().to_owned(),
                _ => (),
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        if shared.state.lock().unwrap().rules.is_away {
            return;
        }
        let token = std::fs::read_to_string(shared.folder.path().join("token")).unwrap();
        let path = path.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",");
        let path = path.strip_prefix("/api/v1/namespaces/sails/").unwrap_or_else(|| panic!("{path}")).to_owned();
        if bearer != format!("Bearer {token}") {
            answer(&mut stream, 401, &failure("Unauthorized"));
            continue;
        }
        shared.state.lock().unwrap().asked.push((method.clone(), path.clone(), body.clone()));
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        if query.contains("watch=true") {
            return watch(shared, stream, query);
        }
        let hangs = |state: &mut State| state.rules.hangs == Some((&*method, path));
        drop(shared.changed.wait_while(shared.state.lock().unwrap(), hangs).unwrap());
        let (status, object) = handle(shared, &method, path, query, &body);
        let loses = &mut shared.state.lock().unwrap().rules.loses;
        if loses.is_some_and(|(of, kind)| of == method && kind == path) {
            *loses = None;
            return;
        }
        answer(&mut stream, status, &object);
    }
}

fn exists() -> Value {
    let mut failure = failure("it already exists");
    failure["reason"] = "AlreadyExists".into();
    failure
}

fn failure(message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message})
}

fn answer(stream: &mut TcpStream, status: u16, object: &Value) {
    let body = object.to_string();
    let head =
        format!("HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    drop(stream.write_all(format!("{head}{body}").as_bytes()));
}

/// Whether an object has the labels that a query asks for.
fn selected(object: &Value, query: &str) -> bool {
    let wanted = query.split('&').find_map(|part| part.strip_prefix("labelSelector=")).unwrap_or_default();
    let has = |pair: &str| pair.split_once('=').is_none_or(|(name, value)| object["metadata"]["labels"][name] == value);
    wanted.split(',').all(has)
}

fn handle(shared: &Arc<Shared>, method: &str, path: &str, query: &str, body: &str) -> (u16, Value) {
    let refuses = shared.state.lock().unwrap().rules.refuses;
    if let Some((_, _, status, why)) = refuses.filter(|(of, at, ..)| *of == method && path.starts_with(at)) {
        return (status, failure(why));
    }
    let (kind, name) = path.split_once('/').unwrap_or((path, ""));
    match (method, kind, name) {
        ("POST", "secrets", "") => {
            let mut state = shared.state.lock().unwrap();
            let object: Value = serde_json::from_str(body).unwrap();
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            if state.secrets.contains_key(&name) {
                return (409, exists());
            }
            state.secrets.insert(name, object.clone());
            (201, object)
        }
        ("POST", "pods", "") => {
            let mut object: Value = serde_json::from_str(body).unwrap();
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            {
                let mut state = shared.state.lock().unwrap();
                if state.pods.contains_key(&name) {
                    return (409, exists());
                }
                let there = state.pods.values().filter(|pod| pod["metadata"]["labels"].is_object()).count();
                if state.rules.quota.is_some_and(|quota| there >= quota) {
                    return (403, failure("pods is forbidden: exceeded quota: compute, requested: pods=1"));
                }
                object["status"] = json!({"phase": "Pending"});
                change(&mut state, "ADDED", &name, object.clone());
            }
            shared.changed.notify_all();
            place(shared);
            (201, object)
        }
        ("GET", "pods", "") => {
            let state = shared.state.lock().unwrap();
            let items: Vec<_> = state.pods.values().filter(|pod| selected(pod, query)).collect();
            (
                200,
                json!({"kind": "PodList", "metadata": {"resourceVersion": state.version.to_string()}, "items": items}),
            )
        }
        ("GET", "pods", name) => match shared.state.lock().unwrap().pods.get(name) {
            Some(pod) => (200, pod.clone()),
            None => (404, failure("pods not found")),
        },
        ("DELETE", "secrets", name) if !name.is_empty() => match shared.state.lock().unwrap().secrets.remove(name) {
            Some(_) => (200, json!({"status": "Success"})),
            None => (404, failure("secrets not found")),
        },
        ("DELETE", "pods", "") => {
            let all: Vec<_> = {
                let state = shared.state.lock().unwrap();
                let of = state.pods.iter().filter(|(_, pod)| selected(pod, query));
                of.map(|(name, _)| name.clone()).collect()
            };
            all.iter().for_each(|name| _ = delete(shared, name));
            (200, json!({"kind": "PodList", "items": []}))
        }
        ("DELETE", "pods", name) => {
            if delete(shared, name) {
                (200, json!({}))
            } else {
                (404, failure("pods not found"))
            }
        }
        _ => (405, failure(&format!("{method} {path} is not for a head"))),
    }
}

/// Changes the state of a pod and has watches tell it.
fn change(state: &mut State, kind: &str, name: &str, mut pod: Value) {
    state.version += 1;
    pod["metadata"]["resourceVersion"] = state.version.to_string().into();
    state.events.push((state.version, json!({"type": kind, "object": pod})));
    if kind == "DELETED" {
        state.pods.remove(name)
    } else {
        state.pods.insert(name.to_owned(), pod)
    };
}

fn update(shared: &Arc<Shared>, name: &str, with: impl FnOnce(&mut Value)) {
    let mut state = shared.state.lock().unwrap();
    let Some(mut pod) = state.pods.get(name).cloned() else { return };
    with(&mut pod);
    change(&mut state, "MODIFIED", name, pod);
    drop(state);
    shared.changed.notify_all();
}

/// Asks a pod to end, and kills it after its grace; false if there is none.
fn delete(shared: &Arc<Shared>, name: &str) -> bool {
    let (process, grace) = {
        let mut state = shared.state.lock().unwrap();
        let Some(mut pod) = state.pods.get(name).cloned() else { return false };
        let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        let process = state.processes.get(name).copied();
        if process.is_some() {
            if pod["metadata"]["deletionTimestamp"].is_null() {
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                change(&mut state, "MODIFIED", name, pod);
            }
        } else {
            change(&mut state, "DELETED", name, pod);
        }
        (process, grace)
    };
    shared.changed.notify_all();
    if let Some(process) = process {
        signal(process, "TERM");
        let (shared, name) = (Arc::clone(shared), name.to_owned());
        thread::spawn(move || {
            let until = Instant::now() + Duration::from_secs(grace);
            let state = shared.state.lock().unwrap();
            let lives = |state: &mut State| state.processes.get(&name) == Some(&process);
            let _ = shared.changed.wait_timeout_while(state, until - Instant::now(), lives);
            signal(process, "KILL");
        });
    }
    place(shared);
    true
}

/// The scheduler and the kubelet: starts what waits and has room.
fn place(shared: &Arc<Shared>) {
    loop {
        let mut state = shared.state.lock().unwrap();
        let is_new = |pod: &Value| pod["status"]["phase"] == "Pending" && pod["status"]["started"].is_null();
        let names = state.pods.iter().filter(|(_, pod)| is_new(pod)).map(|(name, _)| name.clone());
        let Some(name) = names.min_by_key(|name| name.rsplit_once('-').map(|(_, at)| at.parse::<u32>().unwrap()))
        else {
            return;
        };
        let mut pod = state.pods[&name].clone();
        if state.rules.room.is_some_and(|room| state.processes.len() >= room) {
            let message = "0/3 nodes are available: 3 Insufficient cpu.";
            let condition =
                json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
            if pod["status"]["conditions"].is_null() {
                pod["status"]["conditions"] = json!([condition]);
                change(&mut state, "MODIFIED", &name, pod);
                drop(state);
                shared.changed.notify_all();
                continue;
            }
            return;
        }
        pod["status"] = json!({"phase": "Pending", "started": true});
        if state.rules.no_image {
            let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"regatta:test\""}});
            pod["status"]["containerStatuses"] = json!([{"name": "worker", "state": waiting}]);
            change(&mut state, "MODIFIED", &name, pod);
            drop(state);
            shared.changed.notify_all();
            continue;
        }
        run(shared, &mut state, &name, pod);
        drop(state);
        shared.changed.notify_all();
    }
}

/// Runs a pod's container as a process, with a folder for each of its volumes.
fn run(shared: &Arc<Shared>, state: &mut State, name: &str, mut pod: Value) {
    let container = pod["spec"]["containers"][0].clone();
    let argv: Vec<String> = match &state.rules.runs {
        Some(argv) => argv.iter().map(|&word| word.to_owned()).collect(),
        None => serde_json::from_value(container["command"].clone()).unwrap(),
    };
    let volume: PathBuf = shared.folder.path().join(name);
    std::fs::create_dir_all(&volume).unwrap();
    let value = |entry: &Value| -> String {
        if let Some(value) = entry["value"].as_str() {
            return if value == "/scratch" { volume.display().to_string() } else { value.to_owned() };
        }
        let from = &entry["valueFrom"]["secretKeyRef"];
        let secret = &state.secrets[from["name"].as_str().unwrap()];
        secret["stringData"][from["key"].as_str().unwrap()].as_str().unwrap().to_owned()
    };
    let env: Map<String, Value> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["name"].as_str().unwrap().to_owned(), value(entry).into()))
        .collect();
    let log = volume.join("log");
    let mut child = Command::new(&argv[0])
        .args(&argv[1..])
        .envs(env.iter().map(|(name, value)| (name, value.as_str().unwrap())))
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&log).unwrap())
        .stderr(std::fs::File::options().append(true).create(true).open(&log).unwrap())
        .spawn()
        .unwrap();
    state.processes.insert(name.to_owned(), child.id());
    pod["status"] = json!({
        "phase": "Running", "started": true, "containerStatuses": [{"name": "worker", "state": {"running": {"startedAt": null}}}],
    });
    change(state, "MODIFIED", name, pod);
    let (weak, name, process) = (Arc::downgrade(shared), name.to_owned(), child.id());
    thread::spawn(move || {
        let status = child.wait().unwrap();
        let Some(shared) = weak.upgrade() else { return };
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let message = if status.success() { "" } else { text.trim() };
        let code =
            status.code().unwrap_or_else(|| 128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap());
        {
            let mut state = shared.state.lock().unwrap();
            if state.processes.get(&name) == Some(&process) {
                state.processes.remove(&name);
            }
            if let Some(mut pod) = state.pods.get(&name).cloned() {
                let reason = if status.success() { "Completed" } else { "Error" };
                let ended = json!({"terminated": {"exitCode": code, "reason": reason, "message": message}});
                pod["status"] = json!({
                    "phase": if status.success() { "Succeeded" } else { "Failed" }, "started": true,
                    "containerStatuses": [{"name": "worker", "state": ended}],
                });
                let is_going = !pod["metadata"]["deletionTimestamp"].is_null();
                change(&mut state, "MODIFIED", &name, pod.clone());
                if is_going {
                    change(&mut state, "DELETED", &name, pod);
                }
            }
        }
        shared.changed.notify_all();
        place(&shared);
    });
}

/// Tells what happens to pods, in pieces as HTTP has them.
fn watch(shared: &Arc<Shared>, mut stream: TcpStream, query: &str) {
    let version = query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).unwrap();
    let mut version: u64 = version.parse().unwrap();
    drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"));
    let piece = |stream: &mut TcpStream, event: &Value| {
        let line = format!("{event}\n");
        stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).is_ok()
    };
    let mut state = shared.state.lock().unwrap();
    if let Some(text) = state.rules.babbles {
        drop(state);
        let (ends, mut bytes) = (text.ends_with('\n'), 0);
        let said = format!("{:x}\r\n{text}\r\n", text.len());
        while stream.write_all(said.as_bytes()).is_ok() {
            bytes += text.len();
            if ends {
                drop(stream.write_all(b"0\r\n\r\n"));
                break;
            }
        }
        let (all, times) = &mut shared.state.lock().unwrap().babbled;
        (*all, *times) = (*all + bytes, *times + 1);
        return;
    }
    let watches = state.watches;
    loop {
        if version < state.forgotten {
            let gone =
                json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"});
            piece(&mut stream, &json!({"type": "ERROR", "object": gone}));
            // It says no more.
            let (most, still) = (Duration::from_secs(40), |state: &mut State| state.watches == watches);
            drop(shared.changed.wait_timeout_while(state, most, still).unwrap());
            return;
        }
        if state.watches != watches || state.rules.is_away {
            break;
        }
        let news: Vec<_> = state.events.iter().filter(|(at, _)| *at > version).cloned().collect();
        version = state.version.max(version);
        drop(state);
        for (_, event) in news.iter().filter(|(_, event)| selected(&event["object"], query)) {
            if !piece(&mut stream, event) {
                return;
            }
        }
        state = shared.state.lock().unwrap();
        if state.version == version {
            state = shared.changed.wait_timeout(state, Duration::from_millis(200)).unwrap().0;
        }
    }
    drop(state);
    drop(stream.write_all(b"0\r\n\r\n"));
}
