//! Who watches an actor hears how it ended, wherever it is. `cargo run -p regatta-remote --example watch`
//!
//! ```text
//! the first: stopped
//! the second: node lost
//! ```
//!
//! The second takes ten seconds: a process that ends without a goodbye is missed when it has been silent for so long.

mod two;

use std::error::Error;

use regatta_remote::actix::{Actor, ActorContext, Context, Handler};
use regatta_remote::{ActorId, Address, Down, RemoteMessage, Role};
use serde::{Deserialize, Serialize};
use two::SOON;

/// Stop.
#[derive(Serialize, Deserialize, RemoteMessage)]
#[message(id = 0x0001, reply = ())]
struct Stop;

/// End the whole process.
#[derive(Serialize, Deserialize, RemoteMessage)]
#[message(id = 0x0002, reply = ())]
struct Crash;

struct Boat;

impl Actor for Boat {
    type Context = Context<Self>;
}

impl Handler<Stop> for Boat {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

impl Handler<Crash> for Boat {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Context<Self>) {
        std::process::exit(0);
    }
}

const BOATS: [ActorId; 2] = [ActorId(1), ActorId(2)];

fn main() -> Result<(), Box<dyn Error>> {
    two::processes(
        |node, arbiter| {
            for id in BOATS {
                let boat = arbiter.spawn(16, |_| Boat);
                node.publish(id, &boat).on::<Stop>(&[Role::Head]).on::<Crash>(&[Role::Head]);
            }
        },
        async |node, worker| {
            let [first, second] = BOATS.map(|actor| node.actor::<Boat>(Address { node: worker, actor }));
            first.ask(Stop, SOON).await?;
            println!("the first: {}", first.down().await);
            second.tell(Crash, SOON).await?;
            match second.down().await {
                // The cause, in the words of the network, is of use in a log.
                Down::NodeLost { .. } => println!("the second: node lost"),
                other => println!("the second: {other}"),
            }
            Ok(())
        },
    )
}
