// What MiniLM's encoder (BERT) needs besides matrix products. HIDDEN is the width of a token's vector, HEADS how many heads
// attend, each to HIDDEN / HEADS numbers. One warp works on one row, so a block has 32 threads.

#define HEAD (HIDDEN / HEADS)
#define EACH (HIDDEN / 32)

__device__ float sum_of_warp(float value) {
    for (int by = 16; by > 0; by /= 2) value += __shfl_xor_sync(0xffffffffu, value, by);
    return value;
}

// Layer normalisation of a row, of which each lane has every 32nd number.
__device__ void normalise(float row[EACH], const float* gain, const float* bias, float* out) {
    float sum = 0;
    for (int i = 0; i < EACH; i++) sum += row[i];
    float mean = sum_of_warp(sum) / HIDDEN;
    float squares = 0;
    for (int i = 0; i < EACH; i++) squares += (row[i] - mean) * (row[i] - mean);
    float scale = rsqrtf(sum_of_warp(squares) / HIDDEN + 1e-12f);
    for (int i = 0; i < EACH; i++) {
        int at = i * 32 + threadIdx.x;
        out[at] = (row[i] - mean) * scale * gain[at] + bias[at];
    }
}

// Tokens to vectors: word + position + the one type of token, normalised. `tokens` is [sentences, length]; the grid is
// (length, sentences), and tokens outside the vocabulary become its first one.
extern "C" __global__ void embed(const int* tokens, int vocabulary, const float* words, const float* positions,
                                 const float* types, const float* gain, const float* bias, float* out) {
    size_t token = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    unsigned word = tokens[token];
    if (word >= vocabulary) word = 0;
    float row[EACH];
    for (int i = 0; i < EACH; i++) {
        int at = i * 32 + threadIdx.x;
        row[i] = words[(size_t)word * HIDDEN + at] + positions[(size_t)blockIdx.x * HIDDEN + at] + types[at];
    }
    normalise(row, gain, bias, out + token * HIDDEN);
}

// [sentences, length, HIDDEN] plus a bias to [sentences, HEADS, length, HEAD]: each head's rows one after the other. The
// grid is (length, sentences).
extern "C" __global__ void split_heads(const float* in, const float* bias, float* out) {
    size_t token = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    for (int at = threadIdx.x; at < HIDDEN; at += 32) {
        int head = at / HEAD;
        size_t row = ((size_t)blockIdx.y * HEADS + head) * gridDim.x + blockIdx.x;
        out[row * HEAD + at % HEAD] = in[token * HIDDEN + at] + bias[at];
    }
}

// The way back.
extern "C" __global__ void merge_heads(const float* in, float* out) {
    size_t token = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    for (int at = threadIdx.x; at < HIDDEN; at += 32) {
        size_t row = ((size_t)blockIdx.y * HEADS + at / HEAD) * gridDim.x + blockIdx.x;
        out[token * HIDDEN + at] = in[row * HEAD + at % HEAD];
    }
}

// Softmax of attention scores [sentences, HEADS, length, length] in place, over the first `lengths[sentence]` of each row;
// the others, which are padding, get 0. The grid is (length, HEADS, sentences).
extern "C" __global__ void softmax(float* scores, const int* lengths, float scale) {
    int length = gridDim.x, real = min(max(lengths[blockIdx.z], 1), length);
    float* row = scores + (((size_t)blockIdx.z * HEADS + blockIdx.y) * length + blockIdx.x) * length;
    float largest = -3.0e38f;
    for (int i = threadIdx.x; i < real; i += 32) largest = fmaxf(largest, row[i] * scale);
    for (int by = 16; by > 0; by /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, by));
    float sum = 0;
    for (int i = threadIdx.x; i < real; i += 32) sum += expf(row[i] * scale - largest);
    float over = 1.0f / sum_of_warp(sum);
    for (int i = threadIdx.x; i < length; i += 32) row[i] = i < real ? expf(row[i] * scale - largest) * over : 0.0f;
}

// x = normalise(x + y + bias), for each of the grid's rows.
extern "C" __global__ void add_and_normalise(float* x, const float* y, const float* bias, const float* gain,
                                             const float* shift) {
    float* out = x + (size_t)blockIdx.x * HIDDEN;
    const float* added = y + (size_t)blockIdx.x * HIDDEN;
    float row[EACH];
    for (int i = 0; i < EACH; i++) {
        int at = i * 32 + threadIdx.x;
        row[i] = out[at] + added[at] + bias[at];
    }
    normalise(row, gain, shift, out);
}

// x = gelu(x + bias), exactly (by erf), for rows of `width`.
extern "C" __global__ void bias_gelu(float* x, const float* bias, int width, unsigned long long numbers) {
    unsigned long long threads = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < numbers; i += threads) {
        float value = x[i] + bias[i % width];
        x[i] = 0.5f * value * (1.0f + erff(value * 0.70710678f));
    }
}

// A sentence's vector: the mean of its tokens, without the padding, of length 1. The grid is (sentences).
extern "C" __global__ void mean_pool(const float* tokens, const int* lengths, int length, float* out) {
    int real = min(max(lengths[blockIdx.x], 1), length);
    float row[EACH], squares = 0;
    for (int i = 0; i < EACH; i++) {
        float sum = 0;
        for (int token = 0; token < real; token++)
            sum += tokens[((size_t)blockIdx.x * length + token) * HIDDEN + i * 32 + threadIdx.x];
        row[i] = sum / real;
        squares += row[i] * row[i];
    }
    float scale = rsqrtf(fmaxf(sum_of_warp(squares), 1e-24f));
    for (int i = 0; i < EACH; i++) out[(size_t)blockIdx.x * HIDDEN + i * 32 + threadIdx.x] = row[i] * scale;
}

// How many tokens of each sentence are not padding, which is the token 0. The grid is (sentences).
extern "C" __global__ void count_tokens(const int* tokens, int length, int* lengths) {
    int real = 0;
    for (int i = threadIdx.x; i < length; i += 32) real += tokens[(size_t)blockIdx.x * length + i] != 0;
    for (int by = 16; by > 0; by /= 2) real += __shfl_xor_sync(0xffffffffu, real, by);
    if (threadIdx.x == 0) lengths[blockIdx.x] = real;
}
