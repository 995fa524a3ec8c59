//! Every pod that is made, and every manifest of deploy/kubernetes, against the schemas of Kubernetes.

use std::path::{Path, PathBuf};
use std::process::Command;

use regatta::KubeOptions;
use regatta::testing::eventually;
use serde_json::json;

use super::server::Kubernetes;
use super::{session, workers};

/// The program that has the schemas, where `tests/kubernetes/install` has put it.
fn validate() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let program = cache.join("regatta/kubernetes/bin/kubernetes-validate");
    if program.exists() {
        return Some(program);
    }
    eprintln!("skipped: there is no {}: tests/kubernetes/install puts it there", program.display());
    None
}

fn is_valid(program: &Path, files: &[PathBuf]) -> Result<(), String> {
    let output =
        Command::new(program).args(["--strict", "--kubernetes-version", "1.33.0"]).args(files).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}

#[test]
fn each_pod_and_secret_that_is_made_is_one_by_the_strict_schemas() {
    let Some(program) = validate() else { return };
    let kubernetes = Kubernetes::new();
    // It need not run.
    kubernetes.rules(|rules| rules.room = Some(0));
    let template = json!({
        "metadata": {"labels": {"team": "sails"}},
        "spec": {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "50Gi"}}, {"name": "data", "emptyDir": {}}],
            "containers": [{"volumeMounts": [{"name": "data", "mountPath": "/data"}], "env": [{"name": "A", "value": "b"}]}],
        },
    });
    let plain = session(kubernetes.options(1..=1));
    let rich = session(KubeOptions { cpus: 2.5, gpus: 1, memory: None, template, ..kubernetes.options(1..=1) });
    eventually("both are asked for", || kubernetes.names().len() == 2);
    let folder = tempfile::tempdir().unwrap();
    let asked = kubernetes.asked();
    let bodies: Vec<_> = asked.iter().filter(|(method, ..)| method == "POST").map(|(.., body)| body).collect();
    assert_eq!(bodies.len(), 4);
    let write = |(at, body): (usize, &str)| {
        let path = folder.path().join(format!("{at}.yaml"));
        std::fs::write(&path, body).unwrap();
        path
    };
    let files: Vec<_> = bodies.iter().enumerate().map(|(at, body)| write((at, body))).collect();
    is_valid(&program, &files).unwrap();
    // The schemas find what is wrong.
    let misspelt =
        bodies.iter().find(|body| body.contains("restartPolicy")).unwrap().replace("restartPolicy", "restartPolice");
    let said = is_valid(&program, &[write((9, &misspelt))]).unwrap_err();
    assert!(said.contains("restartPolice"), "{said}");
    assert_eq!(workers(&plain) + workers(&rich), 0);
}

#[test]
fn each_manifest_is_one_by_the_strict_schemas() {
    let Some(program) = validate() else { return };
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes");
    let files = std::fs::read_dir(deploy.join("base")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| !path.ends_with("kustomization.yaml")).collect();
    assert!(files.len() >= 3, "{files:?}");
    is_valid(&program, &files).unwrap();
    // An old one does not know how the overlay names its base.
    let Ok(built) = Command::new("kubectl").arg("kustomize").arg(deploy.join("overlays/example")).output() else {
        return eprintln!("skipped: there is no kubectl to build the overlay");
    };
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let text = String::from_utf8(built.stdout).unwrap();
    assert!(text.contains("namespace: regatta") && text.contains("image: registry.example/regatta:1"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("overlay.yaml");
    std::fs::write(&whole, text).unwrap();
    is_valid(&program, &[whole]).unwrap();
}
