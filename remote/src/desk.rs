//! What an authority knows of its tokens, and whose certificates it renews. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use ring::hmac;

use crate::claim::{Claim, Refusal};
use crate::ids::{NodeId, Role};
use crate::rates::Rates;
use crate::token::{JoinToken, Secret, TokenId};

/// Tokens kept at a time.
const TOKENS: usize = 16 << 10;
/// Renewals that a node may have at once, and how long one of them counts.
const RENEWALS: u32 = 10;
const REFILL: Duration = Duration::from_secs(1);

/// The tokens of an authority.
pub(crate) struct Desk {
    tokens: BTreeMap<TokenId, Entry>,
    renewed: Rates<NodeId>,
}

struct Entry {
    secret: Secret,
    role: Role,
    expires: Duration,
    /// Nodes that it still lets in.
    left: u32,
    /// The last that it has let in.
    node: Option<NodeId>,
    revoked: bool,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self { tokens: BTreeMap::new(), renewed: Rates::new(RENEWALS, REFILL) }
    }

    /// Notes a token for so many nodes. False if there are too many tokens.
    pub(crate) fn add(&mut self, token: &JoinToken, nodes: u32, now: Duration) -> bool {
        if self.tokens.len() >= TOKENS {
            // Used and expired ones are kept while there is room, to be told apart from unknown ones.
            self.tokens.retain(|_, entry| entry.left > 0 && entry.expires > now);
        }
        let (secret, role, expires) = (*token.secret(), token.role(), token.expiry());
        let entry = Entry { secret, role, expires, left: nodes, node: None, revoked: false };
        self.tokens.len() < TOKENS && self.tokens.insert(token.id(), entry).is_none()
    }

    /// Lets nobody in by a token any more. False if it is not known.
    pub(crate) fn revoke(&mut self, token: TokenId) -> bool {
        let Some(entry) = self.tokens.get_mut(&token) else { return false };
        (entry.left, entry.revoked) = (0, true);
        true
    }

    /// Counts a renewal of a node; refused if there were many just now.
    pub(crate) fn renews(&mut self, node: NodeId, now: Duration) -> Result<(), Refusal> {
        if self.renewed.is_full(node, now) {
            return Err(Refusal::TooMany);
        }
        self.renewed.count(node, now);
        Ok(())
    }

    /// The role that a claim has a right to. Only who proves the secret learns more than that it is wrong.
    pub(crate) fn check(&self, claim: &Claim, exported: &[u8], now: Duration) -> Result<Role, Refusal> {
        let entry = self.tokens.get(&claim.token).ok_or(Refusal::WrongToken)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &entry.secret);
        hmac::verify(&key, &claim.proven(exported), &claim.proof).map_err(|_| Refusal::WrongToken)?;
        if entry.revoked {
            return Err(Refusal::Revoked);
        }
        if entry.left == 0 {
            return Err(Refusal::Used);
        }
        if now >= entry.expires {
            return Err(Refusal::Expired);
        }
        Ok(entry.role)
    }

    /// Lets this node in by a token. False if it is used up.
    pub(crate) fn take(&mut self, token: TokenId, node: NodeId) -> bool {
        let Some(entry) = self.tokens.get_mut(&token) else { return false };
        let Some(left) = entry.left.checked_sub(1) else { return false };
        (entry.left, entry.node) = (left, Some(node));
        true
    }

    /// The last node that a token has let in.
    pub(crate) fn let_in(&self, token: TokenId) -> Option<NodeId> {
        self.tokens.get(&token)?.node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);
    const EXPORTED: &[u8] = b"this session";

    fn scene() -> (Desk, JoinToken) {
        let mut desk = Desk::new();
        let token = JoinToken::new([1; 32], Role::Driver, NOW + Duration::from_secs(60), [2; 32]);
        assert!(desk.add(&token, 1, NOW));
        (desk, token)
    }

    fn node(number: u8) -> NodeId {
        crate::decode(&[number]).unwrap()
    }

    fn claim(token: &JoinToken, exported: &[u8]) -> Claim {
        Claim::new(token, exported, b"build".to_vec(), b"request".to_vec())
    }

    #[test]
    fn a_token_is_good_once_until_it_expires() {
        let (mut desk, token) = scene();
        let claim = claim(&token, EXPORTED);
        assert_eq!(desk.check(&claim, EXPORTED, NOW), Ok(Role::Driver));
        assert_eq!(desk.check(&claim, EXPORTED, NOW + Duration::from_secs(60)), Err(Refusal::Expired));
        assert_eq!(desk.let_in(claim.token), None);
        assert!(desk.take(claim.token, node(1)));
        assert!(!desk.take(claim.token, node(2)));
        assert_eq!(desk.let_in(claim.token), Some(node(1)), "who was refused has not come by it");
        assert_eq!(desk.check(&claim, EXPORTED, NOW), Err(Refusal::Used));
    }

    #[test]
    fn a_token_for_several_nodes_lets_in_that_many() {
        let mut desk = Desk::new();
        let token = JoinToken::new([1; 32], Role::Worker, NOW + Duration::from_secs(60), [2; 32]);
        assert!(desk.add(&token, 3, NOW));
        let claim = claim(&token, EXPORTED);
        for number in 0..3 {
            assert_eq!(desk.check(&claim, EXPORTED, NOW), Ok(Role::Worker));
            assert!(desk.take(claim.token, node(number)));
            assert_eq!(desk.let_in(claim.token), Some(node(number)));
        }
        assert_eq!(desk.check(&claim, EXPORTED, NOW), Err(Refusal::Used));
        assert!(!desk.take(claim.token, node(3)));
    }

    #[test]
    fn a_proof_is_of_its_session_and_its_request() {
        let (desk, token) = scene();
        let replayed = claim(&token, b"another session");
        assert_eq!(desk.check(&replayed, EXPORTED, NOW), Err(Refusal::WrongToken));
        let mut swapped = claim(&token, EXPORTED);
        swapped.request = b"another's key".to_vec();
        assert_eq!(desk.check(&swapped, EXPORTED, NOW), Err(Refusal::WrongToken));
        let forged = JoinToken::new([1; 32], Role::Head, token.expiry(), [3; 32]);
        assert_eq!(desk.check(&claim(&forged, EXPORTED), EXPORTED, NOW), Err(Refusal::WrongToken));
    }

    #[test]
    fn the_role_is_the_authoritys_and_not_the_texts() {
        let (desk, token) = scene();
        let promoted = JoinToken::new([1; 32], Role::Head, token.expiry(), *token.secret());
        assert_eq!(desk.check(&claim(&promoted, EXPORTED), EXPORTED, NOW), Ok(Role::Driver));
    }

    #[test]
    fn a_token_that_was_revoked_lets_nobody_in() {
        let (mut desk, token) = scene();
        let claim = claim(&token, EXPORTED);
        assert!(desk.revoke(claim.token) && desk.revoke(claim.token));
        assert_eq!(desk.check(&claim, EXPORTED, NOW), Err(Refusal::Revoked));
        assert!(!desk.take(claim.token, node(1)));
        assert!(!desk.revoke(TokenId::default()));
    }

    #[test]
    fn a_node_that_renews_without_end_is_refused_for_a_while() {
        let (mut desk, _) = scene();
        assert_eq!((0..50).filter(|_| desk.renews(node(1), NOW).is_ok()).count(), RENEWALS as usize);
        assert_eq!(desk.renews(node(2), NOW), Ok(()));
        assert_eq!(desk.renews(node(1), NOW + REFILL), Ok(()));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut desk, _) = scene();
        let token = |n: usize, ttl: u64| {
            let mut secret = [4; 32];
            secret[..8].copy_from_slice(&n.to_le_bytes());
            JoinToken::new([1; 32], Role::Worker, NOW + Duration::from_secs(ttl), secret)
        };
        let added = (0..TOKENS + 10).filter(|n| desk.add(&token(*n, 1), 1, NOW)).count();
        assert_eq!(added, TOKENS - 1);
        // Expired ones make room.
        assert!(desk.add(&token(TOKENS + 11, 9), 1, NOW + Duration::from_secs(2)));
        assert_eq!(desk.tokens.len(), 2); // this one and the scene's
    }
}
