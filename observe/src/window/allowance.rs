//! How much a viewer may ask for, so that one who reads nothing, or asks without end, costs little. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

/// Who looks, and what each of them has been given.
#[derive(Debug)]
pub(super) struct Allowance<K>(BTreeMap<K, Viewer>);

#[derive(Debug, Default)]
struct Viewer {
    under_way: u32,
    /// Bytes that it was given, less what is forgotten with time.
    given: u64,
    since: Duration,
}

/// Viewers at a time.
const VIEWERS: usize = 64;
/// Questions of one that are answered at a time.
const UNDER_WAY: u32 = 4;
/// Bytes that one may be given at once, and for how many more each second.
const BURST: u64 = 4 << 20;
const EACH_SECOND: u64 = 256 << 10;

impl<K> Default for Allowance<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy> Allowance<K> {
    /// A viewer asks.
    ///
    /// # Errors
    /// Why it is not answered, in words.
    pub(super) fn begin(&mut self, viewer: K, now: Duration) -> Result<(), String> {
        if !self.0.contains_key(&viewer) && self.0.len() >= VIEWERS {
            self.0.retain(|_, viewer| !viewer.is_forgotten(now));
            if self.0.len() >= VIEWERS {
                return Err(format!("{VIEWERS} look at this cluster already: try again when one of them has left"));
            }
        }
        let viewer = self.0.entry(viewer).or_default();
        viewer.forget(now);
        if viewer.under_way >= UNDER_WAY {
            return Err(format!("{UNDER_WAY} questions of yours are being answered: wait for them"));
        }
        if viewer.given >= BURST {
            let (burst, each) = (crate::text::bytes(BURST), crate::text::bytes(EACH_SECOND));
            return Err(format!("you were given {burst} of late, and get {each} a second: ask less often"));
        }
        viewer.under_way += 1;
        Ok(())
    }

    /// It was answered by so many bytes, or went away.
    pub(super) fn end(&mut self, viewer: K, bytes: usize, now: Duration) {
        if let Some(viewer) = self.0.get_mut(&viewer) {
            viewer.forget(now);
            viewer.under_way = viewer.under_way.saturating_sub(1);
            viewer.given += bytes as u64;
        }
    }
}

impl Viewer {
    fn forget(&mut self, now: Duration) {
        let forgotten = now.saturating_sub(self.since).as_millis().saturating_mul(EACH_SECOND.into()) / 1000;
        self.given = self.given.saturating_sub(u64::try_from(forgotten).unwrap_or(u64::MAX));
        self.since = now;
    }

    fn is_forgotten(&mut self, now: Duration) -> bool {
        self.forget(now);
        self.under_way == 0 && self.given == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(5);

    #[test]
    fn a_viewer_has_few_questions_at_a_time_and_gets_so_many_bytes_a_second() {
        let mut all = Allowance::default();
        (0..UNDER_WAY).for_each(|_| all.begin(1, NOW).unwrap());
        let why = all.begin(1, NOW).unwrap_err();
        assert!(why.contains("4 questions of yours"), "{why}");
        all.begin(2, NOW).unwrap();
        all.end(1, BURST as usize, NOW);
        let why = all.begin(1, NOW).unwrap_err();
        assert!(why.contains("4 MiB of late, and get 256 KiB a second"), "{why}");
        all.begin(1, NOW + Duration::from_millis(10)).unwrap();
        all.end(1, BURST as usize, NOW + Duration::from_secs(1));
        assert!(all.begin(1, NOW + Duration::from_secs(15)).is_err());
        all.begin(1, NOW + Duration::from_secs(17)).unwrap();
    }

    #[test]
    fn there_is_room_for_so_many_viewers_and_those_who_have_left_make_room() {
        let mut all = Allowance::default();
        for viewer in 0..VIEWERS {
            all.begin(viewer, NOW).unwrap();
            all.end(viewer, if viewer == 0 { 0 } else { 4096 }, NOW);
        }
        all.begin(1000, NOW).unwrap();
        let why = all.begin(1001, NOW).unwrap_err();
        assert!(why.contains("64 look at this cluster already"), "{why}");
        all.begin(1001, NOW + Duration::from_secs(1)).unwrap();
        assert_eq!(all.0.len(), 2);
    }
}
