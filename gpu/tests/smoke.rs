//! `gpu_smoke` on the fakes: all that it checks holds there, and nothing that it does outruns the order of streams. That is no
//! test of a GPU. Without a driver it says so.

use std::process::{Command, Output};

fn smoke(args: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gpu_smoke")).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn every_check_holds_on_the_fakes() {
    let fakes = regatta_fakes::folder();
    let (output, text) = smoke(&["--fakes", fakes.to_str().unwrap()]);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), 13, "{text}");
    assert!(text.contains("FAKE"), "{text}");
}

#[test]
fn without_a_driver_it_says_so_and_fails() {
    if regatta_gpu::driver_present() {
        return;
    }
    let (output, text) = smoke(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("FAIL  device: no CUDA driver"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}
