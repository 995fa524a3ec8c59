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
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), 15, "{text}");
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

/// A launch that does nothing, once or after a while, is seen by each check that it is a part of: results of before do not pass
/// for those of now.
#[test]
fn a_launch_that_does_nothing_fails_each_check_that_waits_for_its_result() {
    let fakes = regatta_fakes::folder();
    // How many pieces the runs have that come before: four each.
    let cases: [(&str, u32, &[&str]); 5] = [
        ("saxpy", 0, &["kernel", "pipeline", "pinned memory"]),
        ("saxpy", 1, &["pipeline", "pinned memory"]),
        ("sums", 0, &["shuffles"]),
        ("slow", 0, &["overlap"]),
        ("slow", 4, &["overlap"]),
    ];
    for (kernel, runs, checks) in cases {
        let mut smoke = Command::new(env!("CARGO_BIN_EXE_gpu_smoke"));
        smoke.args(["--fakes", fakes.to_str().unwrap(), "--once"]).env("FAKE_CUDA_IDLE", format!("{kernel}:{runs}"));
        let text = String::from_utf8_lossy(&smoke.output().unwrap().stdout).into_owned();
        let failed = text.lines().filter_map(|line| line.strip_prefix("FAIL  ")?.split_once(':'));
        assert_eq!(failed.map(|(check, _)| check).collect::<Vec<_>>(), checks, "{kernel} {runs} times: {text}");
    }
}

/// Libraries of the names that cudarc would open first, which are others.
#[test]
fn cublaslt_is_the_file_that_was_chosen_and_not_one_of_that_name_on_the_loaders_path() {
    let (fakes, others) = (regatta_fakes::folder(), tempfile::tempdir().unwrap());
    for name in ["libcublasLt.so", "libcublasLt64.so", "libcublasLt.so.13"] {
        symlink(fakes.join("libnvrtc.so.13").canonicalize().unwrap(), others.path().join(name)).unwrap();
    }
    let mut smoke = Command::new(env!("CARGO_BIN_EXE_gpu_smoke"));
    smoke.args(["--fakes", fakes.to_str().unwrap(), "--once"]).env("LD_LIBRARY_PATH", others.path());
    let output = smoke.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let file = fakes.join("libcublasLt.so.13");
    let by_it =
        |line: &&str| line.starts_with("ok    product: ") && line.contains(&format!(" by {}, ", file.display()));
    assert_eq!(text.lines().filter(by_it).count(), 3, "{text}{}", String::from_utf8_lossy(&output.stderr));
}
