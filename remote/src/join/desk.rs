//! What an authority knows of its tokens, and whom it still listens to. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ring::hmac;

use super::token::{JoinToken, Secret, TokenId};
use super::{Claim, Refusal};
use crate::identity::Role;

/// Tokens kept at a time.
const TOKENS: usize = 16 << 10;
/// Refusals that a host may have at once, and how long one of them counts.
const REFUSALS: u32 = 10;
const REFILL: Duration = Duration::from_secs(1);
/// Hosts whose refusals are counted.
const HOSTS: usize = 1024;

/// The tokens of an authority.
#[derive(Default)]
pub(crate) struct Desk {
    tokens: BTreeMap<TokenId, Entry>,
    refused: BTreeMap<IpAddr, Refused>,
}

struct Entry {
    secret: Secret,
    role: Role,
    expires: Duration,
    /// Nodes that it still lets in.
    left: u32,
}

/// A host's refusals, as of a time.
struct Refused {
    count: u32,
    since: Duration,
}

impl Desk {
    /// Notes a token for so many nodes. False if there are too many tokens.
    pub(crate) fn add(&mut self, token: &JoinToken, nodes: u32, now: Duration) -> bool {
        if self.tokens.len() >= TOKENS {
            // Used and expired ones are kept while there is room, to be told apart from unknown ones.
            self.tokens.retain(|_, entry| entry.left > 0 && entry.expires > now);
        }
        let entry = Entry { secret: *token.secret(), role: token.role(), expires: token.expiry(), left: nodes };
        self.tokens.len() < TOKENS && self.tokens.insert(token.id(), entry).is_none()
    }

    /// Whether a host is listened to; each [`refuse`](Self::refuse) takes from that for a while.
    pub(crate) fn listens(&mut self, from: IpAddr, now: Duration) -> Result<(), Refusal> {
        let Some(refused) = self.refused.get_mut(&host(from)) else {
            return Ok(());
        };
        refused.forget(now);
        if refused.count < REFUSALS { Ok(()) } else { Err(Refusal::TooMany) }
    }

    /// Counts a refusal of a host.
    pub(crate) fn refuse(&mut self, from: IpAddr, now: Duration) {
        let from = host(from);
        if !self.refused.contains_key(&from) && self.refused.len() >= HOSTS {
            self.refused.retain(|_, refused| {
                refused.forget(now);
                refused.count > 0
            });
            if self.refused.len() >= HOSTS {
                self.refused.pop_first();
            }
        }
        let refused = self.refused.entry(from).or_insert(Refused { count: 0, since: now });
        refused.forget(now);
        refused.count = refused.count.saturating_add(1);
    }

    /// The role that a claim has a right to. Only who proves the secret learns more than that it is wrong.
    pub(crate) fn check(&self, claim: &Claim, exported: &[u8], now: Duration) -> Result<Role, Refusal> {
        let entry = self.tokens.get(&claim.token).ok_or(Refusal::WrongToken)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &entry.secret);
        hmac::verify(&key, &claim.proven(exported), &claim.proof).map_err(|_| Refusal::WrongToken)?;
        if entry.left == 0 {
            return Err(Refusal::Used);
        }
        if now >= entry.expires {
            return Err(Refusal::Expired);
        }
        Ok(entry.role)
    }

    /// Lets one node in by a token. False if it is used up.
    pub(crate) fn take(&mut self, token: TokenId) -> bool {
        let Some(entry) = self.tokens.get_mut(&token) else { return false };
        let left = entry.left.checked_sub(1);
        entry.left = left.unwrap_or_default();
        left.is_some()
    }
}

impl Refused {
    fn forget(&mut self, now: Duration) {
        let over = now.saturating_sub(self.since).as_secs() / REFILL.as_secs();
        self.count = self.count.saturating_sub(u32::try_from(over).unwrap_or(u32::MAX));
        // Also if the clock was set back.
        if over > 0 || now < self.since {
            self.since = now;
        }
    }
}

/// What counts as one host: of an IPv6 network, all of it.
fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);
    const EXPORTED: &[u8] = b"this session";

    fn scene() -> (Desk, JoinToken) {
        let mut desk = Desk::default();
        let token = JoinToken::new([1; 32], Role::Driver, NOW + Duration::from_secs(60), [2; 32]);
        assert!(desk.add(&token, 1, NOW));
        (desk, token)
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
        assert!(desk.take(claim.token));
        assert!(!desk.take(claim.token));
        assert_eq!(desk.check(&claim, EXPORTED, NOW), Err(Refusal::Used));
    }

    #[test]
    fn a_token_for_several_nodes_lets_in_that_many() {
        let mut desk = Desk::default();
        let token = JoinToken::new([1; 32], Role::Worker, NOW + Duration::from_secs(60), [2; 32]);
        assert!(desk.add(&token, 3, NOW));
        let claim = claim(&token, EXPORTED);
        for _ in 0..3 {
            assert_eq!(desk.check(&claim, EXPORTED, NOW), Ok(Role::Worker));
            assert!(desk.take(claim.token));
        }
        assert_eq!(desk.check(&claim, EXPORTED, NOW), Err(Refusal::Used));
        assert!(!desk.take(claim.token));
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
    fn a_host_that_is_refused_often_waits_and_others_do_not() {
        let (mut desk, _) = scene();
        let [bad, good] = [IpAddr::from([1, 2, 3, 4]), IpAddr::from([1, 2, 3, 5])];
        for _ in 0..REFUSALS {
            assert_eq!(desk.listens(bad, NOW), Ok(()));
            desk.refuse(bad, NOW);
        }
        assert_eq!(desk.listens(bad, NOW), Err(Refusal::TooMany));
        assert_eq!(desk.listens(good, NOW), Ok(()));
        assert_eq!(desk.listens(bad, NOW + REFILL), Ok(()));
        desk.refuse(bad, NOW + REFILL);
        assert_eq!(desk.listens(bad, NOW + REFILL), Err(Refusal::TooMany));
        assert_eq!(desk.listens(bad, NOW + REFILL * 100), Ok(()));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut desk, _) = scene();
        for n in 0..2 * HOSTS as u32 {
            desk.refuse(IpAddr::from(n.to_be_bytes()), NOW);
        }
        assert_eq!(desk.refused.len(), HOSTS);
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

    #[test]
    fn an_ipv6_network_is_one_host() {
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(host(one), host("2001:db8::2".parse().unwrap()));
        assert_ne!(host(one), host("2001:db9::1".parse().unwrap()));
        assert_eq!(host("::ffff:1.2.3.4".parse().unwrap()), IpAddr::from([1, 2, 3, 4]));
    }
}
