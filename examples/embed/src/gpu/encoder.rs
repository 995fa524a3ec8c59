//! MiniLM's encoder (BERT) on a GPU: matrix products by cuBLASLt, the rest by the kernels beside this file. Everything is put
//! on the device's stream, and nothing is waited for.

use super::gpu::{Arg, Blas, Device, GpuError, Grid, Kernel, KernelSource, Module, Pointer, Precision, Product, Slice};

/// The shape of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) inner: usize,
    pub(crate) layers: usize,
}

/// all-MiniLM-L6-v2.
pub(crate) const MINILM: Shape = Shape { vocabulary: 30522, hidden: 384, heads: 12, inner: 1536, layers: 6 };

pub(crate) struct Encoder {
    shape: Shape,
    precision: Precision,
    blas: Blas,
    kernels: Kernels,
    words: Slice<f32>,
    positions: Slice<f32>,
    types: Slice<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Kernels {
    count_tokens: Kernel,
    embed: Kernel,
    split_heads: Kernel,
    merge_heads: Kernel,
    softmax: Kernel,
    add_and_normalise: Kernel,
    bias_gelu: Kernel,
    mean_pool: Kernel,
}

struct Norm {
    gain: Slice<f32>,
    bias: Slice<f32>,
}

struct Dense {
    weight: Slice<f32>,
    bias: Slice<f32>,
}

struct Layer {
    query: Dense,
    key: Dense,
    value: Dense,
    attended: Dense,
    attended_norm: Norm,
    wide: Dense,
    narrow: Dense,
    norm: Norm,
}

impl Encoder {
    /// Compiles the kernels and uploads the weights, which `weight` gives by their names in the model's file.
    pub(crate) fn new<E: From<GpuError>>(
        device: &Device,
        shape: Shape,
        precision: Precision,
        weight: impl Fn(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let source = KernelSource::new("encoder.cu", include_str!("encoder.cu"));
        let module = device.kernels(&source.define("HIDDEN", shape.hidden).define("HEADS", shape.heads))?;
        let upload = |name: &str| -> Result<Slice<f32>, E> { Ok(device.upload(&weight(name)?)?) };
        let norm = |name: &str| -> Result<Norm, E> {
            Ok(Norm { gain: upload(&format!("{name}.weight"))?, bias: upload(&format!("{name}.bias"))? })
        };
        let dense = |name: &str| -> Result<Dense, E> {
            Ok(Dense { weight: upload(&format!("{name}.weight"))?, bias: upload(&format!("{name}.bias"))? })
        };
        let layer = |n: usize| -> Result<Layer, E> {
            let name = |part: &str| format!("encoder.layer.{n}.{part}");
            Ok(Layer {
                query: dense(&name("attention.self.query"))?,
                key: dense(&name("attention.self.key"))?,
                value: dense(&name("attention.self.value"))?,
                attended: dense(&name("attention.output.dense"))?,
                attended_norm: norm(&name("attention.output.LayerNorm"))?,
                wide: dense(&name("intermediate.dense"))?,
                narrow: dense(&name("output.dense"))?,
                norm: norm(&name("output.LayerNorm"))?,
            })
        };
        Ok(Self {
            shape,
            precision,
            blas: Blas::new(device)?,
            kernels: Kernels::of(&module)?,
            words: upload("embeddings.word_embeddings.weight")?,
            positions: upload("embeddings.position_embeddings.weight")?,
            types: upload("embeddings.token_type_embeddings.weight")?,
            norm: norm("embeddings.LayerNorm")?,
            layers: (0..shape.layers).map(layer).collect::<Result<_, E>>()?,
        })
    }

    /// Sentences of `length` tokens each, padded with 0, to vectors of length 1. `length` is a multiple of 8, which suits the
    /// products, and at most the model's number of positions.
    ///
    /// # Safety
    /// There are `sentences * length` tokens (`int`), and room for `sentences * hidden` numbers at `out`.
    pub(crate) unsafe fn encode(
        &mut self,
        device: &Device,
        tokens: Pointer,
        sentences: usize,
        length: usize,
        out: Pointer,
    ) -> Result<(), GpuError> {
        let Shape { vocabulary, hidden, heads, inner, .. } = self.shape;
        let (rows, head) = (sentences * length, hidden / heads);
        let lengths = device.alloc::<i32>(sentences)?;
        let x = device.alloc::<f32>(rows * hidden)?;
        let projected = device.alloc::<f32>(rows * hidden)?;
        let split = [(); 3].map(|()| device.alloc::<f32>(rows * hidden));
        let [query, key, value] = split;
        let (query, key, value) = (query?, key?, value?);
        let scores = device.alloc::<f32>(rows * heads * length)?;
        let wide = device.alloc::<f32>(rows * inner)?;

        let warp = |blocks: [usize; 3]| Grid { blocks: blocks.map(|n| n as u32), threads: [32, 1, 1], shared: 0 };
        let (by_token, by_row) = (warp([length, sentences, 1]), warp([rows, 1, 1]));
        // SAFETY, of all below: each kernel gets the parameters that it declares, and buffers of the lengths above.
        let run = |kernel: &Kernel, grid: Grid, args: &[Arg]| unsafe { device.launch(kernel, grid, args) };
        let kernels = &self.kernels;
        run(
            &kernels.count_tokens,
            warp([sentences, 1, 1]),
            &[tokens.into(), (length as i32).into(), (&lengths).into()],
        )?;
        let tables = [&self.words, &self.positions, &self.types, &self.norm.gain, &self.norm.bias, &x].map(Arg::from);
        let mut args = vec![tokens.into(), (vocabulary as i32).into()];
        args.extend(tables);
        run(&kernels.embed, by_token, &args)?;

        let (blas, precision) = (&mut self.blas, self.precision);
        let mut product = |shape: [usize; 4], b_transposed, a: &Slice<f32>, b: &Slice<f32>, c: &Slice<f32>| {
            let [batch, rows, inner, columns] = shape;
            let (rows, inner, columns, batch) = (rows as u64, inner as u64, columns as u64, batch as u32);
            let product = Product { rows, columns, inner, b_transposed, batch, scale: 1.0, precision };
            unsafe { blas.multiply(product, a.pointer(), b.pointer(), c.pointer()) }
        };
        for layer in &self.layers {
            for (dense, to) in [(&layer.query, &query), (&layer.key, &key), (&layer.value, &value)] {
                product([1, rows, hidden, hidden], true, &x, &dense.weight, &projected)?;
                run(&kernels.split_heads, by_token, &[(&projected).into(), (&dense.bias).into(), to.into()])?;
            }
            product([sentences * heads, length, head, length], true, &query, &key, &scores)?;
            let scale = 1.0 / (head as f32).sqrt();
            let grid = warp([length, heads, sentences]);
            run(&kernels.softmax, grid, &[(&scores).into(), (&lengths).into(), scale.into()])?;
            product([sentences * heads, length, length, head], false, &scores, &value, &query)?;
            run(&kernels.merge_heads, by_token, &[(&query).into(), (&key).into()])?;
            product([1, rows, hidden, hidden], true, &key, &layer.attended.weight, &projected)?;
            let norm = &layer.attended_norm;
            let args = [&x, &projected, &layer.attended.bias, &norm.gain, &norm.bias].map(Arg::from);
            run(&kernels.add_and_normalise, by_row, &args)?;
            product([1, rows, hidden, inner], true, &x, &layer.wide.weight, &wide)?;
            let args = [(&wide).into(), (&layer.wide.bias).into(), (inner as i32).into(), (rows * inner).into()];
            run(&kernels.bias_gelu, Grid::over(rows * inner), &args)?;
            product([1, rows, inner, hidden], true, &wide, &layer.narrow.weight, &projected)?;
            let args = [&x, &projected, &layer.narrow.bias, &layer.norm.gain, &layer.norm.bias].map(Arg::from);
            run(&kernels.add_and_normalise, by_row, &args)?;
        }
        let args = [(&x).into(), (&lengths).into(), (length as i32).into(), out.into()];
        run(&kernels.mean_pool, warp([sentences, 1, 1]), &args)
    }
}

impl Kernels {
    fn of(module: &std::rc::Rc<Module>) -> Result<Self, GpuError> {
        Ok(Self {
            count_tokens: module.kernel("count_tokens")?,
            embed: module.kernel("embed")?,
            split_heads: module.kernel("split_heads")?,
            merge_heads: module.kernel("merge_heads")?,
            softmax: module.kernel("softmax")?,
            add_and_normalise: module.kernel("add_and_normalise")?,
            bias_gelu: module.kernel("bias_gelu")?,
            mean_pool: module.kernel("mean_pool")?,
        })
    }
}
