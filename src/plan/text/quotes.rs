//! Whether the quotes of some lines stand where fields begin and end.

/// What is known of quotes before some byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) is_inside: bool,
    /// Whether the last that opened did so in the midst of a field, and what follows may belong to it.
    is_stray: bool,
}

impl State {
    /// Where a field begins.
    pub(super) const FIELD: Self = Self { is_inside: false, is_stray: false };

    /// Those that there may be behind this byte.
    pub(super) fn some(before: u8, quote: u8) -> Vec<Self> {
        let inside = |is_stray| Self { is_inside: true, is_stray };
        let mut some = vec![Self::FIELD, inside(false), inside(true)];
        if before == quote {
            some.push(Self { is_inside: false, is_stray: true });
        }
        some
    }
}

/// Takes bytes by and by.
///
/// Polars ends a field that begins with a quote outside of quotes, and any other at the next separator or end of a line. Both are found
/// by counting quotes if no such byte stands inside of quotes that open in the midst of a field.
pub(super) struct Quotes {
    quote: u8,
    ends: [u8; 2],
    is_inside: bool,
    is_stray: bool,
    /// Whether the last byte was one of `ends`, or a quote.
    after_end: u64,
    after_quote: u64,
}

impl Quotes {
    pub(super) fn new(quote: u8, ends: [u8; 2], State { is_inside, is_stray }: State, before: u8) -> Self {
        let (after_end, after_quote) = (u64::from(ends.contains(&before)), u64::from(before == quote));
        Self { quote, ends, is_inside, is_stray, after_end, after_quote }
    }

    pub(super) fn state(&self) -> State {
        State { is_inside: self.is_inside, is_stray: self.is_stray && (self.is_inside || self.after_quote == 1) }
    }

    /// Whether those of the bytes that follow stand where they should.
    pub(super) fn are_sound_in(&mut self, bytes: &[u8]) -> bool {
        bytes.chunks(64).all(|block| self.are_sound_in_block(block))
    }

    /// Looks at each bit for a byte, as most blocks have no quote that is stray.
    fn are_sound_in_block(&mut self, block: &[u8]) -> bool {
        let mut bytes = [0; 64];
        bytes[..block.len()].copy_from_slice(block);
        let known = u64::MAX >> (64 - block.len());
        let quotes = mask(&bytes, self.quote) & known;
        let last = block.len() - 1;
        if quotes == 0 && !(self.is_inside && self.is_stray) {
            (self.after_end, self.after_quote) = (u64::from(self.ends.contains(&block[last])), 0);
            return true;
        }
        let ends = (mask(&bytes, self.ends[0]) | mask(&bytes, self.ends[1])) & known;
        let mut inside = [1, 2, 4, 8, 16, 32].into_iter().fold(quotes, |odd, by| odd ^ odd << by);
        if self.is_inside {
            inside = !inside;
        }
        // Two quotes stand for one within a field, whether that began with one or not.
        let before = (quotes << 1) | self.after_quote;
        let stray = quotes & inside & !before & !((ends << 1) | self.after_end);
        let is_sound = (stray == 0 && !self.is_stray) || self.do_none_end(quotes, ends, before, stray);
        (self.after_end, self.after_quote) = ((ends >> last) & 1, (quotes >> last) & 1);
        self.is_inside = inside >> 63 == 1;
        is_sound
    }

    /// Whether no field ends inside of stray quotes.
    fn do_none_end(&mut self, mut quotes: u64, ends: u64, before: u64, stray: u64) -> bool {
        // Bytes from here on are inside, or not.
        let (mut from, mut is_inside) = (u64::MAX, self.is_inside);
        while quotes != 0 {
            let quote = quotes & quotes.wrapping_neg();
            if is_inside && self.is_stray && ends & from & (quote - 1) != 0 {
                return false;
            }
            is_inside = !is_inside;
            if is_inside && before & quote == 0 {
                self.is_stray = stray & quote != 0;
            }
            from = !(quote | (quote - 1));
            quotes ^= quote;
        }
        !(is_inside && self.is_stray && ends & from != 0)
    }
}

/// A bit for each byte that is this one.
fn mask(bytes: &[u8; 64], byte: u8) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([0x7f; 8]);
    let same = u64::from_ne_bytes([byte; 8]);
    let of_eight = |eight: &[u8; 8]| {
        let other = u64::from_le_bytes(*eight) ^ same;
        // The highest bit of each byte without any, and these together.
        let none = !(((other & LOW) + LOW) | other | LOW);
        (none >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    };
    bytes.as_chunks().0.iter().enumerate().fold(0, |mask, (at, eight)| mask | (of_eight(eight) << (8 * at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte by byte.
    fn are_sound(bytes: &[u8]) -> bool {
        let (mut before, mut is_inside, mut is_stray) = (b'\n', false, false);
        for byte in bytes {
            let is_end = |byte| byte == b'\n' || byte == b',';
            if is_end(*byte) && is_inside && is_stray {
                return false;
            }
            if *byte == b'"' {
                is_inside = !is_inside;
                if is_inside && before != b'"' {
                    is_stray = !is_end(before);
                }
            }
            before = *byte;
        }
        true
    }

    #[test]
    fn blocks_are_looked_at_as_bytes_are() {
        let mut state = 7u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let (mut sound, mut unsound) = (0, 0);
        for _ in 0..20_000 {
            // Fields, a few of which hold quotes that they do not begin with.
            let mut text = String::new();
            while text.len() < 150 {
                text += ["a", "7\" x 7\"", "\"b,\n\"\"\"", "\"\"", "{\"k\": \"\"}", "", "ccccccccccccccccccccc"]
                    [below(7) as usize];
                if below(60) == 0 {
                    text += ["\"", "x\"", ",\"", "ÿ\"\""][below(4) as usize];
                }
                text += [",", ",", "\n"][below(3) as usize];
            }
            let begin = |state, before| Quotes::new(b'"', *b"\n,", state, before);
            let (mut quotes, mut is_sound, mut rest) = (begin(State::FIELD, b'\n'), true, text.as_bytes());
            while !rest.is_empty() {
                let (some, others) = rest.split_at(rest.len().min(1 + below(130) as usize));
                is_sound = is_sound && quotes.are_sound_in(some);
                rest = others;
                // Who goes on from there need not have seen what was before.
                let before = some[some.len() - 1];
                assert!(!is_sound || State::some(before, b'"').contains(&quotes.state()), "{text:?}");
                quotes = begin(quotes.state(), before);
            }
            assert_eq!(is_sound, are_sound(text.as_bytes()), "{text:?}");
            *(if is_sound { &mut sound } else { &mut unsound }) += 1;
        }
        assert!(sound > 1000 && unsound > 1000, "{sound}, {unsound}");
    }
}
