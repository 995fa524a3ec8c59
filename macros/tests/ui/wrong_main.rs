extern crate regatta_macros as regatta;

#[regatta::main]
fn start() {}

#[regatta::main]
async fn main() {}
