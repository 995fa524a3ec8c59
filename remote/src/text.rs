//! Texts that somebody else's code makes, which may have any length: as long as they may be to travel, and to be kept.

use std::fmt::{self, Display, Write};

use serde::Deserializer;
use serde::de::{Error, Visitor};

/// The longest such text. A message has room for a thousand of them.
pub const MAX_TEXT: usize = 64 << 10;

/// What is kept of a longer one. The rest is room for what others put in front: what is short enough is not cut again.
const KEPT: usize = 60 << 10;

/// A text of [`MAX_TEXT`] bytes at most: of a longer one its beginning, how many bytes are left out, and its end, which of
/// many errors says what has happened.
pub fn shorten(text: impl Into<String>) -> String {
    let text = text.into();
    if text.len() <= MAX_TEXT { text } else { ends(&text) }
}

/// The ends of a text that is longer than [`MAX_TEXT`].
fn ends(text: &str) -> String {
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    let head = (0..=KEPT / 2).rev().find(is_boundary).unwrap_or(0);
    let tail = (text.len() - KEPT / 2..text.len()).find(is_boundary).unwrap_or(text.len());
    format!("{} [... {} bytes left out ...] {}", &text[..head], tail - head, &text[tail..])
}

/// Reads a text of a peer as [`shorten`] has it: no more of it is ever made.
pub(crate) fn short<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    struct Short;
    impl Visitor<'_> for Short {
        type Value = String;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(if text.len() <= MAX_TEXT { text.to_owned() } else { ends(text) })
        }
    }
    from.deserialize_str(Short)
}

/// What a description of a build says: of a long one the beginning, and how much more there is.
pub(crate) fn build(bytes: &[u8]) -> String {
    const SHOWN: usize = 256;
    match bytes.split_at_checked(SHOWN) {
        Some((shown, rest)) if !rest.is_empty() => {
            format!("{:?} and {} bytes more", String::from_utf8_lossy(shown), rest.len())
        }
        _ => format!("{:?}", String::from_utf8_lossy(bytes)),
    }
}

/// What somebody unknown says, in one line: it can neither end the line of a log nor steer a terminal.
pub(crate) fn line(said: impl Display) -> String {
    let mut line = Line(String::new());
    let _ = write!(line, "{said}"); // fails when it is long enough
    line.0
}

/// The most bytes of such a line, about.
const LINE: usize = 4 << 10;

struct Line(String);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '"' | '\'' | '\\' => self.0.push(letter),
                other => self.0.extend(other.escape_debug()),
            }
            if self.0.len() >= LINE {
                self.0.push_str(" ...");
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

/// `main` prints the `Debug` of what it returns, as `unwrap` does: people are to see there what there is to do.
macro_rules! debug_is_display {
    ($($error:ty),+) => {
        $(impl std::fmt::Debug for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        })+
    };
}
pub(crate) use debug_is_display;

/// What the first bytes of a text say, `most` of them at most.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end_and_says_how_much_it_lacks() {
        // However the cuts fall into the four bytes of a character.
        for shift in 0..4 {
            let text = format!("{}{}and so it ended", "x".repeat(shift), "🚣".repeat(MAX_TEXT));
            let short = shorten(text.as_str());
            assert!(short.len() <= KEPT + 100, "{}", short.len());
            let (head, rest) = short.split_once(" [... ").unwrap();
            let (left_out, tail) = rest.split_once(" bytes left out ...] ").unwrap();
            assert!(text.starts_with(head) && text.ends_with(tail) && tail.ends_with("🚣and so it ended"));
            assert!(head.len() > KEPT / 2 - 4 && tail.len() > KEPT / 2 - 4);
            assert_eq!(head.len() + left_out.parse::<usize>().unwrap() + tail.len(), text.len());
        }
    }

    #[test]
    fn what_a_peer_says_is_cut_as_it_is_read_and_more_of_it_is_never_made() {
        #[derive(serde::Deserialize)]
        struct Said(#[serde(deserialize_with = "short")] String);
        for size in [0, 10, MAX_TEXT, MAX_TEXT + 1, 1 << 20] {
            let text = "x".repeat(size);
            let Said(said) = crate::decode(&crate::encode(&text).unwrap()).unwrap();
            assert_eq!(said, shorten(text));
            assert!(said.capacity() <= 2 * MAX_TEXT, "{}", said.capacity());
        }
    }

    #[test]
    fn of_a_build_without_end_little_is_shown() {
        assert_eq!(build(b"build 1\n"), r#""build 1\n""#);
        let long = build(&[0xff; 64 << 10]);
        assert!(long.len() < 2000 && long.ends_with("and 65280 bytes more"), "{long}");
    }

    #[test]
    fn what_a_stranger_says_is_one_line_of_plain_letters() {
        let said = "bye\n2026-11-29 INFO all is well\r\u{1b}[31m \u{202e}\0 \"it's\" fünf 🚣";
        let said = line(said);
        assert!(said.contains("\\n2026-11-29 INFO") && said.ends_with("\"it's\" fünf 🚣"), "{said}");
        assert!(!said.contains(|c: char| c.is_control() || c == '\u{202e}'), "{said}");
        assert!(line("\u{1b}".repeat(1 << 20)).len() < LINE + 20);
    }

    #[test]
    fn a_text_that_is_short_enough_stays_as_it_is_and_so_does_a_cut_one_behind_more_words() {
        let longest = "x".repeat(MAX_TEXT);
        assert_eq!(shorten(longest.as_str()), longest);
        let cut = format!("in row 7 of a batch of 100: {}", shorten(longest + "x"));
        assert_eq!(shorten(cut.as_str()), cut);
    }
}
