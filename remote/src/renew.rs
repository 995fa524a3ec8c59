//! Certificates are renewed before they expire: by the authority of this process, or by that of a head, asked over
//! the control connection to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::claim::{Refusal, Verdict};
use crate::codec::{CodecError, decode, encode};
use crate::error::{AskError, BindError, IdentityError};
use crate::hello::MAX_HELLO;
use crate::identity::{Applicant, Identity};
use crate::ids::{PeerId, Role};
use crate::serve::Renewer;
use crate::shared::Shared;

/// How long a head may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest sleep at a time: the clock of the day may be set, or the machine suspended.
const NAP: Duration = Duration::from_secs(60);

/// Why a certificate could not be renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("no head is connected")]
    NoHead,
    #[error("the head does not answer: {0}")]
    NoAnswer(#[from] AskError),
    #[error("the head refuses: {0:?}")]
    Refused(Refusal),
    #[error("{0}")]
    Codec(#[from] CodecError),
    #[error("{0}")]
    Identity(#[from] IdentityError),
    #[error("{0}")]
    Present(#[from] BindError),
}

/// Renews the node's certificate whenever two thirds of its life are over.
pub(crate) async fn keep_fresh(shared: Arc<Shared>) {
    loop {
        let (due, again) = shared.identity().renewal(&shared.net.ambient);
        if !due.is_zero() {
            tokio::time::sleep(due.min(NAP)).await;
            continue;
        }
        match renew(&shared).await {
            Ok(()) => tracing::debug!("the certificate is renewed"),
            Err(error) => {
                tracing::warn!(%error, "the certificate is not renewed; without it no connection can be made soon");
            }
        }
        // Also after success: by our clock, a certificate of a head whose clock is behind may be due at once.
        tokio::time::sleep(again).await;
    }
}

/// The authority's side.
fn judge(shared: &Shared, peer: PeerId, request: &[u8]) -> Verdict {
    let authority = shared.authority.get().ok_or(Refusal::NotServed)?;
    if shared.given_up.has(peer.node) || shared.peers.is_dead(peer.node) {
        return Err(Refusal::Expelled);
    }
    authority.desk().renews(peer.node, shared.net.ambient.unix())?;
    if request.len() > MAX_HELLO as usize {
        return Err(Refusal::Failed("a request of more than 64 KiB".to_owned()));
    }
    authority.sign_request(peer, request).map_err(|error| Refusal::Failed(error.to_string()))
}

async fn renew(shared: &Arc<Shared>) -> Result<(), RenewError> {
    let applicant = Applicant::new()?;
    let request = applicant.request()?;
    let verdict = if shared.authority.get().is_some() {
        judge(shared, shared.me, &request)
    } else {
        let links = shared.peers.links();
        let head = links.iter().rfind(|link| link.peer.role == Role::Head && link.is_open());
        let answer = head.ok_or(RenewError::NoHead)?.renew(request.into(), DEADLINE).await?;
        if answer.len() > MAX_HELLO as usize {
            return Err(RenewError::Refused(Refusal::Failed("a certificate of more than 64 KiB".to_owned())));
        }
        decode::<Verdict>(&answer)?
    };
    let leaf = verdict.map_err(RenewError::Refused)?;
    let identity = applicant.take(leaf, shared.authority_print, &shared.net.ambient)?;
    if identity.peer() != shared.me {
        return Err(RenewError::Refused(Refusal::Failed("a certificate of another node".to_owned())));
    }
    Ok(shared.present(identity)?)
}

impl Renewer for Shared {
    fn renew(&self, peer: PeerId, request: &[u8]) -> Bytes {
        // One that cannot be encoded cannot be read either, which is an error all the same.
        encode(&judge(self, peer, request)).unwrap_or_default()
    }
}

impl Shared {
    /// Meets later peers with this identity.
    fn present(&self, identity: Identity) -> Result<(), BindError> {
        self.endpoint.present(&identity, self.authority.get().is_some())?;
        *self.identity() = identity;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{Authority, Node, Runtime};

    #[test]
    fn who_was_expelled_gets_no_new_certificate() {
        let runtime = Runtime::new("renew", 1).unwrap();
        let authority = Arc::new(Authority::new().unwrap());
        let head = authority.issue(Role::Head).unwrap();
        let head = Node::bind(head, (Ipv4Addr::LOCALHOST, 0).into(), &runtime).unwrap();
        head.serve_joins(Arc::clone(&authority)).unwrap();
        let [good, bad] = [(); 2].map(|()| authority.issue(Role::Worker).unwrap().peer());
        head.give_up(bad.node);
        let request = Applicant::new().unwrap().request().unwrap();
        assert_eq!(judge(head.shared(), good, &request).unwrap().peer, good);
        assert_eq!(judge(head.shared(), bad, &request).err(), Some(Refusal::Expelled));
    }
}
