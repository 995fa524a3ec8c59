//! Pages for a browser, of a head elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;

use regatta_dashboard::{Dashboard, Source};
use regatta_observe::{Answering, Ask, Order, Refusal};
use regatta_remote::{Role, Runtime};
use serde_json::json;

use crate::Failure;
use crate::client::{Client, Way};
use crate::out::Out;

/// The head, by the connection that its viewers share.
struct Head {
    name: String,
    way: Way,
    role: Role,
}

impl Source for Head {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn look(&self, ask: Ask) -> Answering {
        let way = self.way.clone();
        Box::pin(async move { way.look(&ask).await.map_err(refused) })
    }

    fn may_act(&self) -> bool {
        self.role == Role::Operator
    }

    fn act(&self, order: Order) -> Answering {
        let way = self.way.clone();
        Box::pin(async move { way.act(&order).await.map_err(refused) })
    }
}

/// As a viewer hears of it.
pub(crate) fn refused(failure: Failure) -> Refusal {
    match failure {
        Failure::Failed(why) => Refusal::NoSuch(why),
        failure => Refusal::Failed(failure.to_string()),
    }
}

/// Serves the pages until the process ends.
///
/// # Errors
/// No port is free; control was asked for with a token that may only look.
pub(crate) fn run(
    client: &Client,
    address: &str,
    listen: SocketAddr,
    hosts: &[String],
    control: bool,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    if control && client.role() != Role::Operator {
        return Err(Failure::refused(
            "--control needs a token of Cluster::operator_token: this one may look and do nothing else".to_owned(),
        ));
    }
    let head = Head { name: format!("the cluster at {address}"), way: client.way().clone(), role: client.role() };
    let dashboard = dashboard(listen, hosts);
    let dashboard = if control { dashboard.with_control() } else { dashboard };
    client.wait(serve(dashboard, Arc::new(head), listen, out))
}

/// The same of what is no head, and with no control.
///
/// # Errors
/// No port is free.
pub(crate) fn run_alone(
    source: Arc<dyn Source>,
    listen: SocketAddr,
    hosts: &[String],
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let failed = |error| Failure::Failed(format!("no threads to serve pages: {error}"));
    let runtime = Runtime::new("regatta-cli", 1).map_err(failed)?;
    runtime.handle().block_on(serve(dashboard(listen, hosts), source, listen, out))
}

fn dashboard(listen: SocketAddr, hosts: &[String]) -> Dashboard {
    hosts.iter().fold(Dashboard::new().at(listen), |dashboard, host| dashboard.named(host))
}

async fn serve(
    dashboard: Dashboard,
    source: Arc<dyn Source>,
    listen: SocketAddr,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let failed = |error| Failure::Failed(format!("cannot serve at {listen}: {error}"));
    let bound = dashboard.bind(source).await.map_err(failed)?;
    let url = bound.url();
    if out.json { out.json(&json!({ "url": url })) } else { out.text(&format!("{url}\n")) }?;
    bound.run().await;
    Ok(())
}
