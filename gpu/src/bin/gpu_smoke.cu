// The kernels of gpu_smoke.
// out = a * x + y where the bit is set, else the row is made null.
extern "C" __global__ void saxpy(float a, const float* x, const float* y, const unsigned char* valid, float* out,
                                 unsigned* nulls, unsigned long long rows) {
    unsigned long long row = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    if (!valid || (valid[row / 8] >> (row % 8) & 1)) out[row] = a * x[row] + y[row];
    else if (nulls) atomicAnd(&nulls[row / 32], ~(1u << (row % 32)));
}
// The sum of each block's numbers: shuffles, shared memory and a barrier.
extern "C" __global__ void sums(const float* in, float* out) {
    __shared__ float warps[8];
    float sum = in[blockIdx.x * 256 + threadIdx.x];
    for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < 8; warp++) sum += warps[warp];
        out[blockIdx.x] = sum;
    }
}
// x + y, after at least 32 steps that come to nothing: half of a number and one more ends at two.
extern "C" __global__ void slow(const float* x, const float* y, float* out, int steps, unsigned long long rows) {
    unsigned long long row = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    float two = x[row];
    for (int step = 0; step < steps; step++) two = two * 0.5f + 1.0f;
    out[row] = x[row] + y[row] + (two - 2.0f);
}
// No number, wherever there was one: what a kernel does not write is seen.
extern "C" __global__ void poison(unsigned* out, unsigned long long numbers) {
    unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < numbers) out[i] = 0x7fc0dead;
}
extern "C" __global__ void breaks(int* out) { if (threadIdx.x == 0) __trap(); out[threadIdx.x] = 1; }
