//! Joining by token: a node without a certificate pins the authority, proves a secret and receives one.
//!
//! One connection of its own protocol, one stream: the joiner sends a [`Claim`], whose proof is an HMAC under the
//! token's secret over key material of this very TLS session and the request for a certificate; the head answers with
//! a certificate or a [`Refusal`]. A token lets in as many nodes as it was made for; one whose answer is lost counts.

mod serve;

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quinn::{Connection, ConnectionError};

use crate::ambient::Ambient;
use crate::claim::{Claim, Refusal, Verdict};
use crate::close::Code;
use crate::codec::{decode, encode};
use crate::endpoint::Joining;
use crate::error::{BindError, IdentityError};
use crate::frame::{Header, Kind};
use crate::hello::{MAX_BUILD, MAX_HELLO, PROTOCOL};
use crate::identity::{Applicant, Identity};
use crate::lane::{FrameReader, send};
use crate::runtime::Runtime;
use crate::text::{build, line};
use crate::tls::{ALPN_JOIN, NO_PROTOCOL};
use crate::token::JoinToken;

pub(crate) use serve::accept;

/// A node could not join.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The deadline passed.
    #[error("no answer from {0} in time; is it the head's address, and is the head running?")]
    Deadline(SocketAddr),
    /// The other end is not of the token's cluster.
    #[error("{0} is of another cluster than the token; take the token and the address from the same head")]
    OtherCluster(SocketAddr),
    /// The head does not know the token.
    #[error("the head does not know this token; tokens end with the process that made them: make a new one")]
    WrongToken,
    /// The token has expired.
    #[error("the token has expired; make a new one")]
    Expired,
    /// The token was [revoked](crate::Authority::revoke).
    #[error("the token was revoked; ask who runs the cluster for a new one")]
    Revoked,
    /// The token has let in as many nodes as it is for.
    #[error("the token was used before, by as many nodes as it lets join; make a new one")]
    Used,
    /// The head runs another build of the application.
    #[error(
        "the builds differ: ours is {}, the head's is {}; run the same executable on both",
        build(ours),
        build(theirs)
    )]
    BuildDiffers {
        /// Our description.
        ours: Vec<u8>,
        /// The head's.
        theirs: Vec<u8>,
    },
    /// The head speaks another version of the protocol.
    #[error("the protocols differ: ours is {ours}, the head's is {theirs}; run the same executable on both")]
    ProtocolDiffers {
        /// Our version.
        ours: u16,
        /// The head's.
        theirs: u16,
    },
    /// The other end is a node that takes no joins.
    #[error("{0} takes no joins; use the address of the head that made the token")]
    NotServed(SocketAddr),
    /// The description of this build is too long for a request.
    #[error("a build description of {size} bytes is longer than the maximum of {MAX_BUILD}")]
    HelloTooLong {
        /// Its size in bytes.
        size: usize,
    },
    /// The socket could not be bound.
    #[error("cannot bind: {0}")]
    Bind(String),
    /// The connection failed.
    #[error("the connection failed: {0}; check the network between the two hosts")]
    Failed(String),
    /// The head's answer is not usable.
    #[error("the head's answer is not usable: {0}; run the same executable on both")]
    BadAnswer(String),
    /// A key or certificate could not be made or used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

crate::text::debug_is_display!(JoinError);

impl JoinError {
    /// Whether another try with the same token may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Deadline(_) | Self::Failed(_))
    }
}

impl Identity {
    /// Joins the cluster of a token at its head's address, which must be of the same build as this
    /// [runtime](Runtime::with_build).
    ///
    /// # Errors
    /// Each names its cause and what to do about it.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt; the token may be used up.
    pub async fn join(
        token: &JoinToken,
        to: SocketAddr,
        runtime: &Runtime,
        deadline: Duration,
    ) -> Result<Self, JoinError> {
        let build = runtime.build().to_vec();
        if build.len() > MAX_BUILD {
            return Err(JoinError::HelloTooLong { size: build.len() });
        }
        let ambient = runtime.net().ambient.clone();
        if ambient.unix() >= token.expiry() {
            return Err(JoinError::Expired);
        }
        let stranger = Arc::new(AtomicBool::new(false));
        let endpoint = Joining::bind(token.authority(), Arc::clone(&stranger), ALPN_JOIN, from(to), runtime);
        let endpoint = endpoint.map_err(|error| match error {
            BindError::Identity(error) => JoinError::Identity(error),
            other => JoinError::Bind(other.to_string()),
        })?;
        let token = token.clone();
        // quinn needs a runtime around it, which the caller may not have.
        let joining = runtime.net().spawn(async move {
            let connecting = endpoint.connect(to).map_err(|error| JoinError::Failed(error.to_string()))?;
            let connection = connecting.await.map_err(|error| not_connected(to, &error))?;
            let joined = ask(&connection, &token, build, &ambient).await;
            connection.close(Code::Bye.into(), b"joined or not");
            joined
        });
        let joined = match runtime.net().within(deadline, joining).await {
            Some(Some(joined)) => joined,
            Some(None) => Err(JoinError::Failed("the runtime is shut down".to_owned())),
            None => Err(JoinError::Deadline(to)),
        };
        if joined.is_err() && stranger.load(Ordering::Acquire) { Err(JoinError::OtherCluster(to)) } else { joined }
    }
}

/// No connection was made on which to ask.
fn not_connected(to: SocketAddr, error: &ConnectionError) -> JoinError {
    match error {
        ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == NO_PROTOCOL => {
            JoinError::NotServed(to)
        }
        other => JoinError::Failed(line(other)),
    }
}

/// Key material that only the two ends of a TLS session have.
fn exported(connection: &Connection) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    connection.export_keying_material(&mut bytes, b"EXPORTER-regatta-join", b"").ok()?;
    Some(bytes)
}

/// The joiner's side.
async fn ask(
    connection: &Connection,
    token: &JoinToken,
    build: Vec<u8>,
    ambient: &Ambient,
) -> Result<Identity, JoinError> {
    let failed = |error: &dyn Display| JoinError::Failed(line(error));
    let exported = exported(connection).ok_or_else(|| JoinError::Failed("no key material".to_owned()))?;
    let applicant = Applicant::new()?;
    let claim = Claim::new(token, &exported, build, applicant.request()?);
    let payload = encode(&claim).map_err(|error| failed(&error))?;
    let (mut write, read) = connection.open_bi().await.map_err(|error| failed(&error))?;
    send(&mut write, Kind::Join, payload).await.map_err(|error| failed(&error))?;
    let answer = FrameReader::new(read, MAX_HELLO).next().await.map_err(|error| failed(&error))?;
    let Some((Header { kind: Kind::Reply, .. }, payload)) = answer else {
        return Err(JoinError::BadAnswer("not a reply".to_owned()));
    };
    match decode::<Verdict>(&payload).map_err(|error| JoinError::BadAnswer(error.to_string()))? {
        Ok(leaf) => Ok(applicant.take(leaf, token.authority(), ambient)?),
        Err(refusal) => Err(match refusal {
            Refusal::WrongToken => JoinError::WrongToken,
            Refusal::Expired => JoinError::Expired,
            Refusal::Revoked => JoinError::Revoked,
            Refusal::Used => JoinError::Used,
            Refusal::BuildDiffers { theirs } => JoinError::BuildDiffers { ours: claim.build, theirs },
            Refusal::ProtocolDiffers { theirs } => JoinError::ProtocolDiffers { ours: PROTOCOL, theirs },
            Refusal::NotServed => JoinError::NotServed(connection.remote_address()),
            Refusal::Failed(text) => JoinError::Failed(text),
            renewal @ (Refusal::TooMany | Refusal::Expelled) => JoinError::BadAnswer(format!("{renewal:?}")),
        }),
    }
}

/// Where to dial from.
fn from(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(to) if to.ip().is_loopback() => (Ipv4Addr::LOCALHOST, 0).into(),
        SocketAddr::V6(to) if to.ip().is_loopback() => (Ipv6Addr::LOCALHOST, 0).into(),
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
