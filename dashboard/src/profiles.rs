//! The profiles of the queries that are looked at: of each the newest, asked for again when that is due.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use regatta_observe::{Answer, Ask, Profile, QueryState, Refusal};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Source;
use crate::asking::{pause, unexpected};

pub(crate) struct Profiles {
    source: Arc<dyn Source>,
    /// The one that was looked at last comes last.
    kept: std::sync::Mutex<VecDeque<(String, Arc<Mutex<Kept>>)>>,
}

#[derive(Default)]
struct Kept(Option<(Instant, Arc<Profile>)>);

/// Queries whose profiles are kept.
const QUERIES: usize = 4;
/// That of one that runs is asked for no more often than this; of one that has ended, seldom.
const RUNS: Duration = Duration::from_secs(2);
const ENDED: Duration = Duration::from_secs(60);

impl Profiles {
    pub(crate) fn new(source: Arc<dyn Source>) -> Self {
        Self { source, kept: std::sync::Mutex::default() }
    }

    /// What a query did, a few seconds ago at most.
    pub(crate) async fn profile(&self, query: &str) -> Result<Arc<Profile>, Refusal> {
        let kept = self.kept(query);
        // Others wait here while one asks, and then find the answer.
        let mut kept = kept.lock().await;
        if let Some((_, profile)) = kept.0.as_ref().filter(|(due, _)| Instant::now() < *due) {
            return Ok(Arc::clone(profile));
        }
        let began = Instant::now();
        let answer = self.source.look(Ask::Profile { query: query.to_owned() }).await?;
        let Answer::Profile(profile) = answer else {
            return Err(unexpected());
        };
        let profile: Arc<Profile> = Arc::from(profile);
        let least = if profile.query.state == QueryState::Running { RUNS } else { ENDED };
        kept.0 = Some((Instant::now() + pause(began.elapsed(), least), Arc::clone(&profile)));
        Ok(profile)
    }

    fn kept(&self, query: &str) -> Arc<Mutex<Kept>> {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|(of, _)| of == query);
        let this = at.and_then(|at| all.remove(at)).unwrap_or_else(|| (query.to_owned(), Arc::default()));
        let kept = Arc::clone(&this.1);
        all.push_back(this);
        while all.len() > QUERIES {
            all.pop_front();
        }
        kept
    }
}
