// out = a * x + y, row by row. Rows whose bit in `valid` is unset are null: what they hold is not read. No bits: no nulls.
extern "C" __global__ void saxpy(float a, const float* x, const float* y, const unsigned char* valid, float* out,
                                 unsigned long long rows) {
    unsigned long long threads = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < rows; i += threads)
        if (!valid || (valid[i / 8] >> (i % 8) & 1)) out[i] = a * x[i] + y[i];
}
