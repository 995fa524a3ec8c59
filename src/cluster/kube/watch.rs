//! What is seen of a cluster's pods: all of them from time to time, and what happens to each in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout_at};

use super::api::{Api, Event, Failure};
use super::pod::Pod;

/// What was seen.
#[derive(Debug)]
pub(super) enum Sight {
    /// All that there are, asked for at this moment.
    All(Vec<Pod>, Instant),
    One(Pod),
    Gone(Pod),
    /// The API server does not answer, or refuses.
    Away(Failure),
}

/// How often all are looked at, whatever is heard meanwhile.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// Pauses after watches that ended early: each is twice the one before, until one has told something.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Pauses between attempts to reach the API server.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Looks at the pods with these labels until nobody wants to know any more.
pub(super) async fn look(api: Arc<Api>, labels: String, to: Sender<Sight>) {
    let (mut pause, mut again) = (PAUSES.0, AGAIN.0);
    loop {
        let began = Instant::now();
        let version = match api.pods(&labels).await {
            Ok(pods) => {
                pause = PAUSES.0;
                if to.send(Sight::All(pods.items, began)).await.is_err() {
                    return;
                }
                pods.metadata.resource_version
            }
            Err(failure) => {
                if to.send(Sight::Away(failure)).await.is_err() {
                    return;
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
                continue;
            }
        };
        let mut was_told = false;
        let tell = async |event: Event| {
            let is_last = event.r#type == "DELETED";
            let pod = match &*event.r#type {
                "ADDED" | "MODIFIED" | "DELETED" => {
                    let pod = serde_json::from_value::<Pod>(event.object).ok();
                    pod.filter(|pod| !pod.metadata.name.is_empty())
                }
                // Only that nothing has happened.
                "BOOKMARK" => {
                    was_told = true;
                    return true;
                }
                // Mostly that it has forgotten the version: all are looked at again.
                _ => None,
            };
            let Some(pod) = pod else { return false };
            was_told = true;
            to.send(if is_last { Sight::Gone(pod) } else { Sight::One(pod) }).await.is_ok()
        };
        let until = (began + LIST_EVERY).into();
        // However it has ended: what was missed is seen next.
        let watched = timeout_at(until, api.watch(&labels, &version, tell)).await;
        if was_told || watched.is_err() {
            again = AGAIN.0;
        }
        if watched.is_ok() {
            sleep(again).await;
            again = (again * 2).min(AGAIN.1);
        }
    }
}
