//! The API server: the few requests that are made of it.

use std::time::Duration;

use reqwest::{Certificate, Client, Method, RequestBuilder, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::access::KubeAccess;
use super::pod::{Pod, Pods};
use crate::error::KubeError;

/// Why a request had no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// There was no answer, or one that it cannot now: the same request may succeed later.
    Away(String),
    /// It will not: its status, and why.
    Refused(u16, String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Away(why) => f.write_str(why),
            Self::Refused(status, why) => write!(f, "{why} ({status})"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    pub(super) access: KubeAccess,
}

/// What the API server says of a failure.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    message: String,
    reason: String,
}

/// One line of a watch: `ADDED`, `MODIFIED` and `DELETED` come with a pod, others with what is of no use here.
#[derive(Deserialize)]
pub(super) struct Event {
    pub(super) r#type: String,
    pub(super) object: Value,
}

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of an answer, and of a line of a watch. A pod may have 1.5 MiB.
const LARGEST: usize = 64 << 20;

impl Api {
    /// # Errors
    /// The certificate is none.
    pub(super) fn new(access: KubeAccess) -> Result<Self, KubeError> {
        let not_reachable = |why: String| KubeError::NotReachable { server: access.server.clone(), why };
        let mut builder = Client::builder().connect_timeout(CONNECT).no_proxy().tls_built_in_root_certs(false);
        if let Some(path) = &access.certificate {
            let said = |error: String| not_reachable(format!("{}: {error}", path.display()));
            let pem = std::fs::read(path).map_err(|error| said(error.to_string()))?;
            for certificate in Certificate::from_pem_bundle(&pem).map_err(|error| said(causes(&error)))? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let client = builder.build().map_err(|error| not_reachable(causes(&error)))?;
        Ok(Self { client, access })
    }

    /// Makes an object. That it is there already is no failure: a request whose answer was lost is made again.
    pub(super) async fn create(&self, kind: &str, object: &Value) -> Result<(), Failure> {
        let request = self.request(Method::POST, kind)?.header("Content-Type", "application/json");
        match self.send(request.timeout(ANSWER).body(object.to_string())).await {
            Ok(_) | Err(Failure::Refused(409, _)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Deletes an object, if it is there.
    pub(super) async fn delete(&self, kind: &str, name: &str) -> Result<(), Failure> {
        match self.send(self.request(Method::DELETE, &format!("{kind}/{name}"))?.timeout(ANSWER)).await {
            Ok(_) | Err(Failure::Refused(404, _)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Deletes all pods with these labels.
    pub(super) async fn delete_pods(&self, labels: &str) -> Result<(), Failure> {
        let request = self.request(Method::DELETE, "pods")?.query(&[("labelSelector", labels)]);
        self.send(request.timeout(ANSWER)).await.map(|_| ())
    }

    pub(super) async fn pod(&self, name: &str) -> Result<Pod, Failure> {
        read(self.send(self.request(Method::GET, &format!("pods/{name}"))?.timeout(ANSWER)).await?).await
    }

    pub(super) async fn pods(&self, labels: &str) -> Result<Pods, Failure> {
        let request = self.request(Method::GET, "pods")?.query(&[("labelSelector", labels)]);
        read(self.send(request.timeout(ANSWER)).await?).await
    }

    /// Tells of what happens to pods from a version on, until the server ends that.
    pub(super) async fn watch(
        &self,
        labels: &str,
        version: &str,
        mut tell: impl AsyncFnMut(Event) -> bool,
    ) -> Result<(), Failure> {
        let query = [
            ("labelSelector", labels),
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
        ];
        let mut answer = self.send(self.request(Method::GET, "pods")?.query(&query)).await?;
        let mut line = Vec::new();
        while let Some(bytes) = answer.chunk().await.map_err(|error| Failure::Away(causes(&error)))? {
            for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(piece);
                if line.len() > LARGEST {
                    return Err(too_large());
                }
                if line.last() == Some(&b'\n') {
                    if !tell(parse(&line)?).await {
                        return Ok(());
                    }
                    line.clear();
                }
            }
        }
        Ok(())
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, Failure> {
        let KubeAccess { server, token, namespace, .. } = &self.access;
        // Read each time: the kubelet writes another before one expires.
        let secret = std::fs::read_to_string(token);
        let secret = secret.map_err(|error| Failure::Away(format!("{}: {error}", token.display())))?;
        let url = format!("{server}/api/v1/namespaces/{namespace}/{path}");
        Ok(self.client.request(method, url).bearer_auth(secret.trim()).header("Accept", "application/json"))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let answer = request.send().await.map_err(|error| Failure::Away(causes(&error)))?;
        let status = answer.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let body = whole(answer).await.unwrap_or_default();
        let Said { message, reason } = serde_json::from_slice(&body).unwrap_or_default();
        let why = if message.is_empty() { format!("it answers with status {status}") } else { message };
        // An expired token is followed by a new one; too many requests, a server that starts, or two that change a quota at once, pass.
        let is_conflict = status == 409 && reason != "AlreadyExists";
        let passes = status == 401 || status == 429 || status >= 500 || is_conflict;
        Err(if passes { Failure::Away(format!("{why} ({status})")) } else { Failure::Refused(status, why) })
    }
}

async fn read<T: DeserializeOwned>(answer: Response) -> Result<T, Failure> {
    parse(&whole(answer).await?)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::Away(format!("its answer cannot be read: {error}")))
}

async fn whole(mut answer: Response) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(more) = answer.chunk().await.map_err(|error| Failure::Away(causes(&error)))? {
        bytes.extend_from_slice(&more);
        if bytes.len() > LARGEST {
            return Err(too_large());
        }
    }
    Ok(bytes)
}

fn too_large() -> Failure {
    Failure::Away(format!("its answer is larger than {LARGEST} bytes"))
}

/// What reqwest says is of little use without what is below it.
fn causes(error: &reqwest::Error) -> String {
    let first: Option<&dyn std::error::Error> = Some(error);
    let all: Vec<_> = std::iter::successors(first, |error| error.source()).map(ToString::to_string).collect();
    all.join(": ")
}
