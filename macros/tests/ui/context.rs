extern crate regatta_macros as regatta;

#[regatta::udf]
fn alone(cx: &Context) -> i64 {
    1
}

#[regatta::udf]
fn owned(cx: Context, x: i64) -> i64 {
    x
}

#[regatta::udf]
fn mutable(cx: &mut regatta::Context, x: i64) -> i64 {
    x
}

#[regatta::udf(dtype = DataType::Int64)]
fn last(x: &Series, cx: &Context) -> Series {
    x.clone()
}

#[regatta::udf]
async fn twice(cx: &Context, again: &Context, x: i64) -> i64 {
    x
}

fn main() {}
