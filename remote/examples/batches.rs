//! Arrow batches are fields of messages, of any size. `cargo run -p regatta-remote --features arrow --example batches`
//!
//! A large one goes by a connection of its own, beside its message: messages to other actors pass it.
//!
//! ```text
//! 2 rows add up to 5
//! 1000000 rows add up to 499999500000
//! ```

mod two;

use std::error::Error;
use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch};
use regatta_remote::actix::{Actor, Context, Handler};
use regatta_remote::{ActorId, Address, Batch, RemoteMessage, Role};
use serde::{Deserialize, Serialize};
use two::SOON;

#[derive(Serialize, Deserialize, RemoteMessage)]
#[message(id = 0x0001, reply = i64)]
struct Sum(Batch);

struct Adder;

impl Actor for Adder {
    type Context = Context<Self>;
}

impl Handler<Sum> for Adder {
    type Result = i64;

    fn handle(&mut self, Sum(batch): Sum, _: &mut Context<Self>) -> i64 {
        let numbers = batch.column(0).as_any().downcast_ref::<Int64Array>();
        numbers.map_or(0, |numbers| numbers.values().iter().sum())
    }
}

const ADDER: ActorId = ActorId(1);

fn main() -> Result<(), Box<dyn Error>> {
    two::processes(
        |node, arbiter| {
            let actor = arbiter.spawn(16, |_| Adder);
            node.publish(ADDER, &actor).on::<Sum>(&[Role::Head]);
        },
        async |node, worker| {
            let adder = node.actor::<Adder>(Address { node: worker, actor: ADDER });
            for numbers in [Int64Array::from(vec![2, 3]), Int64Array::from_iter_values(0..1_000_000)] {
                let rows = numbers.len();
                let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as Arc<dyn Array>)])?;
                println!("{rows} rows add up to {}", adder.ask(Sum(batch.into()), SOON).await?);
            }
            Ok(())
        },
    )
}
