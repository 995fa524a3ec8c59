//! How the API server is reached.

use std::io;
use std::path::PathBuf;

use crate::error::KubeError;

/// How the API server is reached, and as which pod. A pod is told all of it: this is for who runs Regatta beside an API server of a
/// test's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeAccess {
    /// The API server, as `https://10.96.0.1:443`.
    pub server: String,
    /// The file with the service account's token, which is changed from time to time.
    pub token: PathBuf,
    /// The file with the certificate of who has signed the API server's.
    pub certificate: Option<PathBuf>,
    /// Where pods are made.
    pub namespace: String,
    /// The head's pod: its name and uid.
    pub pod: (String, String),
    /// The address at which workers find it.
    pub address: String,
}

/// Where a pod finds what its service account may do.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

impl KubeAccess {
    /// What this process's pod has.
    pub(super) fn of_this_pod() -> Result<Self, KubeError> {
        Self::of(
            |name| std::env::var(name).ok().filter(|value| !value.is_empty()),
            |path| std::fs::read_to_string(path),
        )
    }

    fn of(
        variable: impl Fn(&str) -> Option<String>,
        read: impl Fn(&str) -> io::Result<String>,
    ) -> Result<Self, KubeError> {
        let outside = |missing: String| KubeError::Outside { missing };
        let set = |name: &str| variable(name).ok_or_else(|| outside(format!("{name} is not set")));
        let (host, port) = (set("KUBERNETES_SERVICE_HOST")?, set("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let file = |name: &str| {
            let path = format!("{ACCOUNT}/{name}");
            read(&path).map_err(|error| outside(format!("{path}: {error}")))
        };
        file("token")?;
        file("ca.crt")?;
        let namespace = file("namespace")?.trim().to_owned();
        let pod = |name: &str| variable(name).ok_or_else(|| KubeError::Nameless { variable: name.to_owned() });
        Ok(Self {
            server: format!("https://{host}:{port}"),
            token: format!("{ACCOUNT}/token").into(),
            certificate: Some(format!("{ACCOUNT}/ca.crt").into()),
            namespace,
            pod: (pod("POD_NAME")?, pod("POD_UID")?),
            address: pod("POD_IP")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_in_no_pod_is_told_so_and_one_whose_pod_has_no_name_too() {
        let all = |name: &str| Some(format!("a {name}"));
        let file = |_: &str| Ok("there\n".to_owned());
        let none = |_: &str| Err(io::ErrorKind::NotFound.into());
        let text = KubeAccess::of(|_| None, file).unwrap_err().to_string();
        assert!(text.contains("in no pod") && text.contains("KUBERNETES_SERVICE_HOST is not set"), "{text}");
        let text = KubeAccess::of(all, none).unwrap_err().to_string();
        assert!(text.contains("in no pod") && text.contains("serviceaccount/token"), "{text}");
        let nameless = |name: &str| (name != "POD_UID").then(|| "1".to_owned());
        let text = KubeAccess::of(nameless, file).unwrap_err().to_string();
        assert!(text.starts_with("POD_UID is not set") && text.contains("metadata.uid"), "{text}");
        let variable = |name: &str| Some(if name.ends_with("HOST") { "fd00::1" } else { "443" }.to_owned());
        let access = KubeAccess::of(variable, file).unwrap();
        assert_eq!((access.server.as_str(), access.namespace.as_str()), ("https://[fd00::1]:443", "there"));
    }
}
