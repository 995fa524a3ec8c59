//! What can go wrong, per operation.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ambient::NoRandomness;
use crate::codec::CodecError;
use crate::ids::{ClusterId, NodeId, Role};
use crate::text::{build, short};

/// An `ask` has no answer.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The deadline passed while the answer was awaited.
    #[error("no answer before the deadline")]
    Deadline,
    /// The actor took no further message in time. Certainly not run.
    #[error("the actor is busy")]
    Busy,
    /// No actor there takes this message.
    #[error("no such actor, or it does not take this message")]
    NoSuchActor,
    /// A node of this role may not send this message.
    #[error("a {role} may not send this message")]
    NotAllowed {
        /// The sender's role.
        role: Role,
    },
    /// The message could not be encoded. Certainly not run.
    #[error("the message cannot be encoded: {0}")]
    Codec(CodecError),
    /// The other side could not decode the message. Certainly not run.
    #[error(
        "the other side cannot decode the message: {text}. It may be another build, also where REGATTA_BUILD is the same: run the same \
         executable on both"
    )]
    BadMessage {
        /// Why.
        text: String,
    },
    /// The reply could not be encoded or decoded. The handler has run.
    #[error("the reply cannot be read: {text}")]
    BadReply {
        /// Why.
        text: String,
    },
    /// There is no connection to the node. Certainly not run.
    #[error("not connected to the node")]
    NotConnected,
    /// The connection ended while the answer was awaited.
    #[error("connection lost: {cause}")]
    ConnectionLost {
        /// Why it ended.
        cause: String,
    },
    /// The actor panicked, in this message or before it.
    #[error("the actor panicked: {text}")]
    Panicked {
        /// What the panic said, and where.
        text: String,
    },
    /// The actor stopped before the message. Certainly not run.
    #[error("the actor has stopped")]
    Stopped,
    /// The handler began, and its reply was dropped: its future panicked, or the actor stopped.
    #[error("the handler gave no reply")]
    NoReply,
    /// The handle was decoded outside of a message and of [`Node::decoding`](crate::Node::decoding). Certainly not run.
    #[error("this handle was decoded outside of any node, so it reaches nobody: decode it under Node::decoding")]
    Detached,
}

/// A `tell` could not be handed over.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TellError {
    /// No room in time.
    #[error("the actor is busy")]
    Busy,
    /// No actor of this address in this process.
    #[error("no such actor")]
    NoSuchActor,
    /// The message could not be encoded.
    #[error("the message cannot be encoded: {0}")]
    Codec(CodecError),
    /// There is no connection to the node.
    #[error("not connected to the node")]
    NotConnected,
    /// The actor has panicked.
    #[error("the actor panicked: {text}")]
    Panicked {
        /// What the panic said, and where.
        text: String,
    },
    /// The actor has stopped.
    #[error("the actor has stopped")]
    Stopped,
    /// The handle was decoded outside of a message and of [`Node::decoding`](crate::Node::decoding).
    #[error("this handle was decoded outside of any node, so it reaches nobody: decode it under Node::decoding")]
    Detached,
}

/// An identity could not be made or used.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The system's source of randomness failed.
    #[error("no randomness from the system")]
    Random,
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// More tokens wait to be used than an authority keeps.
    #[error("too many unused tokens; let some expire first")]
    TooManyTokens,
    /// The file that keeps an authority is not to be used.
    #[error("the authority's file {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The request for a certificate is not one.
    #[error("bad request for a certificate: {0}")]
    Request(String),
    /// TLS refused the certificate or the key.
    #[error("TLS refuses this identity: {0}")]
    Tls(String),
}

/// A thread for actors could not be started.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The runtime has been shut down.
    #[error("the runtime is shut down")]
    ShutDown,
    /// The operating system gave no thread.
    #[error("cannot start a thread: {0}")]
    Io(#[from] io::Error),
    /// The thread did not start in time.
    #[error("the thread did not start in time")]
    Deadline,
}

/// A node could not be bound.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The socket could not be bound.
    #[error("cannot bind: {0}")]
    Io(#[from] io::Error),
    /// The identity is unusable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The description of this build is too long for a hello.
    #[error("a build description of {size} bytes is longer than the maximum of {max}")]
    HelloTooLong {
        /// Its size in bytes.
        size: usize,
        /// The maximum.
        max: usize,
    },
    /// The authority is of another cluster than the node.
    #[error("the authority is of cluster {theirs}, the node of {ours}; serve joins where its own tokens are made")]
    OtherCluster {
        /// The node's.
        ours: ClusterId,
        /// The authority's.
        theirs: ClusterId,
    },
    /// A fixed setting of ours is out of QUIC's range.
    #[error("QUIC refuses the configuration: {0}")]
    Config(String),
}

/// A connection could not be made.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The deadline passed.
    #[error("no connection before the deadline")]
    Deadline,
    /// One side's certificate has expired.
    #[error("a certificate has expired ({reason}); join again with a new token, and compare the two clocks")]
    CertificateExpired {
        /// What TLS said.
        reason: String,
    },
    /// One side's certificate is not of this cluster.
    #[error("not trusted: {reason}; join this cluster with a token of its head")]
    NotTrusted {
        /// What TLS said.
        reason: String,
    },
    /// One side has declared the other dead after a long silence, and may have given its work to others.
    #[error("one side has declared the other dead; a process that was given up must start again as a new node")]
    DeclaredDead,
    /// One side has given the other up for good.
    #[error(
        "one side has expelled the other, or given it up for lost; who is to come back must start again as a new node"
    )]
    Expelled,
    /// The other process is another build of the application.
    #[error("the builds differ: ours is {}, theirs is {}", build(ours), build(theirs))]
    BuildDiffers {
        /// Our description.
        ours: Vec<u8>,
        /// Theirs.
        theirs: Vec<u8>,
    },
    /// The other process speaks another version of the protocol.
    #[error("the protocols differ: ours is {ours}, theirs is {theirs}")]
    ProtocolDiffers {
        /// Our version.
        ours: u16,
        /// Theirs.
        theirs: u16,
    },
    /// The other side broke the protocol.
    #[error("bad hello: {0}")]
    BadHello(String),
    /// The connection failed.
    #[error("connection failed: {0}")]
    Failed(String),
    /// This node is closed.
    #[error("this node is closed")]
    Closed,
}

/// A transfer failed.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// There is no connection to the node.
    #[error("not connected to {0}")]
    NotConnected(NodeId),
    /// The source refused, with its reason.
    #[error("refused: {0}")]
    Refused(String),
    /// The connection ended.
    #[error("connection lost: {cause}")]
    Lost {
        /// Why it ended.
        cause: String,
    },
    /// No progress for too long.
    #[error("the transfer stalled")]
    Stalled,
    /// No answer to the request before the deadline.
    #[error("no answer before the deadline")]
    Deadline,
    /// The source failed while it was read.
    #[error("the source failed while it was read")]
    SourceFailed,
    /// The source ended before its total.
    #[error("the transfer ended after {got} of {total} bytes")]
    Truncated {
        /// Bytes that came.
        got: u64,
        /// Bytes promised.
        total: u64,
    },
    /// There are more bytes than the caller takes.
    #[error("a transfer of {total} bytes, where {most} are taken at most")]
    TooLarge {
        /// Bytes promised.
        total: u64,
        /// The maximum.
        most: usize,
    },
    /// The ticket is longer than a request may be.
    #[error("a ticket of {size} bytes is longer than the maximum of {max}")]
    TicketTooLong {
        /// Its size in bytes.
        size: usize,
        /// The maximum.
        max: usize,
    },
    /// The other side broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
}

/// Why an actor is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Down {
    /// It stopped.
    #[error("stopped")]
    Stopped,
    /// It panicked.
    #[error("panicked: {text}")]
    Panicked {
        /// What the panic said, and where.
        #[serde(deserialize_with = "short")]
        text: String,
    },
    /// The connection to its node was lost, or there was none. Whether the actor lives is not known.
    #[error("node lost: {cause}")]
    NodeLost {
        /// Why.
        #[serde(deserialize_with = "short")]
        cause: String,
    },
    /// Its node has no such actor, or none that takes messages from this node.
    #[error("no such actor")]
    NoSuchActor,
}

/// Why the other side did not answer; crosses the wire. Whatever it says, its texts are short when they have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    Busy,
    NoSuchActor,
    NotAllowed {
        role: Role,
    },
    BadMessage {
        #[serde(deserialize_with = "short")]
        text: String,
    },
    BadReply {
        #[serde(deserialize_with = "short")]
        text: String,
    },
    Panicked {
        #[serde(deserialize_with = "short")]
        text: String,
    },
    Stopped,
    NoReply,
    DeadlinePassed,
}

impl AskError {
    /// Whether the handler may have run, at least in part.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::Deadline
            | Self::BadReply { .. }
            | Self::ConnectionLost { .. }
            | Self::Panicked { .. }
            | Self::NoReply => true,
            Self::Busy
            | Self::NoSuchActor
            | Self::NotAllowed { .. }
            | Self::Codec(_)
            | Self::BadMessage { .. }
            | Self::NotConnected
            | Self::Stopped
            | Self::Detached => false,
        }
    }

    /// Whether the same message may succeed later, and has certainly not run.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy | Self::NotConnected)
    }
}

impl TellError {
    /// Whether the same message may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy | Self::NotConnected)
    }
}

impl ConnectError {
    /// Whether another try may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Deadline | Self::Failed(_))
    }
}

impl FetchError {
    /// Whether another try, after reconnecting, may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NotConnected(_) | Self::Lost { .. } | Self::Stalled | Self::Deadline)
    }
}

impl From<NoRandomness> for IdentityError {
    fn from(NoRandomness: NoRandomness) -> Self {
        Self::Random
    }
}

impl From<Down> for TellError {
    fn from(down: Down) -> Self {
        match down {
            Down::Panicked { text } => Self::Panicked { text },
            Down::Stopped | Down::NodeLost { .. } => Self::Stopped,
            Down::NoSuchActor => Self::NoSuchActor,
        }
    }
}

impl From<TellError> for AskError {
    fn from(error: TellError) -> Self {
        match error {
            TellError::Busy => Self::Busy,
            TellError::NoSuchActor => Self::NoSuchActor,
            TellError::Codec(error) => Self::Codec(error),
            TellError::NotConnected => Self::NotConnected,
            TellError::Panicked { text } => Self::Panicked { text },
            TellError::Stopped => Self::Stopped,
            TellError::Detached => Self::Detached,
        }
    }
}

impl From<Fault> for AskError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Busy => Self::Busy,
            Fault::NoSuchActor => Self::NoSuchActor,
            Fault::NotAllowed { role } => Self::NotAllowed { role },
            Fault::BadMessage { text } => Self::BadMessage { text },
            Fault::BadReply { text } => Self::BadReply { text },
            Fault::Panicked { text } => Self::Panicked { text },
            Fault::Stopped => Self::Stopped,
            Fault::NoReply => Self::NoReply,
            Fault::DeadlinePassed => Self::Deadline,
        }
    }
}

/// A local refusal, as the asker on another node sees it.
impl From<AskError> for Fault {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Busy | AskError::NotConnected => Self::Busy,
            AskError::NoSuchActor | AskError::Detached => Self::NoSuchActor,
            AskError::NotAllowed { role } => Self::NotAllowed { role },
            AskError::Codec(error) => Self::BadMessage { text: error.to_string() },
            AskError::BadMessage { text } => Self::BadMessage { text },
            AskError::BadReply { text } => Self::BadReply { text },
            AskError::Panicked { text } => Self::Panicked { text },
            AskError::Stopped => Self::Stopped,
            AskError::NoReply | AskError::ConnectionLost { .. } => Self::NoReply,
            AskError::Deadline => Self::DeadlinePassed,
        }
    }
}

crate::text::debug_is_display!(AskError, TellError, SpawnError, BindError, ConnectError, FetchError, IdentityError);
