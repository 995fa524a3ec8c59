//! `gpu_smoke` on the fakes: all that it checks holds there, and nothing that it does outruns the order of streams. That is no
//! test of a GPU. Without a driver it says so.

use std::os::unix::fs::symlink;
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
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), 14, "{text}");
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

#[test]
fn the_fake_driver_is_refused_where_it_was_not_asked_for() {
    let mut smoke = Command::new(env!("CARGO_BIN_EXE_gpu_smoke"));
    let output = smoke.env("LD_LIBRARY_PATH", regatta_fakes::folder()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.contains("Regatta's fake one, which is for tests only"), "{text}");
}

/// A driver alone, as on a machine without a toolkit, and then with the compiler too.
#[test]
fn where_a_library_is_missing_the_checks_that_need_it_name_it_and_the_others_hold() {
    let (fakes, some) = (regatta_fakes::folder(), tempfile::tempdir().unwrap());
    let folder = some.path().to_str().unwrap();
    let blas = ("libcublasLt.so", 3);
    for (library, missing) in [("libcuda.so", vec![("libnvrtc.so", 7), blas]), ("libnvrtc.so.13", vec![blas])] {
        symlink(fakes.join(library), some.path().join(library)).unwrap();
        let (output, text) = smoke(&["--fakes", folder, "--once"]);
        for (library, checks) in &missing {
            let said = format!("{library} cannot be loaded; looked in {folder}");
            let names = |line: &&str| line.starts_with("FAIL ") && line.contains(&said) && line.contains("; install ");
            assert_eq!(text.lines().filter(names).count(), *checks, "{text}");
        }
        let failures: usize = missing.iter().map(|(_, checks)| checks).sum();
        assert_eq!(output.status.code(), i32::try_from(failures).ok(), "{text}");
        assert!(text.starts_with("ok    device: FAKE"), "{text}");
    }
}
