extern crate regatta_macros as regatta;

struct Acquire;

#[regatta::actor]
struct Deaf;

#[regatta::actor(Acquire)]
fn function() {}

#[regatta::actor(Acquire)]
struct Generic<T>(T);

#[regatta::actor(Acquire, name = "")]
struct Nameless;

#[regatta::actor(Acquire, role = "head")]
struct Unknown;

#[regatta::actor(Acquire, name = "a", name = "b")]
struct Twice;

fn main() {}
