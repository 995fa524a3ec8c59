//! The kernels of the examples, and of the programs for a machine with a GPU, without one: NVRTC makes machine code of them for each kind of device, within their budgets
//! of registers and without spills; and what they compute, built for the host from the same source, is what plain Rust
//! computes. What this cannot see: races within a warp, the memory model, speed.

mod host;

use std::process::Command;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use host::{HostKernels, arg, at, at_mut};
use regatta_fakes::numbers;
use regatta_gpu::{Arch, CubinCache, KernelSource, Nvrtc, check_image, search_dirs};

const ARCHS: [u32; 7] = [75, 80, 86, 89, 90, 100, 120];

fn saxpy() -> KernelSource {
    KernelSource::new("saxpy.cu", include_str!("../../examples/saxpy/saxpy.cu"))
}

fn top_k() -> KernelSource {
    KernelSource::new("top_k.cu", include_str!("../../examples/top_k/top_k.cu"))
}

fn resize() -> KernelSource {
    KernelSource::new("resize.cu", include_str!("../../examples/resize/resize.cu"))
}

fn encoder() -> KernelSource {
    let source = KernelSource::new("encoder.cu", include_str!("../../examples/embed/src/gpu/encoder.cu"));
    source.define("HIDDEN", 384).define("HEADS", 12)
}

/// The most registers that each kernel may use on any device.
fn budgets() -> Vec<(KernelSource, Vec<(&'static str, u32)>)> {
    let encoder_kernels = vec![
        ("embed", 64),
        ("split_heads", 32),
        ("merge_heads", 32),
        ("softmax", 40),
        ("add_and_normalise", 64),
        ("bias_gelu", 40),
        ("mean_pool", 64),
        ("count_tokens", 32),
    ];
    let smoke = KernelSource::new("gpu_smoke.cu", include_str!("../src/bin/gpu_smoke.cu"));
    let runtime = KernelSource::new("gpu_runtime.cu", include_str!("../../benches/gpu_runtime.cu"));
    vec![
        (saxpy(), vec![("saxpy", 32)]),
        (top_k(), vec![("top_k", 64), ("normalise", 48)]),
        (resize(), vec![("resize", 64)]),
        (encoder(), encoder_kernels),
        (smoke, vec![("saxpy", 32), ("sums", 32), ("slow", 32), ("poison", 16), ("breaks", 16)]),
        (runtime, vec![("saxpy", 32)]),
    ]
}

/// NVIDIA's compiler, or none with a message; with REQUIRE_NVRTC=1 none is an error.
fn nvrtc() -> Option<&'static Nvrtc> {
    match Nvrtc::get(None) {
        Ok(nvrtc) => Some(nvrtc),
        Err(missing) => {
            assert!(std::env::var_os("REQUIRE_NVRTC").is_none_or(|value| value != "1"), "{missing}");
            eprintln!("SKIPPED: {missing}");
            None
        }
    }
}

/// This test binary where there is no library of NVIDIA to be found.
#[test]
fn without_the_compiler_its_tests_say_that_they_are_skipped_and_fail_where_it_is_required() {
    let home = std::env::var("HOME").unwrap_or_default();
    if search_dirs().iter().any(|dir| !dir.starts_with(&home) && dir.join("libnvrtc.so").exists()) {
        return eprintln!("SKIPPED: a toolkit is installed for the whole machine");
    }
    let empty = tempfile::tempdir().unwrap();
    let run = |required: &str| {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["a_device_newer_than_the_compiler_gets_ptx", "--nocapture"]).env("REQUIRE_NVRTC", required);
        test.env("HOME", empty.path());
        for name in ["XDG_CACHE_HOME", "REGATTA_CUDA_LIBS", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"] {
            test.env_remove(name);
        }
        let output = test.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (passes, said) = run("0");
    assert!(passes && said.contains("SKIPPED: libnvrtc.so cannot be loaded; looked in "), "{said}");
    let (passes, said) = run("1");
    assert!(!passes && said.contains("libnvrtc.so cannot be loaded; looked in "), "{said}");
}

/// What ptxas says of each kernel: its name, registers, bytes spilled.
fn usage(log: &str) -> Vec<(String, u32, u32)> {
    let mut kernels: Vec<(String, u32, u32)> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernels.push((rest.split('\'').next().unwrap().into(), 0, 0));
        }
        let number_before = |what: &str| -> Option<u32> {
            line.split(what).next().filter(|before| *before != line)?.split_whitespace().next_back()?.parse().ok()
        };
        if let Some(kernel) = kernels.last_mut() {
            kernel.1 = kernel.1.max(number_before(" registers").unwrap_or(0));
            kernel.2 += number_before(" bytes spill stores").unwrap_or(0);
            kernel.2 += number_before(" bytes spill loads").unwrap_or(0);
        }
    }
    kernels
}

#[test]
fn each_kernel_becomes_machine_code_for_each_device_within_its_budget() {
    let Some(nvrtc) = nvrtc() else { return };
    for (source, budgets) in budgets() {
        for arch in ARCHS {
            let image = nvrtc.compile(&source, Arch(arch)).unwrap();
            assert!(image.bytes.starts_with(b"\x7fELF"), "{} for sm_{arch}", source.name());
            assert_eq!(check_image(&image.bytes), Ok(()), "{} for sm_{arch}", source.name());
            let cut = (4..image.bytes.len()).step_by(61).find(|cut| check_image(&image.bytes[..*cut]).is_ok());
            assert_eq!(cut, None, "what is cut is not whole: {} for sm_{arch}", source.name());
            let mut used = usage(&image.log);
            used.sort();
            let mut named: Vec<_> = budgets.iter().map(|(kernel, _)| *kernel).collect();
            named.sort_unstable();
            assert_eq!(used.iter().map(|(kernel, ..)| kernel.as_str()).collect::<Vec<_>>(), named, "{}", image.log);
            for (kernel, registers, spilled) in used {
                let budget = budgets.iter().find(|(name, _)| *name == kernel).unwrap().1;
                assert!(0 < registers && registers <= budget, "{kernel} for sm_{arch}: {registers} registers");
                assert_eq!(spilled, 0, "{kernel} for sm_{arch} spills");
            }
        }
    }
}

#[test]
fn a_device_newer_than_the_compiler_gets_ptx() {
    let Some(nvrtc) = nvrtc() else { return };
    let image = nvrtc.compile(&saxpy(), Arch(999)).unwrap();
    assert_eq!(check_image(&image.bytes), Ok(()));
    let text = String::from_utf8(image.bytes).unwrap();
    assert!(text.contains(".entry saxpy") && text.ends_with('\0'), "{text}");
}

#[test]
fn what_the_compiler_says_is_in_the_error_with_the_name_and_the_device() {
    let Some(nvrtc) = nvrtc() else { return };
    let wrong = KernelSource::new("wrong.cu", "extern \"C\" __global__ void f(float* x) {\n  y = 1;\n}");
    let error = nvrtc.compile(&wrong, Arch(90)).unwrap_err().to_string();
    assert!(error.starts_with("wrong.cu does not compile for sm_90 (NVRTC "), "{error}");
    assert!(error.contains("wrong.cu(2)") && error.contains("\"y\" is undefined"), "{error}");
    // Only ptxas sees these, so only machine code shows them.
    let asm = KernelSource::new("asm.cu", "extern \"C\" __global__ void f(float* x) { asm(\"no ptx;\"); }");
    assert!(nvrtc.compile(&asm, Arch(90)).is_err());
}

#[test]
fn the_cache_gives_what_was_compiled_and_a_damaged_file_is_compiled_again() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = CubinCache::new(folder.path().join("cubin"), 1 << 20).unwrap();
    let compiled = nvrtc.compile_cached(&saxpy(), Arch(90), &cache).unwrap();
    let cached = nvrtc.compile_cached(&saxpy(), Arch(90), &cache).unwrap();
    assert!(!compiled.log.is_empty() && cached.log.is_empty(), "only the first was compiled");
    assert_eq!(compiled.bytes, cached.bytes);

    let key = nvrtc.key(&saxpy(), Arch(90));
    let file = folder.path().join("cubin").join(format!("{key}.cubin"));
    std::fs::write(&file, b"nonsense").unwrap();
    let again = nvrtc.compile_cached(&saxpy(), Arch(90), &cache).unwrap();
    assert!(!again.log.is_empty(), "it was compiled again");
    for other in
        [saxpy().define("A", 1), saxpy().fast_math(), KernelSource::new("saxpy.cu", saxpy().text().to_owned() + " ")]
    {
        assert_ne!(nvrtc.key(&other, Arch(90)), key);
    }
    assert_ne!(nvrtc.key(&saxpy(), Arch(89)), key);
}

fn assert_close(got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= tolerance * expected.abs().max(1.0), "at {i}: {got}, expected {expected}");
    }
}

/// What a kernel is expected to overwrite.
const POISON: f32 = f32::from_bits(0xA5A5_A5A5);

#[test]
fn saxpy_computes_valid_rows_and_leaves_null_ones() {
    let kernels = HostKernels::compile(&saxpy());
    for rows in [1usize, 31, 32, 33, 1000] {
        let (x, y) = (numbers(1, rows), numbers(2, rows));
        let bits: Vec<u8> = (0..rows.div_ceil(8)).map(|i| (i * 37 + 11) as u8).collect();
        for valid in [None, Some(&bits)] {
            let mut out = vec![POISON; rows];
            let bits = valid.map_or(std::ptr::null(), |bits| bits.as_ptr());
            let (a, n) = (2.5f32, rows as u64);
            kernels.run(
                "saxpy",
                [3, 1, 1],
                [64, 1, 1],
                &[arg(&a), arg(&at(&x)), arg(&at(&y)), arg(&bits), arg(&at_mut(&mut out)), arg(&n)],
            );
            for i in 0..rows {
                let is_valid = valid.is_none_or(|bits| bits[i / 8] >> (i % 8) & 1 == 1);
                let expected = if is_valid { 2.5 * x[i] + y[i] } else { POISON };
                assert_eq!(out[i].to_bits(), expected.to_bits(), "row {i} of {rows}");
            }
        }
    }
}

#[test]
fn top_k_finds_the_largest_of_each_row_smaller_ids_first() {
    const SPAN: usize = 2048;
    let kernels = HostKernels::compile(&top_k());
    for (rows, width, k) in [(3usize, 5000usize, 10usize), (2, 2048, 1), (2, 7, 10), (1, 4100, 64)] {
        let mut scores = numbers(width as u64, rows * width);
        // Equal ones, and some that are no numbers.
        scores.iter_mut().for_each(|score| *score = (*score * 500.0).round() / 500.0);
        scores.iter_mut().skip(3).step_by(97).for_each(|score| *score = f32::NAN);

        let (mut values, mut ids, mut wide) = (scores.clone(), Vec::<i32>::new(), width);
        loop {
            let blocks = wide.div_ceil(SPAN);
            let mut best = vec![POISON; rows * blocks * k];
            let mut best_ids = vec![-1i32; rows * blocks * k];
            let known = if ids.is_empty() { std::ptr::null() } else { ids.as_ptr() };
            let (n, many) = (wide as i32, k as i32);
            let grid = [rows as u32, blocks as u32, 1];
            kernels.run(
                "top_k",
                grid,
                [256, 1, 1],
                &[
                    arg(&at(&values)),
                    arg(&known),
                    arg(&n),
                    arg(&many),
                    arg(&at_mut(&mut best)),
                    arg(&at_mut(&mut best_ids)),
                ],
            );
            (values, ids, wide) = (best, best_ids, blocks * k);
            if blocks == 1 {
                break;
            }
        }

        for row in 0..rows {
            let mut expected: Vec<(f32, i32)> = scores[row * width..(row + 1) * width]
                .iter()
                .enumerate()
                .filter(|(_, score)| !score.is_nan())
                .map(|(id, score)| (*score, id as i32))
                .collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            expected.truncate(k);
            expected.resize(k, (f32::NEG_INFINITY, i32::MAX));
            let got: Vec<_> = (row * k..(row + 1) * k).map(|at| (values[at], ids[at])).collect();
            assert_eq!(got, expected, "row {row} of {rows} x {width}, k {k}");
        }
    }
}

#[test]
fn normalise_makes_rows_of_length_one_and_leaves_zero_rows() {
    let kernels = HostKernels::compile(&top_k());
    let (rows, dim) = (5usize, 70usize);
    let mut input = numbers(3, rows * dim);
    input[dim..2 * dim].fill(0.0);
    let (mut out, width) = (vec![POISON; rows * dim], dim as i32);
    kernels.run("normalise", [rows as u32, 1, 1], [32, 1, 1], &[arg(&at(&input)), arg(&at_mut(&mut out)), arg(&width)]);
    let expected: Vec<f32> = input
        .chunks(dim)
        .flat_map(|row| {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter().map(move |x| if length > 0.0 { x / length } else { 0.0 })
        })
        .collect();
    assert_close(&out, &expected, 1e-6);
}

#[test]
fn resize_interpolates_between_the_centres_of_pixels_and_nulls_and_wrong_lengths_become_null() {
    let kernels = HostKernels::compile(&resize());
    let side = 8usize;
    let (heights, widths) = ([20, 5, 8, 20, 1, -3], [31, 4, 8, 31, 1, -4]);
    let mut lengths: Vec<usize> = heights.iter().zip(&widths).map(|(h, w)| (h * w * 3) as usize).collect();
    // One byte is missing; and bytes for sides that are none.
    lengths[3] -= 1;
    let mut offsets = vec![0i64];
    offsets.extend(lengths.iter().scan(0, |end, length| {
        *end += *length as i64;
        Some(*end)
    }));
    let bytes: Vec<u8> = numbers(4, offsets[6] as usize).iter().map(|x| ((x + 1.0) * 127.0) as u8).collect();
    let (mut out, mut valid) = (vec![POISON; 6 * 3 * side * side], [u32::MAX]);
    let (s, n) = (side as i32, 6u64);
    let (b, o, h, w) = (at(&bytes), at(&offsets), at(&heights), at(&widths));
    let (to, bits) = (at_mut(&mut out), at_mut(&mut valid));
    // The second has no height.
    let (no_nulls, one_null) = (std::ptr::null::<u32>(), [!(1u32 << 1)]);
    let has_height = at(&one_null);
    let nulls = [arg(&no_nulls), arg(&has_height), arg(&no_nulls)];
    let args =
        [arg(&b), arg(&o), arg(&h), arg(&w), nulls[0], nulls[1], nulls[2], arg(&s), arg(&to), arg(&bits), arg(&n)];
    kernels.run("resize", [(6 * side * side).div_ceil(128) as u32, 1, 1], [128, 1, 1], &args);
    assert_eq!(!valid[0], 1 << 1 | 1 << 3 | 1 << 5);

    let (mean, deviation) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    for (i, tensor) in out.chunks(3 * side * side).enumerate() {
        if valid[0] >> i & 1 == 0 {
            assert!(tensor.iter().all(|x| x.to_bits() == POISON.to_bits()), "nothing is written to null rows");
            continue;
        }
        let (height, width) = (heights[i] as usize, widths[i] as usize);
        let picture = &bytes[offsets[i] as usize..offsets[i + 1] as usize];
        let place = |to: usize, from: usize| {
            let at = ((to as f64 + 0.5) * from as f64 / side as f64 - 0.5).max(0.0);
            let low = at as usize;
            (low, (low + 1).min(from - 1), at - low as f64)
        };
        let mut expected = Vec::new();
        for colour in 0..3 {
            for y in 0..side {
                for x in 0..side {
                    let ((top, bottom, down), (left, right, along)) = (place(y, height), place(x, width));
                    let pixel = |y: usize, x: usize| f64::from(picture[(y * width + x) * 3 + colour]);
                    let upper = pixel(top, left) * (1.0 - along) + pixel(top, right) * along;
                    let lower = pixel(bottom, left) * (1.0 - along) + pixel(bottom, right) * along;
                    let value = upper * (1.0 - down) + lower * down;
                    expected.push(((value / 255.0 - mean[colour]) / deviation[colour]) as f32);
                }
            }
        }
        assert_close(tensor, &expected, 1e-4);
    }
}

/// A small encoder: two heads of 32.
const HIDDEN: usize = 64;
const HEADS: usize = 2;
const HEAD: usize = HIDDEN / HEADS;
const SENTENCES: usize = 3;
const LENGTH: usize = 5;
/// How many tokens of each sentence are not padding.
const REAL: [i32; SENTENCES] = [5, 1, 3];

/// Compiled once; the shim runs one kernel at a time.
fn small_encoder() -> MutexGuard<'static, HostKernels> {
    static ENCODER: LazyLock<Mutex<HostKernels>> = LazyLock::new(|| {
        let source = KernelSource::new("encoder.cu", include_str!("../../examples/embed/src/gpu/encoder.cu"));
        Mutex::new(HostKernels::compile(&source.define("HIDDEN", HIDDEN).define("HEADS", HEADS)))
    });
    ENCODER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn layer_norm(row: &[f32], gain: &[f32], bias: &[f32]) -> Vec<f32> {
    let mean = row.iter().sum::<f32>() / row.len() as f32;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / row.len() as f32;
    let scale = 1.0 / (variance + 1e-12).sqrt();
    row.iter().zip(gain).zip(bias).map(|((x, gain), bias)| (x - mean) * scale * gain + bias).collect()
}

#[test]
fn embedding_adds_word_position_and_type_and_normalises() {
    let kernels = small_encoder();
    let vocabulary = 11i32;
    let (words, positions) = (numbers(1, 11 * HIDDEN), numbers(2, LENGTH * HIDDEN));
    let (types, gain, bias) = (numbers(3, HIDDEN), numbers(4, HIDDEN), numbers(5, HIDDEN));
    let mut tokens: Vec<i32> = (0..SENTENCES * LENGTH).map(|i| (i * 7 % 11) as i32).collect();
    (tokens[2], tokens[3]) = (11, -1);
    let mut out = vec![POISON; SENTENCES * LENGTH * HIDDEN];
    let grid = [LENGTH as u32, SENTENCES as u32, 1];
    let tables = [at(&words), at(&positions), at(&types), at(&gain), at(&bias)];
    let [w, p, t, g, b] = &tables;
    kernels.run(
        "embed",
        grid,
        [32, 1, 1],
        &[arg(&at(&tokens)), arg(&vocabulary), arg(w), arg(p), arg(t), arg(g), arg(b), arg(&at_mut(&mut out))],
    );
    let expected: Vec<f32> = tokens
        .iter()
        .enumerate()
        .flat_map(|(i, token)| {
            let word = if (0..vocabulary).contains(token) { *token as usize } else { 0 };
            let row: Vec<f32> = (0..HIDDEN)
                .map(|at| words[word * HIDDEN + at] + positions[i % LENGTH * HIDDEN + at] + types[at])
                .collect();
            layer_norm(&row, &gain, &bias)
        })
        .collect();
    assert_close(&out, &expected, 1e-5);
}

#[test]
fn heads_are_split_with_their_bias_and_merged_again() {
    let kernels = small_encoder();
    let (input, bias) = (numbers(1, SENTENCES * LENGTH * HIDDEN), numbers(2, HIDDEN));
    let grid = [LENGTH as u32, SENTENCES as u32, 1];
    let mut split = vec![POISON; input.len()];
    kernels.run("split_heads", grid, [32, 1, 1], &[arg(&at(&input)), arg(&at(&bias)), arg(&at_mut(&mut split))]);
    let with_bias =
        |sentence: usize, token: usize, at: usize| input[(sentence * LENGTH + token) * HIDDEN + at] + bias[at];
    for sentence in 0..SENTENCES {
        for head in 0..HEADS {
            for token in 0..LENGTH {
                for i in 0..HEAD {
                    let got = split[((sentence * HEADS + head) * LENGTH + token) * HEAD + i];
                    assert_eq!(got, with_bias(sentence, token, head * HEAD + i));
                }
            }
        }
    }
    let mut merged = vec![POISON; input.len()];
    kernels.run("merge_heads", grid, [32, 1, 1], &[arg(&at(&split)), arg(&at_mut(&mut merged))]);
    let expected: Vec<f32> =
        (0..input.len()).map(|at| with_bias(at / HIDDEN / LENGTH, at / HIDDEN % LENGTH, at % HIDDEN)).collect();
    assert_eq!(merged, expected);
}

#[test]
fn softmax_is_over_the_real_tokens_and_padding_gets_nothing() {
    let kernels = small_encoder();
    let scores: Vec<f32> = numbers(1, SENTENCES * HEADS * LENGTH * LENGTH).iter().map(|x| x * 100.0).collect();
    let (mut out, scale) = (scores.clone(), 0.25f32);
    let grid = [LENGTH as u32, HEADS as u32, SENTENCES as u32];
    kernels.run("softmax", grid, [32, 1, 1], &[arg(&at_mut(&mut out)), arg(&at(&REAL)), arg(&scale)]);
    let mut expected = Vec::new();
    for (i, row) in scores.chunks(LENGTH).enumerate() {
        let real = REAL[i / LENGTH / HEADS] as usize;
        let largest = row[..real].iter().fold(f32::MIN, |a, b| a.max(b * scale));
        let sum: f32 = row[..real].iter().map(|x| (x * scale - largest).exp()).sum();
        expected.extend((0..LENGTH).map(|at| if at < real { (row[at] * scale - largest).exp() / sum } else { 0.0 }));
    }
    assert_close(&out, &expected, 1e-6);
}

#[test]
fn the_residual_is_added_with_its_bias_and_normalised() {
    let kernels = small_encoder();
    let (x, y) = (numbers(1, 7 * HIDDEN), numbers(2, 7 * HIDDEN));
    let (bias, gain, shift) = (numbers(3, HIDDEN), numbers(4, HIDDEN), numbers(5, HIDDEN));
    let mut out = x.clone();
    let tables = [at(&y), at(&bias), at(&gain), at(&shift)];
    let [added, b, g, s] = &tables;
    kernels.run(
        "add_and_normalise",
        [7, 1, 1],
        [32, 1, 1],
        &[arg(&at_mut(&mut out)), arg(added), arg(b), arg(g), arg(s)],
    );
    let expected: Vec<f32> = (0..7)
        .flat_map(|row| {
            let sum: Vec<f32> = (0..HIDDEN).map(|i| x[row * HIDDEN + i] + y[row * HIDDEN + i] + bias[i]).collect();
            layer_norm(&sum, &gain, &shift)
        })
        .collect();
    assert_close(&out, &expected, 1e-5);
}

#[test]
fn gelu_of_values_with_bias() {
    let kernels = small_encoder();
    let width = 48i32;
    let (x, bias) = (numbers(1, 10 * 48), numbers(2, 48));
    let (mut out, len) = (x.clone(), 480u64);
    kernels.run("bias_gelu", [2, 1, 1], [64, 1, 1], &[arg(&at_mut(&mut out)), arg(&at(&bias)), arg(&width), arg(&len)]);
    // gelu(x) = x * Phi(x), the normal distribution integrated numerically here.
    let phi = |x: f64| {
        let step = (x + 8.0) / 4000.0;
        let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        (0..4000).map(|i| density(-8.0 + (i as f64 + 0.5) * step) * step).sum::<f64>()
    };
    let expected: Vec<f32> = (0..480)
        .map(|i| {
            let value = f64::from(x[i]) + f64::from(bias[i % 48]);
            (value * phi(value)) as f32
        })
        .collect();
    assert_close(&out, &expected, 1e-5);
}

#[test]
fn pooling_takes_the_mean_of_the_real_tokens_at_length_one() {
    let kernels = small_encoder();
    let tokens = numbers(1, SENTENCES * LENGTH * HIDDEN);
    let (mut out, length) = (vec![POISON; SENTENCES * HIDDEN], LENGTH as i32);
    let args = [at(&tokens).cast::<i32>(), at(&REAL)];
    kernels.run(
        "mean_pool",
        [SENTENCES as u32, 1, 1],
        [32, 1, 1],
        &[arg(&args[0]), arg(&args[1]), arg(&length), arg(&at_mut(&mut out))],
    );
    let expected: Vec<f32> = (0..SENTENCES)
        .flat_map(|sentence| {
            let real = REAL[sentence] as usize;
            let mean: Vec<f32> = (0..HIDDEN)
                .map(|i| {
                    (0..real).map(|token| tokens[(sentence * LENGTH + token) * HIDDEN + i]).sum::<f32>() / real as f32
                })
                .collect();
            let length = mean.iter().map(|x| x * x).sum::<f32>().sqrt();
            mean.into_iter().map(move |x| x / length)
        })
        .collect();
    assert_close(&out, &expected, 1e-5);
}

#[test]
fn the_shim_sees_a_barrier_that_some_threads_miss_and_garbage_in_shared_memory() {
    let source = r#"
        extern "C" __global__ void misses(int* out) { if (threadIdx.x < 20) __syncthreads(); else __syncwarp(); out[0] = 1; }
        extern "C" __global__ void traps(int* out) { if (threadIdx.x == 3) __trap(); out[threadIdx.x] = 1; }
        extern "C" __global__ void no_barrier(int* out) {
            __shared__ int tile[64];
            tile[threadIdx.x] = threadIdx.x;
            out[threadIdx.x] = tile[63 - threadIdx.x];
        }
        extern "C" __global__ void barrier(int* out) {
            __shared__ int tile[64];
            tile[threadIdx.x] = threadIdx.x;
            __syncthreads();
            out[threadIdx.x] = tile[63 - threadIdx.x];
        }
    "#;
    let kernels = HostKernels::compile(&KernelSource::new("wrong.cu", source));
    let mut out = vec![0i32; 64];
    assert_eq!(kernels.code("misses", [1, 1, 1], [64, 1, 1], &[arg(&at_mut(&mut out))]), 719);
    assert_eq!(kernels.code("traps", [1, 1, 1], [64, 1, 1], &[arg(&at_mut(&mut out))]), 719);
    let mirrored: Vec<i32> = (0..64).rev().collect();
    kernels.run("no_barrier", [1, 1, 1], [64, 1, 1], &[arg(&at_mut(&mut out))]);
    assert_ne!(out, mirrored);
    kernels.run("barrier", [1, 1, 1], [64, 1, 1], &[arg(&at_mut(&mut out))]);
    assert_eq!(out, mirrored);
}
