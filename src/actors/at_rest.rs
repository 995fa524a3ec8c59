//! What a simulation asks of a scheduler when all is over.

use actix::{Handler, Message, MessageResult};

use super::SchedulerActor;

/// What is left of queries that have ended, in words.
pub(crate) struct Left;

impl Message for Left {
    type Result = Vec<String>;
}

impl Handler<Left> for SchedulerActor {
    type Result = MessageResult<Left>;

    fn handle(&mut self, _: Left, _: &mut Self::Context) -> Self::Result {
        let mut left = self.core.left();
        left.extend(self.queries.keys().map(|query| format!("{query} is not forgotten")));
        MessageResult(left)
    }
}
