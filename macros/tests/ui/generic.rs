extern crate regatta_macros as regatta;

#[regatta::udf]
fn same<T>(x: T) -> T {
    x
}

#[regatta::udf]
fn longest<'a>(x: &'a str, y: &'a str) -> &'a str {
    if x.len() < y.len() { y } else { x }
}

#[regatta::udf]
fn shown(x: impl ToString) -> String {
    x.to_string()
}

#[regatta::udf]
fn opaque(x: i64) -> impl Into<i64> {
    x
}

struct Scale<T>(T);

#[regatta::udf]
impl<T> Udf for Scale<T> {}

#[regatta::udf(types(Loud))]
impl Udf for Loud {}

#[regatta::udf(name = "scale", types(Scale<f32>, Scale<f64>))]
impl<T> Udf for Scale<T> {}

#[regatta::udf(types(i64))]
fn twice(x: i64) -> i64 {
    2 * x
}

fn main() {}
