//! `top` at a terminal: it shows the cluster, hears keys, and leaves the terminal as it was.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use regatta_observe::Order;
use regatta_remote::Role;

use crate::common::*;

#[test]
fn top_shows_the_cluster_cancels_by_a_key_and_leaves_the_terminal_as_it_was() {
    let made = Made::new(view(), profile());
    let top = format!("stty rows 24 cols 80; exec {} top", env!("CARGO_BIN_EXE_regatta"));
    let mut script = Command::new("script");
    script.args(["-qec", &top, "/dev/null"]).env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
    script.env("REGATTA_ADDRESS", made.address()).env("REGATTA_TOKEN", made.token(Role::Operator));
    let child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = Running(child.expect("script, of util-linux, gives a program a terminal"));
    let (mut keys, mut screen) = (child.0.stdin.take().unwrap(), child.0.stdout.take().unwrap());
    let mut seen = String::new();
    let mut until = |what: &str| {
        let mut piece = [0; 4096];
        while !seen.contains(what) {
            let read = screen.read(&mut piece).unwrap();
            assert!(read > 0, "it ended before it showed {what:?}: {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        std::mem::take(&mut seen)
    };
    let first = until("nightly:");
    assert!(first.contains("\x1b[?1049h") && first.contains("7.5/12"), "{first:?}");
    keys.write_all(b"c").unwrap();
    until("yes;");
    keys.write_all(b"y").unwrap();
    until("cancelled");
    assert_eq!(made.orders(), [Order::Cancel { query: view().queries[0].id.clone() }]);
    keys.write_all(b"q").unwrap();
    let last = until("\x1b[?1049l");
    assert!(last.contains("\x1b[?25h"), "the cursor is shown again: {last:?}");
    drop(keys);
    assert!(child.0.wait().unwrap().success());
}
