//! Two sessions in one program, at the same time: one of worker processes of its own, one in this process. Each has its own
//! tables, queries and end.

use std::thread;

use regatta::{polars::prelude::*, prelude::*};

/// How far a boat comes in an hour, in kilometres.
#[regatta::udf]
fn kilometres(knots: f64) -> f64 {
    knots * 1.852
}

fn fastest(session: &Session) -> Result<DataFrame, regatta::Error> {
    let fleet = session.sql("SELECT boat, MAX(knots) AS knots FROM legs GROUP BY boat ORDER BY boat")?;
    fleet.with_column(kilometres::on([col("knots")]).alias("km/h")).collect_on(session)
}

#[regatta::main]
fn main() -> Result<(), regatta::Error> {
    // DAFT_RUNNER says where the first one is: native, or flotilla for worker processes.
    let (first, second) = (Session::from_env()?, Session::native()?);
    let legs = |boats: [&str; 3]| df!["boat" => boats, "knots" => [7.5, 9.0, 6.0]].map(IntoLazy::lazy);
    first.register("legs", legs(["Ayu", "Bora", "Ayu"]).expect("columns of one length"));
    second.register("legs", legs(["Caya", "Dalu", "Dalu"]).expect("columns of one length"));

    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| fastest(&first));
        (one.join(), fastest(&second))
    });
    println!("{}\n{}", one.expect("no panic")?, other?);

    drop(first);
    println!("the second session does not care that the first has ended:\n{}", fastest(&second)?);
    Ok(())
}
