//! Figures as people read them: three digits.

use unicode_width::UnicodeWidthChar;

/// Three digits of a number, and no zeros after the point.
fn digits(value: f64) -> String {
    let decimals = if value >= 99.95 { 0 } else { usize::from(value >= 9.995) + 2 * usize::from(value < 9.995) };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    // What would round to the next unit is of it.
    while value >= step - 0.5 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / step, next);
    }
    if unit.is_empty() { digits(value) } else { format!("{} {unit}", digits(value)) }
}

/// A count: `412 k`, `6 M`.
pub fn count(value: u64) -> String {
    if value < 10_000 { value.to_string() } else { scaled(value as f64, 1000.0, &["", "k", "M", "G", "T"]) }
}

/// Bytes: `312 MiB`.
pub fn bytes(value: u64) -> String {
    scaled(value as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// A time that was measured: `2.1 s`, `35 ms`, `12:07`.
pub fn time(ns: u64) -> String {
    match ns {
        0..999_500 => format!("{} us", digits(ns as f64 / 1e3)),
        999_500..999_500_000 => format!("{} ms", digits(ns as f64 / 1e6)),
        999_500_000..99_500_000_000 => format!("{} s", digits(ns as f64 / 1e9)),
        _ => clock(ns),
    }
}

/// A time that goes on: `0:42`, `2:11:05`.
pub fn clock(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// A part of a whole: `91 %`; of nothing, 0.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let percent = share(part, whole) * 100.0;
    if percent > 0.0 && percent < 0.5 { "<1 %".to_owned() } else { format!("{percent:.0} %") }
}

/// A part of a whole, from 0 to 1; of nothing, 0.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// `1 task`, `3 tasks`.
pub fn plural(number: u64, of: &str) -> String {
    format!("{} {of}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Columns that a text takes at a terminal.
pub fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

fn columns_of(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// As much of a text as fits into so many columns.
pub(crate) fn fitting(text: impl Iterator<Item = char>, width: usize) -> impl Iterator<Item = char> {
    text.scan(width, |left, c| {
        *left = left.checked_sub(columns_of(c))?;
        Some(c)
    })
}

/// A text that takes at most so many columns: what is too much is cut out of its middle.
pub fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let left = width.saturating_sub(2);
    let head: String = fitting(text.chars(), left - left / 2).collect();
    let tail: Vec<char> = fitting(text.chars().rev(), left / 2).collect();
    format!("{head}{}{}", &".."[..width.min(2)], tail.into_iter().rev().collect::<String>())
}

/// One line of a text of somebody else's: nothing in it moves a cursor, ends the line or turns its direction.
pub fn line(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect()
}

/// Whether a character is not seen, and says how others are written.
pub(crate) fn is_hidden(c: char) -> bool {
    let marks = ['\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2060}'..='\u{206f}', '\u{fff9}'..='\u{fffb}'];
    c.is_control() || matches!(c, '\u{ad}' | '\u{61c}' | '\u{feff}') || marks.iter().any(|marks| marks.contains(&c))
}

/// The first and the last bytes of a text that is too long.
pub(crate) fn ends(text: &str, each: usize) -> String {
    if text.len() <= 2 * each {
        return text.to_owned();
    }
    let first = (0..=each).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let last = (text.len() - each..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    format!("{}\n... {} bytes left out ...\n{}", &text[..first], last - first, &text[last..])
}

/// A text of so many bytes at most: of one that is too long the beginning, for what it says comes first.
pub(crate) fn begins(text: &str, most: usize) -> String {
    const CUT: &str = " ...";
    if text.len() <= most {
        return text.to_owned();
    }
    let room = most.saturating_sub(CUT.len());
    let first = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{CUT}", &text[..first])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let counts = [0, 9999, 10_000, 412_345, 999_999, 3_600_000, 59_900_000_000].map(count);
        assert_eq!(counts, ["0", "9999", "10 k", "412 k", "1 M", "3.6 M", "59.9 G"]);
        assert_eq!(
            [0, 1023, 1024, 327_155_712, 6_549_825_126].map(bytes),
            ["0 B", "1023 B", "1 KiB", "312 MiB", "6.1 GiB"]
        );
        let times = [900, 35_000_000, 2_100_000_000, 99_600_000_000, 7_865_000_000_000].map(time);
        assert_eq!(times, ["0.9 us", "35 ms", "2.1 s", "1:39", "2:11:05"]);
        assert_eq!([percent(1, 1000), percent(91, 100), percent(0, 0)], ["<1 %", "91 %", "0 %"]);
    }

    #[test]
    fn what_is_too_long_is_cut_in_the_middle_at_a_character() {
        assert_eq!(cut("lineitem", 8), "lineitem");
        assert_eq!(cut("lineitem", 6), "li..em");
        assert_eq!(cut("lineitem", 1), ".");
        let long = "ä".repeat(100);
        assert!(ends(&long, 5).starts_with("ää\n... 192 bytes"), "{}", ends(&long, 5));
        assert_eq!((begins(&long, 9).as_str(), begins("short", 5).as_str()), ("ää ...", "short"));
        assert_eq!(line("a\x1b[2Jb\nc"), "a [2Jb c");
        assert_eq!(line("gpj\u{202e}.exe\u{2028}\u{9b}2J"), "gpj .exe  2J");
    }

    #[test]
    fn what_takes_two_columns_counts_for_two() {
        assert_eq!((columns("船荷"), columns("e\u{301}")), (4, 1));
        assert_eq!(cut("船荷証券", 7), "船..券");
        assert_eq!(fitting("船荷".chars(), 3).collect::<String>(), "船");
    }
}
