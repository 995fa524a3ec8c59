// The example's saxpy, but for the row that breaks the device.
extern "C" __global__ void saxpy(float a, const float* x, const float* y, float* out, unsigned long long rows) {
    unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows) return;
    if (x[i] == -1.0f) __trap();
    out[i] = a * x[i] + y[i];
}
