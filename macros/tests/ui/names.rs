extern crate regatta_macros as regatta;

#[regatta::udf(name = "")]
fn nameless(x: i64) -> i64 {
    x
}

#[regatta::udf(name = "loud!")]
fn loud(x: i64) -> i64 {
    x
}

#[regatta::udf]
fn str(x: i64) -> i64 {
    x
}

#[regatta::udf(title = "x")]
fn titled(x: i64) -> i64 {
    x
}

fn main() {}
