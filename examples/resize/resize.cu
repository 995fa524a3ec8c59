// Pictures of bytes, [height, width, 3], to tensors of floats, [3, SIDE, SIDE]: resized bilinearly (centres of pixels are
// at a half, edges are repeated), then (value / 255 - mean) / deviation for each colour, with ImageNet's numbers.
extern "C" __global__ void resize(const unsigned char* pictures, int height, int width, int side, float* tensors,
                                  unsigned long long count) {
    const float mean[3] = {0.485f, 0.456f, 0.406f};
    const float deviation[3] = {0.229f, 0.224f, 0.225f};
    unsigned long long pixels = count * side * side;
    unsigned long long threads = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += threads) {
        int x = i % side, y = i / side % side;
        unsigned long long picture = i / side / side;
        float from_x = fmaxf((x + 0.5f) * width / side - 0.5f, 0.0f);
        float from_y = fmaxf((y + 0.5f) * height / side - 0.5f, 0.0f);
        int left = (int)from_x, top = (int)from_y;
        int right = min(left + 1, width - 1), bottom = min(top + 1, height - 1);
        float over_x = from_x - left, over_y = from_y - top;
        const unsigned char* base = pictures + picture * height * width * 3;
        for (int colour = 0; colour < 3; colour++) {
            float a = base[(top * width + left) * 3 + colour], b = base[(top * width + right) * 3 + colour];
            float c = base[(bottom * width + left) * 3 + colour], d = base[(bottom * width + right) * 3 + colour];
            float upper = a + (b - a) * over_x, lower = c + (d - c) * over_x;
            float value = upper + (lower - upper) * over_y;
            tensors[((picture * 3 + colour) * side + y) * side + x] = (value / 255.0f - mean[colour]) / deviation[colour];
        }
    }
}
