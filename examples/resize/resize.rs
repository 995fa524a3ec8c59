//! The UDF: on a GPU, and its twin.

use regatta::gpu::{Device, GpuUdf, Grid, Input, Kernel, KernelSource, Output, Twin, takes};
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};

/// Bytes (red, green, blue of each pixel, row by row), height and width to `3 * side * side` numbers. A picture whose bytes are
/// not as many as its height and width say becomes null, as does one of which something is null.
#[derive(Serialize, Deserialize)]
pub(crate) struct Resize {
    pub(crate) side: usize,
}

#[regatta::udf]
impl GpuUdf for Resize {
    type State = Kernel;
    const MAKES_NULLS: bool = true;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        takes(inputs, &[DataType::Binary, DataType::Int32, DataType::Int32])?;
        Ok(DataType::Array(Box::new(DataType::Float32), 3 * self.side * self.side))
    }

    fn start(&self, gpu: &Device, _: &mut Start) -> UdfResult<Kernel> {
        Ok(gpu.kernels(&KernelSource::new("resize.cu", include_str!("resize.cu")))?.kernel("resize")?)
    }

    fn launch(&self, resize: &mut Kernel, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
        let (rows, side) = (out.rows(), self.side);
        let [bytes, heights, widths] = [0, 1, 2].map(|n: usize| inputs[n].data().into());
        let [has_bytes, has_height, has_width] = [0, 1, 2].map(|n: usize| inputs[n].validity().into());
        let (offsets, valid) = (inputs[0].offsets().into(), out.validity().into());
        let [size, to, count] = [(side as i32).into(), out.data().into(), rows.into()];
        let args = [bytes, offsets, heights, widths, has_bytes, has_height, has_width, size, to, valid, count];
        // SAFETY: these are the kernel's parameters; it checks the bytes of each picture against its height and width.
        Ok(unsafe { gpu.launch(resize, Grid::over(rows * side * side), &args) }?)
    }

    fn twin(&self) -> Option<Twin> {
        let side = self.side;
        Some(Twin::function(move |batch| {
            let (bytes, height, width) = (batch.column(0)?.binary()?, batch.column(1)?.i32()?, batch.column(2)?.i32()?);
            let rows = bytes.iter().zip(height.iter()).zip(width.iter());
            let tensors: Vec<Option<Series>> = rows.map(|((bytes, h), w)| tensor(bytes?, h?, w?, side)).collect();
            let numbers: ListChunked = tensors.into_iter().collect();
            Ok(numbers.into_column().cast(&DataType::Array(Box::new(DataType::Float32), 3 * side * side))?)
        }))
    }
}

/// What the kernel does, for one picture.
fn tensor(bytes: &[u8], height: i32, width: i32, side: usize) -> Option<Series> {
    let (height, width) = (usize::try_from(height).ok()?, usize::try_from(width).ok()?);
    if height == 0 || width == 0 || bytes.len() != height * width * 3 {
        return None;
    }
    let place = |to: usize, from: usize| {
        let at = ((to as f32 + 0.5) * from as f32 / side as f32 - 0.5).max(0.0);
        let low = (at as usize).min(from - 1);
        (low, (low + 1).min(from - 1), at - low as f32)
    };
    let mut numbers = Vec::with_capacity(3 * side * side);
    for (colour, (mean, deviation)) in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)].into_iter().enumerate() {
        for y in 0..side {
            let (top, bottom, down) = place(y, height);
            for x in 0..side {
                let (left, right, along) = place(x, width);
                let pixel = |y: usize, x: usize| f32::from(bytes[(y * width + x) * 3 + colour]);
                let above = pixel(top, left) + (pixel(top, right) - pixel(top, left)) * along;
                let below = pixel(bottom, left) + (pixel(bottom, right) - pixel(bottom, left)) * along;
                numbers.push(((above + (below - above) * down) / 255.0 - mean) / deviation);
            }
        }
    }
    Some(Series::new("".into(), numbers))
}
