//! Each example prints what it says that it does, in two processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The examples as they were built beside this test; built now if only this test was.
fn program(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let folder = test.ancestors().nth(2).unwrap(); // of target/debug/deps/this
    let program = folder.join("examples").join(name).with_extension(env::consts::EXE_EXTENSION);
    if !program.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "regatta-remote", "--features", "arrow", "--example", name])
            .args((folder.ends_with("release")).then_some("--release"))
            .status();
        assert!(built.unwrap().success());
    }
    program
}

#[test]
fn examples_print_what_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut ran = Vec::new();
    for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&file).unwrap();
        let said = text.split("```text\n").nth(1).unwrap().split("//! ```").next().unwrap();
        let said: String =
            said.lines().map(|line| line.trim_start_matches("//!").trim_start().to_owned() + "\n").collect();
        let output = Command::new(program(&name)).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {errors}");
        assert_eq!(printed, said, "{name}: {errors}");
        ran.push(name);
    }
    ran.sort();
    assert_eq!(ran, ["ask", "batches", "stream", "supervise", "watch"]);
}
