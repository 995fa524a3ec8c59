//! An actor that panics is built again, and its handles stay good. `cargo run -p regatta-remote --example supervise`
//!
//! ```text
//! 1, then 2
//! the third could not be counted: the actor panicked
//! it was built anew: 1
//! ```

mod two;

use std::error::Error;

use regatta_remote::actix::{Actor, Context, Handler};
use regatta_remote::{ActorId, Address, AskError, RemoteMessage, Restarts, Role};
use serde::{Deserialize, Serialize};
use two::SOON;

/// Count one more, and say how many there are.
#[derive(Serialize, Deserialize, RemoteMessage)]
#[message(id = 0x0001, reply = u32)]
struct Count;

struct Counter(u32);

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Handler<Count> for Counter {
    type Result = u32;

    fn handle(&mut self, _: Count, _: &mut Context<Self>) -> u32 {
        self.0 += 1;
        assert!(self.0 < 3, "this counter cannot count to three");
        self.0
    }
}

const COUNTER: ActorId = ActorId(1);

fn main() -> Result<(), Box<dyn Error>> {
    two::processes(
        |node, arbiter| {
            let counter = arbiter.supervise(16, Restarts::default(), |_| Counter(0));
            node.publish(COUNTER, &counter).on::<Count>(&[Role::Head]);
        },
        async |node, worker| {
            let counter = node.actor::<Counter>(Address { node: worker, actor: COUNTER });
            println!("{}, then {}", counter.ask(Count, SOON).await?, counter.ask(Count, SOON).await?);
            match counter.ask(Count, SOON).await {
                // What the panic said, and where, comes with it.
                Err(AskError::Panicked { .. }) => println!("the third could not be counted: the actor panicked"),
                other => println!("the third: {other:?}"),
            }
            println!("it was built anew: {}", counter.ask(Count, SOON).await?);
            Ok(())
        },
    )
}
