//! The token with which a node joins, and its text.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, digest};
use ring::hmac;

use crate::identity::date;
use crate::ids::{Fingerprint, Role};

/// Lets nodes join a cluster, one unless it was made for more: it pins the cluster's authority and proves a secret. Its text
/// ([`Display`](fmt::Display), [`FromStr`]) is the secret itself: hand it on like a password.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    authority: Fingerprint,
    role: Role,
    /// Seconds since 1970.
    expires: u64,
    secret: Secret,
}

/// What the node proves that it knows.
pub(crate) type Secret = [u8; 32];
/// The secret's name; tells nothing about it.
pub(crate) type TokenId = [u8; 16];

/// A text that is not a token.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinTokenError {
    /// It is too short, too long, or has other letters than a token.
    #[error("not a join token; copy the whole text that the head printed")]
    Malformed,
    /// Its letters do not fit together.
    #[error("a letter of this join token is wrong; copy the whole text that the head printed")]
    Checksum,
    /// It was made by another version of this crate.
    #[error("a join token of version {0}, not {VERSION}; both sides need the same build")]
    Version(u8),
}

crate::text::debug_is_display!(JoinTokenError);

impl JoinToken {
    /// What a node that joins with it is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// When it stops to work.
    pub fn expires(&self) -> SystemTime {
        date(self.expires)
    }

    pub(crate) fn new(authority: Fingerprint, role: Role, expires: Duration, secret: Secret) -> Self {
        Self { authority, role, expires: expires.as_secs(), secret }
    }

    pub(crate) fn authority(&self) -> Fingerprint {
        self.authority
    }

    pub(crate) fn expiry(&self) -> Duration {
        Duration::from_secs(self.expires)
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(crate) fn id(&self) -> TokenId {
        let mut id = TokenId::default();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.secret), b"regatta token id");
        id.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        id
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&role_numbers(self.role));
        bytes.extend_from_slice(&self.authority);
        bytes.extend_from_slice(&self.expires.to_le_bytes());
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&checksum(&bytes));
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, JoinTokenError> {
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(JoinTokenError::Malformed)?;
        if *sum != checksum(body) {
            return Err(JoinTokenError::Checksum);
        }
        let ([version, role @ ..], body) = body.split_first_chunk::<3>().ok_or(JoinTokenError::Malformed)?;
        if *version != VERSION {
            return Err(JoinTokenError::Version(*version));
        }
        let (authority, body) = body.split_first_chunk().ok_or(JoinTokenError::Malformed)?;
        let (expires, secret) = body.split_first_chunk().ok_or(JoinTokenError::Malformed)?;
        Ok(Self {
            authority: *authority,
            role: role_of(*role).ok_or(JoinTokenError::Malformed)?,
            expires: u64::from_le_bytes(*expires),
            secret: secret.try_into().map_err(|_| JoinTokenError::Malformed)?,
        })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.bytes()))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("role", &self.role).field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    /// Case, blanks and line breaks do not matter.
    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        Self::from_bytes(&unbase32(text).ok_or(JoinTokenError::Malformed)?)
    }
}

const VERSION: u8 = 1;
const LENGTH: usize = 3 + 32 + 8 + 32 + 4;
/// Crockford's: no letter looks like a digit.
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn role_numbers(role: Role) -> [u8; 2] {
    match role {
        Role::Head => [1, 0],
        Role::Driver => [2, 0],
        Role::Worker => [3, 0],
        Role::Guest => [4, 0],
        Role::Own(number) => [5, number],
        Role::Observer => [6, 0],
        Role::Operator => [7, 0],
    }
}

fn role_of(numbers: [u8; 2]) -> Option<Role> {
    let [_, number] = numbers;
    Role::ALL.into_iter().chain([Role::Own(number)]).find(|role| role_numbers(*role) == numbers)
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    digest(&SHA256, bytes).as_ref().first_chunk().copied().unwrap_or_default()
}

fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(LETTERS[(bits >> count) as usize & 31]));
        }
    }
    if count > 0 {
        text.push(char::from(LETTERS[(bits << (5 - count)) as usize & 31]));
    }
    text
}

fn unbase32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(LENGTH);
    let (mut bits, mut count) = (0u32, 0);
    for letter in text.bytes().filter(|letter| !letter.is_ascii_whitespace()) {
        let value = LETTERS.iter().position(|known| *known == letter.to_ascii_lowercase())?;
        bits = (bits << 5) | u32::try_from(value).ok()?;
        count += 5;
        if count >= 8 {
            count -= 8;
            if bytes.len() == LENGTH {
                return None;
            }
            bytes.push((bits >> count) as u8);
        }
    }
    (bytes.len() == LENGTH).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken::new([7; 32], Role::Worker, Duration::from_secs(1_900_000_000), [0xa5; 32])
    }

    #[test]
    fn a_token_survives_its_text() {
        for role in Role::ALL.into_iter().chain([Role::Own(0), Role::Own(255)]) {
            let token = JoinToken { role, ..token() };
            assert_eq!(token.to_string().parse(), Ok(token));
        }
        let text = token().to_string();
        assert_eq!(text.parse(), Ok(token()));
        let broken = format!(" {}\n{} ", &text[..60].to_uppercase(), &text[60..]);
        assert_eq!(broken.parse(), Ok(token()));
        assert!(text.starts_with("04"), "the text of a version is kept: {text}");
    }

    #[test]
    fn every_wrong_letter_is_noticed() {
        let text = token().to_string();
        for at in 0..text.len() - 1 {
            let other = if &text[at..=at] == "z" { "y" } else { "z" };
            let wrong = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert_eq!(wrong.parse::<JoinToken>(), Err(JoinTokenError::Checksum), "letter {at}");
        }
        for wrong in ["", "hello", &text[1..], &format!("{text}00"), &text.replace('0', "u")] {
            assert_eq!(wrong.parse::<JoinToken>(), Err(JoinTokenError::Malformed), "{wrong}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = token().bytes();
        bytes[0] = 9;
        let sum = checksum(&bytes[..LENGTH - 4]);
        bytes[LENGTH - 4..].copy_from_slice(&sum);
        assert_eq!(base32(&bytes).parse::<JoinToken>(), Err(JoinTokenError::Version(9)));
    }

    #[test]
    fn debug_hides_the_secret() {
        assert!(!format!("{:?}", token()).contains("165"), "0xa5 is 165");
    }
}
