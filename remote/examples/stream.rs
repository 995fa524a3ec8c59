//! An actor answers by a stream, which goes no faster than it is taken. `cargo run -p regatta-remote --example stream`
//!
//! ```text
//! 0 1 4 9 16 25 36 49 64 81
//! nobody wants more: the producer stops
//! ```

mod two;

use std::error::Error;
use std::fmt::Write;

use futures_util::stream;
use regatta_remote::actix::{Actor, Context, Handler};
use regatta_remote::{ActorId, Address, Items, Role};
use serde::{Deserialize, Serialize};
use two::SOON;

#[derive(Serialize, Deserialize)]
struct Squares;

regatta_remote::messages! {
    0x0001 Squares => stream u64,
}

struct Mathematician;

impl Actor for Mathematician {
    type Context = Context<Self>;
}

impl Handler<Squares> for Mathematician {
    type Result = Items<u64>;

    fn handle(&mut self, _: Squares, _: &mut Context<Self>) -> Items<u64> {
        // There is no end of them: each is made when there is room for it.
        Items::of(stream::iter((0..).map(|n: u64| n.wrapping_mul(n))))
    }
}

const MATHEMATICIAN: ActorId = ActorId(1);

fn main() -> Result<(), Box<dyn Error>> {
    two::processes(
        |node, arbiter| {
            let actor = arbiter.spawn(16, |_| Mathematician);
            node.publish(MATHEMATICIAN, &actor).on::<Squares>(&[Role::Head]);
        },
        async |node, worker| {
            let actor = node.actor::<Mathematician>(Address { node: worker, actor: MATHEMATICIAN });
            let mut squares = actor.stream(Squares, SOON).await?;
            let mut line = String::new();
            for _ in 0..10 {
                let square = squares.next().await?.ok_or("it has no end")?;
                write!(line, "{square} ")?;
            }
            println!("{}", line.trim_end());
            drop(squares);
            println!("nobody wants more: the producer stops");
            Ok(())
        },
    )
}
