//! The actors that a replica has found in `start` and keeps: it may outlive them, and then others have their names.

use std::cell::RefCell;
use std::collections::BTreeSet;

use regatta_remote::Address;
use serde::{Deserialize, Serialize};

use super::{Call, UdfError, UdfResult};
use crate::actor::{Directory, LOOK_UP};
use crate::sched::QueryId;

/// Which actor had each name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found(Vec<(String, Address)>);

/// What a replica has found, and the queries for which that was looked at since.
#[derive(Debug, Default)]
pub(super) struct Keeps {
    found: Found,
    looked: RefCell<BTreeSet<QueryId>>,
}

/// Queries that are remembered; then all are forgotten, and one look each is all that it costs.
const REMEMBERED: usize = 1000;

impl Found {
    pub(super) fn add(&mut self, name: &str, address: Option<Address>) {
        self.0.extend(address.map(|address| (name.to_owned(), address)));
    }

    /// Whether each name is that actor's still.
    pub(super) async fn stands(self, directory: &Directory) -> bool {
        let Some(Ok((names, runtime))) = directory.as_ref().map(|directory| directory.names()) else { return false };
        let looked = runtime.spawn(async move {
            for (name, address) in self.0 {
                // Whatever else it is, `start` is to hear it.
                if names.locate(&name, LOOK_UP).await.ok() != Some(address) {
                    return false;
                }
            }
            true
        });
        looked.await.unwrap_or(false)
    }

    /// [`stands`](Self::stands), for a plain thread.
    pub(super) fn stands_blocking(self, directory: &Directory) -> UdfResult<bool> {
        let Some((_, runtime)) = directory.as_ref().map(|directory| directory.names()).transpose()? else {
            return Ok(false);
        };
        let (told, answer) = std::sync::mpsc::sync_channel(1);
        let directory = directory.clone();
        runtime.spawn(async move { told.send(self.stands(&directory).await) });
        answer.recv().map_err(|_| UdfError::new("the session is closed"))
    }
}

impl Keeps {
    pub(super) fn new(found: Found) -> Self {
        Self { found, looked: RefCell::default() }
    }

    /// What is to be looked at before this call, if anything is: with the first of each query, and when one has failed.
    pub(super) fn to_look_at(&self, call: Call) -> Option<Found> {
        let known = call.attempt == 1 && call.of.is_none_or(|step| self.looked.borrow().contains(&step.query));
        (!known && !self.found.0.is_empty()).then(|| self.found.clone())
    }

    /// All is as it was.
    pub(super) fn looked(&self, call: Call) {
        let mut looked = self.looked.borrow_mut();
        if looked.len() >= REMEMBERED {
            looked.clear();
        }
        looked.extend(call.of.map(|step| step.query));
    }
}
