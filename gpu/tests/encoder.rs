//! The encoder of the example on embeddings, whole, on the fakes: kernels, products and their order give what plain Rust
//! gives, for padded sentences too.

use regatta_gpu as gpu;

#[expect(dead_code, reason = "the shape of the real model is the example's")]
#[path = "../../examples/embed/src/gpu/encoder.rs"]
mod encoder;

use encoder::{Encoder, Shape};
use gpu::{Device, GpuError, Precision};
use regatta_fakes::Counts;

const SHAPE: Shape = Shape { vocabulary: 20, hidden: 64, heads: 2, inner: 96, layers: 2 };
const LENGTH: usize = 8;

/// Numbers from -0.5 to 0.5, the same for each name.
fn weight(name: &str) -> Vec<f32> {
    let Shape { vocabulary, hidden, inner, .. } = SHAPE;
    let len = match name {
        "embeddings.word_embeddings.weight" => vocabulary * hidden,
        "embeddings.position_embeddings.weight" => LENGTH * hidden,
        _ if name.contains("intermediate") && name.ends_with("weight") => inner * hidden,
        _ if name.contains("intermediate") => inner,
        _ if name.contains("LayerNorm") || name.ends_with("bias") || name.contains("token_type") => hidden,
        _ if name.ends_with("output.dense.weight") && !name.contains("attention") => hidden * inner,
        _ => hidden * hidden,
    };
    let mut state = name
        .bytes()
        .fold(0x9E37_79B9_7F4A_7C15u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
        | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

/// BERT in plain loops, for one sentence without padding.
fn reference(tokens: &[i32]) -> Vec<f64> {
    let Shape { hidden, heads, inner, layers, .. } = SHAPE;
    let get = |name: String| -> Vec<f64> { weight(&name).into_iter().map(f64::from).collect() };
    let norm = |row: &[f64], gain: &[f64], bias: &[f64]| -> Vec<f64> {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
        (0..row.len()).map(|i| (row[i] - mean) / (variance + 1e-12).sqrt() * gain[i] + bias[i]).collect()
    };
    let dense = |row: &[f64], weight: &[f64], bias: &[f64]| -> Vec<f64> {
        let dot = |out: usize| row.iter().zip(&weight[out * row.len()..]).map(|(x, w)| x * w).sum::<f64>();
        (0..bias.len()).map(|out| dot(out) + bias[out]).collect()
    };
    let (words, positions) =
        (get("embeddings.word_embeddings.weight".into()), get("embeddings.position_embeddings.weight".into()));
    let types = get("embeddings.token_type_embeddings.weight".into());
    let (gain, bias) = (get("embeddings.LayerNorm.weight".into()), get("embeddings.LayerNorm.bias".into()));
    let mut x: Vec<Vec<f64>> = tokens
        .iter()
        .enumerate()
        .map(|(at, token)| {
            let token = *token as usize;
            let sum: Vec<f64> =
                (0..hidden).map(|i| words[token * hidden + i] + positions[at * hidden + i] + types[i]).collect();
            norm(&sum, &gain, &bias)
        })
        .collect();
    for layer in 0..layers {
        let part = |part: &str| {
            let name = |end: &str| format!("encoder.layer.{layer}.{part}.{end}");
            (get(name("weight")), get(name("bias")))
        };
        let [query, key, value] = ["query", "key", "value"].map(|which| {
            let (weight, bias) = part(&format!("attention.self.{which}"));
            x.iter().map(|row| dense(row, &weight, &bias)).collect::<Vec<_>>()
        });
        let (out, out_norm) = (part("attention.output.dense"), part("attention.output.LayerNorm"));
        let (wide, narrow, last) = (part("intermediate.dense"), part("output.dense"), part("output.LayerNorm"));
        let head = hidden / heads;
        let attended: Vec<Vec<f64>> = (0..x.len())
            .map(|at| {
                let mut row = Vec::new();
                for h in 0..heads {
                    let range = h * head..(h + 1) * head;
                    let dot = |key: &Vec<f64>| {
                        let products = query[at][range.clone()].iter().zip(&key[range.clone()]).map(|(a, b)| a * b);
                        (products.sum::<f64>() / (head as f64).sqrt()).exp()
                    };
                    let scores: Vec<f64> = key.iter().map(dot).collect();
                    let sum: f64 = scores.iter().sum();
                    let mixed =
                        range.map(|i| value.iter().zip(&scores).map(|(v, score)| v[i] * score / sum).sum::<f64>());
                    row.extend(mixed);
                }
                row
            })
            .collect();
        for (row, attended) in x.iter_mut().zip(attended) {
            let added = dense(&attended, &out.0, &out.1);
            let sum: Vec<f64> = row.iter().zip(added).map(|(a, b)| a + b).collect();
            *row = norm(&sum, &out_norm.0, &out_norm.1);
            let mut middle = dense(row, &wide.0, &wide.1);
            assert_eq!(middle.len(), inner);
            for value in &mut middle {
                *value *= 0.5 * (1.0 + erf(*value / 2f64.sqrt()));
            }
            let added = dense(&middle, &narrow.0, &narrow.1);
            let sum: Vec<f64> = row.iter().zip(added).map(|(a, b)| a + b).collect();
            *row = norm(&sum, &last.0, &last.1);
        }
    }
    let mean: Vec<f64> = (0..hidden).map(|i| x.iter().map(|row| row[i]).sum::<f64>() / x.len() as f64).collect();
    let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
    mean.into_iter().map(|x| x / length).collect()
}

/// By its series, which converges for all arguments.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn the_encoder_gives_what_plain_loops_give() {
    gpu::use_fakes(&regatta_fakes::folder());
    let driver = regatta_fakes::Driver::alone();
    let before = driver.counts();
    let device = Device::open(0, None).unwrap();
    let weights = |name: &str| Ok::<_, GpuError>(weight(name));
    let mut encoder = Encoder::new(&device, SHAPE, Precision::F32, weights).unwrap();
    let sentences: [&[i32]; 4] = [&[3, 1, 4, 1, 5, 9, 2, 6], &[7], &[1, 2, 3], &[19, 18, 17, 16, 15, 14, 13]];
    let mut tokens = vec![0; sentences.len() * LENGTH];
    for (row, sentence) in tokens.chunks_mut(LENGTH).zip(sentences) {
        row[..sentence.len()].copy_from_slice(sentence);
    }
    let on_device = device.upload(&tokens).unwrap();
    let out = device.alloc::<f32>(sentences.len() * SHAPE.hidden).unwrap();
    // SAFETY: the slices have these lengths.
    unsafe { encoder.encode(&device, on_device.pointer(), sentences.len(), LENGTH, out.pointer()) }.unwrap();
    let got = device.download(&out).unwrap();
    for (sentence, got) in sentences.iter().zip(got.chunks(SHAPE.hidden)) {
        let expected = reference(sentence);
        let error = got.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(error < 1e-5, "{sentence:?}: {error}");
    }
    drop((encoder, on_device, out, device));
    let Counts { faults, device_bytes, streams, events, pools, modules, .. } = driver.counts();
    assert_eq!(faults, 0, "every access was within an allocation");
    let left = [device_bytes, streams, events, pools, modules];
    assert_eq!(left, [before.device_bytes, before.streams, before.events, before.pools, before.modules]);
}
