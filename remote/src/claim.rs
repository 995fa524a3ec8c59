//! What a joiner asks for, and what it is answered.

use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::hello::PROTOCOL;
use crate::identity::Leaf;
use crate::text::short;
use crate::token::{JoinToken, TokenId};

/// What a joiner asks for.
#[derive(Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) protocol: u16,
    pub(crate) token: TokenId,
    pub(crate) proof: [u8; 32],
    pub(crate) build: Vec<u8>,
    pub(crate) request: Vec<u8>,
}

/// Why a head gives no certificate; crosses the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    WrongToken,
    Expired,
    Revoked,
    Used,
    BuildDiffers { theirs: Vec<u8> },
    ProtocolDiffers { theirs: u16 },
    TooMany,
    Expelled,
    NotServed,
    Failed(#[serde(deserialize_with = "short")] String),
}

/// A head's answer to a claim, or to a node that wants its certificate renewed.
pub(crate) type Verdict = Result<Leaf, Refusal>;

impl Claim {
    pub(crate) fn new(token: &JoinToken, exported: &[u8], build: Vec<u8>, request: Vec<u8>) -> Self {
        let mut claim = Self { protocol: PROTOCOL, token: token.id(), proof: [0; 32], build, request };
        let key = hmac::Key::new(hmac::HMAC_SHA256, token.secret());
        let tag = hmac::sign(&key, &claim.proven(exported));
        claim.proof.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        claim
    }

    /// What the proof is about. The exported bytes have one length, so that the two cannot run into each other.
    pub(crate) fn proven(&self, exported: &[u8]) -> Vec<u8> {
        [exported, &self.request].concat()
    }
}
