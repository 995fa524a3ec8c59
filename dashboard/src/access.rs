//! Who gets an answer: whoever has the token, from a page of ours, under a name of ours. Pure but for the token's randomness.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

/// What lets a viewer in: 256 bits, written as 64 hexadecimal digits. A secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// One that nobody knows.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(format!("no randomness: {error}")))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl FromStr for Token {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a token of a dashboard is 64 hexadecimal digits";
        let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
        let digits = digits.filter(|digits| digits.len() == 64).ok_or(wrong)?;
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(digits.chunks(2)).for_each(|(byte, two)| *byte = (two[0] * 16 + two[1]) as u8);
        Ok(Self(bytes))
    }
}

/// Why somebody gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It asks under a name that is not ours: a page elsewhere may have had it resolved to this address.
    Host,
    /// It asks from a page that is not ours.
    Origin,
    /// It has no token, or a wrong one.
    Token,
    /// There were too many wrong ones of late.
    TooMany,
}

/// Wrong tokens in [`A_WHILE`] that are told so; the others are told that there were too many.
const WRONG: u32 = 10;
const A_WHILE: Duration = Duration::from_secs(60);

/// Who may look.
#[derive(Debug)]
pub(crate) struct Access {
    token: Token,
    /// Names of this server, beside `localhost` and addresses.
    names: Vec<String>,
    wrong: Mutex<Wrong>,
}

#[derive(Debug)]
struct Wrong {
    since: Instant,
    count: u32,
}

impl Access {
    pub(crate) fn new(token: Token, names: Vec<String>) -> Self {
        Self { token, names, wrong: Mutex::new(Wrong { since: Instant::now(), count: 0 }) }
    }

    /// Whether it asks under a name of ours. An address in place of a name is nobody's trick: there is nothing to resolve.
    pub(crate) fn check_host(&self, host: Option<&str>) -> Result<(), Denied> {
        let name = host.and_then(name_of).ok_or(Denied::Host)?;
        let is_address = name.parse::<IpAddr>().is_ok();
        let is_known = |known: &str| known.eq_ignore_ascii_case(name);
        let is_ours = is_address || is_known("localhost") || self.names.iter().any(|known| is_known(known));
        if is_ours { Ok(()) } else { Err(Denied::Host) }
    }

    /// Whether it asks from a page of ours, if from a page at all.
    pub(crate) fn check_origin(host: Option<&str>, origin: Option<&str>) -> Result<(), Denied> {
        let Some(origin) = origin else { return Ok(()) };
        let from = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        match (from, host) {
            (Some(from), Some(host)) if from.eq_ignore_ascii_case(host) => Ok(()),
            _ => Err(Denied::Origin),
        }
    }

    /// Whether it has the token. The right one is let in however many wrong ones there were: nobody locks out whom it is for, and nobody
    /// guesses 256 bits.
    pub(crate) fn check_token(&self, token: Option<&str>, now: Instant) -> Result<(), Denied> {
        let given = token.and_then(|token| token.parse::<Token>().ok());
        // As long for each wrong one.
        let is_right = given.is_some_and(|given| bool::from(given.0.ct_eq(&self.token.0)));
        if is_right {
            return Ok(());
        }
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(wrong.since) >= A_WHILE {
            *wrong = Wrong { since: now, count: 0 };
        }
        wrong.count = wrong.count.saturating_add(1);
        Err(if wrong.count > WRONG { Denied::TooMany } else { Denied::Token })
    }
}

/// The name in a `Host`, without its port.
fn name_of(host: &str) -> Option<&str> {
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|digit| digit.is_ascii_digit());
    if let Some(rest) = host.strip_prefix('[') {
        let (name, port) = rest.split_once(']')?;
        return (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(name);
    }
    match host.split_once(':') {
        Some((name, port)) => is_port(port).then_some(name),
        None => Some(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access::new(Token([7; 32]), vec!["dash.example".to_owned()])
    }

    #[test]
    fn only_names_of_ours_and_addresses_are_answered() {
        let is_ours = |host| access().check_host(host).is_ok();
        for host in [
            "localhost",
            "localhost:7780",
            "LOCALHOST:1",
            "127.0.0.1:7780",
            "[::1]:7780",
            "10.0.0.3",
            "dash.example:443",
        ] {
            assert!(is_ours(Some(host)), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:7780",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:x",
            "[::1",
            "[::1]x",
            "a:1:2",
            "xn--dash.example",
        ] {
            assert!(!is_ours(Some(host)), "{host}");
        }
        assert!(!is_ours(None));
    }

    #[test]
    fn a_page_of_somebody_else_asks_in_vain() {
        let check = |origin| Access::check_origin(Some("localhost:7780"), origin);
        assert_eq!(check(None), Ok(()), "programs have none");
        assert_eq!(check(Some("http://localhost:7780")), Ok(()));
        for origin in ["http://evil.example", "null", "http://localhost:7781", "file://", "http://localhost", ""] {
            assert_eq!(check(Some(origin)), Err(Denied::Origin), "{origin}");
        }
    }

    #[test]
    fn the_eleventh_wrong_token_in_a_minute_is_one_too_many_and_the_right_one_is_let_in() {
        let (access, now) = (access(), Instant::now());
        let right = Token([7; 32]).to_string();
        let almost = right.replacen('0', "1", 1);
        for wrong in [None, Some(""), Some("07"), Some(&almost), Some(&right[1..]), Some("x"), None, None, None, None] {
            assert_eq!(access.check_token(wrong, now), Err(Denied::Token), "{wrong:?}");
        }
        assert_eq!(access.check_token(Some(&almost), now), Err(Denied::TooMany));
        assert_eq!(access.check_token(Some(&right), now), Ok(()));
        assert_eq!(access.check_token(Some(&right.to_ascii_uppercase()), now), Ok(()));
        assert_eq!(access.check_token(None, now + A_WHILE), Err(Denied::Token), "a minute later");
    }

    #[test]
    fn a_token_is_not_shown_by_accident_and_no_two_are_alike() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.to_string().parse(), Ok(one.clone()));
        assert!(!format!("{one:?}").contains(&one.to_string()[..4]));
    }
}
