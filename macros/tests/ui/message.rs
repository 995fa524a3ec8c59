extern crate regatta_macros as regatta;

#[derive(regatta::Message)]
struct Numberless;

#[derive(regatta::Message)]
#[message(reply = u32)]
struct StillNumberless;

#[derive(regatta::Message)]
#[message(id = 0x1_0000_0000)]
struct TooLarge;

#[derive(regatta::Message)]
#[message(id = "five")]
struct Text;

#[derive(regatta::Message)]
#[message(id = 1, answer = u32)]
struct Unknown;

#[derive(regatta::Message)]
#[message(id = 1, id = 2)]
struct Twice;

#[derive(regatta::Message)]
#[message(id = 1)]
struct Generic<T>(T);

#[derive(regatta::Message)]
#[message(id = 1)]
union Either {
    a: u32,
}

fn main() {}
