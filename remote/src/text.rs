//! Texts that somebody else's code makes, which may have any length: as long as they may be to travel, and to be kept.

/// The longest such text. A message has room for a thousand of them.
pub const MAX_TEXT: usize = 64 << 10;

/// What is kept of a longer one. The rest is room for what others put in front: what is short enough is not cut again.
const KEPT: usize = 60 << 10;

/// A text of [`MAX_TEXT`] bytes at most: of a longer one its beginning, how many bytes are left out, and its end, which of
/// many errors says what has happened.
pub fn shorten(text: impl Into<String>) -> String {
    let text = text.into();
    if text.len() <= MAX_TEXT {
        return text;
    }
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    let head = (0..=KEPT / 2).rev().find(is_boundary).unwrap_or(0);
    let tail = (text.len() - KEPT / 2..text.len()).find(is_boundary).unwrap_or(text.len());
    format!("{} [... {} bytes left out ...] {}", &text[..head], tail - head, &text[tail..])
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
    fn a_text_that_is_short_enough_stays_as_it_is_and_so_does_a_cut_one_behind_more_words() {
        let longest = "x".repeat(MAX_TEXT);
        assert_eq!(shorten(longest.as_str()), longest);
        let cut = format!("in row 7 of a batch of 100: {}", shorten(longest + "x"));
        assert_eq!(shorten(cut.as_str()), cut);
    }
}
