// Whether a row's bit is set; no bits: no nulls.
__device__ bool is_set(const unsigned* bits, unsigned long long row) {
    return !bits || (bits[row / 32] >> (row % 32) & 1);
}

// Pictures of bytes, [height, width, 3] each, to tensors of floats, [3, side, side]: resized bilinearly (centres of pixels are
// at a half, edges are repeated), then (value / 255 - mean) / deviation for each colour, with ImageNet's numbers. Picture `i`
// has the bytes from offsets[i] to offsets[i + 1]; one that is not as long as its height and width say, or of which one of the
// three is null, becomes null: its bit in `valid` is cleared.
extern "C" __global__ void resize(const unsigned char* bytes, const long long* offsets, const int* heights,
                                  const int* widths, const unsigned* has_bytes, const unsigned* has_height,
                                  const unsigned* has_width, int side, float* tensors, unsigned* valid,
                                  unsigned long long count) {
    const float mean[3] = {0.485f, 0.456f, 0.406f};
    const float deviation[3] = {0.229f, 0.224f, 0.225f};
    unsigned long long pixel = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    unsigned long long picture = pixel / side / side;
    if (picture >= count) return;
    int x = pixel % side, y = pixel / side % side, height = heights[picture], width = widths[picture];
    bool there = is_set(has_bytes, picture) && is_set(has_height, picture) && is_set(has_width, picture);
    bool fits = height > 0 && width > 0 && offsets[picture + 1] - offsets[picture] == (long long)height * width * 3;
    if (!there || !fits) {
        if (x == 0 && y == 0) atomicAnd(&valid[picture / 32], ~(1u << (picture % 32)));
        return;
    }
    float from_x = fmaxf((x + 0.5f) * width / side - 0.5f, 0.0f);
    float from_y = fmaxf((y + 0.5f) * height / side - 0.5f, 0.0f);
    int left = min((int)from_x, width - 1), top = min((int)from_y, height - 1);
    int right = min(left + 1, width - 1), bottom = min(top + 1, height - 1);
    float over_x = from_x - left, over_y = from_y - top;
    const unsigned char* upper = bytes + offsets[picture] + (long long)top * width * 3;
    const unsigned char* lower = bytes + offsets[picture] + (long long)bottom * width * 3;
    for (int colour = 0; colour < 3; colour++) {
        float a = upper[left * 3 + colour], b = upper[right * 3 + colour];
        float c = lower[left * 3 + colour], d = lower[right * 3 + colour];
        float above = a + (b - a) * over_x, below = c + (d - c) * over_x;
        float value = above + (below - above) * over_y;
        tensors[((picture * 3 + colour) * side + y) * side + x] = (value / 255.0f - mean[colour]) / deviation[colour];
    }
}
