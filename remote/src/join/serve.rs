//! The head's side of a join.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use quinn::Connection;
use tokio::time::timeout;

use super::exported;
use crate::authority::Authority;
use crate::claim::{Claim, Refusal, Verdict};
use crate::close::Code;
use crate::codec::{decode, encode};
use crate::error::ConnectError;
use crate::frame::{Header, Kind};
use crate::hello::{MAX_HELLO, PROTOCOL};
use crate::lane::{FrameReader, send};
use crate::shared::Shared;
use crate::text::line;

/// How long a joiner has to ask, and then to read the answer.
const DEADLINE: Duration = Duration::from_secs(4);

/// Serves one join.
pub(crate) async fn accept(shared: &Arc<Shared>, connection: Connection) -> Result<(), ConnectError> {
    let Some(_place) = shared.joins.enter(connection.remote_address().ip()) else {
        connection.close(Code::TooMany.into(), b"too many joins at once");
        return Err(ConnectError::BadHello("too many joins at once".to_owned()));
    };
    let served = timeout(DEADLINE, serve(shared, &connection)).await;
    if matches!(served, Ok(Ok(_))) {
        let _ = timeout(DEADLINE, connection.closed()).await; // it has read the answer
    }
    connection.close(Code::Bye.into(), b"the join is over");
    let bad = |text: &str| Err(ConnectError::BadHello(text.to_owned()));
    match served {
        Ok(Ok(Proven::Yes)) => Ok(()),
        Ok(Ok(Proven::No)) => bad("a join without a token of this cluster"),
        Ok(Err(error)) => Err(error),
        Err(_) => bad("a join took too long"),
    }
}

/// Whether a joiner has proven to know a token. Who has not counts at the door, as one of its host that was refused. Who has
/// is never refused for what others of its host do.
enum Proven {
    Yes,
    No,
}

async fn serve(shared: &Shared, connection: &Connection) -> Result<Proven, ConnectError> {
    let bad = |text: &dyn Display| ConnectError::BadHello(line(text));
    let authority = shared.authority.get().ok_or_else(|| bad(&"a join where none are served"))?;
    let (mut write, read) = connection.accept_bi().await.map_err(|error| bad(&error))?;
    let frame = FrameReader::new(read, MAX_HELLO).next().await.map_err(|error| bad(&error))?;
    let Some((Header { kind: Kind::Join, .. }, payload)) = frame else {
        return Err(bad(&"a join without a claim"));
    };
    let mut proven = Proven::No;
    let verdict = judge(shared, authority, connection, &payload, &mut proven);
    match &verdict {
        Ok(leaf) => tracing::info!(peer = %leaf.peer, from = %connection.remote_address(), "joined"),
        Err(refusal) if shared.net.may_say(connection.remote_address()) => {
            tracing::warn!(from = %connection.remote_address(), ?refusal, "refused a join");
        }
        Err(_) => (),
    }
    let payload = encode(&verdict).map_err(|error| bad(&error))?;
    send(&mut write, Kind::Reply, payload).await.map_err(|error| bad(&error))?;
    let _ = write.finish(); // fails only if the joiner is gone already
    Ok(proven)
}

fn judge(
    shared: &Shared,
    authority: &Authority,
    connection: &Connection,
    payload: &[u8],
    proven: &mut Proven,
) -> Verdict {
    let claim: Claim = decode(payload).map_err(|error| Refusal::Failed(error.to_string()))?;
    if claim.protocol != PROTOCOL {
        return Err(Refusal::ProtocolDiffers { theirs: PROTOCOL });
    }
    let exported = exported(connection).ok_or(Refusal::WrongToken)?;
    let role = authority.desk().check(&claim, &exported, shared.net.ambient.unix());
    if role != Err(Refusal::WrongToken) {
        *proven = Proven::Yes;
    }
    let role = role?;
    if claim.build != shared.build && !role.is_outside() {
        return Err(Refusal::BuildDiffers { theirs: shared.build.to_vec() });
    }
    let leaf = authority.admit(role, &claim.request).map_err(|error| Refusal::Failed(error.to_string()))?;
    // Last, so that a request which fails leaves the token as it was.
    if authority.desk().take(claim.token, leaf.peer.node) { Ok(leaf) } else { Err(Refusal::Used) }
}
