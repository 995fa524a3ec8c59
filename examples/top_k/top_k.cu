// The k largest scores of each row. A block takes SPAN scores of one row, and leaves the k best of them; run again on what
// the blocks of a row left, until one block is enough. Equal scores: the smaller id comes first. k is at most SPAN.

#define THREADS 256
#define EACH 8
#define SPAN (THREADS * EACH)
#define LOWEST __int_as_float(0xff800000)

struct Best {
    float score;
    int id;
    int thread;
};

__device__ bool before(float score, int id, float other, int other_id) {
    return score > other || (score == other && id < other_id);
}

__device__ Best best_of_warp(Best mine) {
    for (int by = 16; by > 0; by /= 2) {
        float score = __shfl_xor_sync(0xffffffffu, mine.score, by);
        int id = __shfl_xor_sync(0xffffffffu, mine.id, by);
        int thread = __shfl_xor_sync(0xffffffffu, mine.thread, by);
        if (before(score, id, mine.score, mine.id)) {
            mine.score = score;
            mine.id = id;
            mine.thread = thread;
        }
    }
    return mine;
}

// `scores` is [rows, width], `ids` too, or none: then a score's id is its column. `best_scores` and `best_ids` are
// [rows, gridDim.y * k]. The grid is (rows, ceil(width / SPAN)), a block THREADS. Places for which there is no score get the
// id 2147483647.
extern "C" __global__ __launch_bounds__(THREADS) void top_k(const float* scores, const int* ids, int width, int k,
                                                                float* best_scores, int* best_ids) {
    __shared__ Best warps[THREADS / 32];
    size_t row = (size_t)blockIdx.x * width;
    size_t out = ((size_t)blockIdx.x * gridDim.y + blockIdx.y) * k;
    float score[EACH];
    int id[EACH];
#pragma unroll
    for (int j = 0; j < EACH; j++) {
        int at = blockIdx.y * SPAN + j * THREADS + threadIdx.x;
        bool there = at < width;
        score[j] = there ? scores[row + at] : LOWEST;
        // A score that is not a number is never among the best.
        bool usable = there && score[j] == score[j];
        if (!usable) score[j] = LOWEST;
        id[j] = !usable ? 2147483647 : ids ? ids[row + at] : at;
    }
    for (int place = 0; place < k; place++) {
        Best mine = {LOWEST, 2147483647, (int)threadIdx.x};
#pragma unroll
        for (int j = 0; j < EACH; j++)
            if (before(score[j], id[j], mine.score, mine.id)) {
                mine.score = score[j];
                mine.id = id[j];
            }
        Best best = best_of_warp(mine);
        if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
        __syncthreads();
        best = warps[0];
        for (int warp = 1; warp < THREADS / 32; warp++)
            if (before(warps[warp].score, warps[warp].id, best.score, best.id)) best = warps[warp];
        __syncthreads();
        if (threadIdx.x == 0) {
            best_scores[out + place] = best.score;
            best_ids[out + place] = best.id;
        }
        if (best.thread == threadIdx.x) {
#pragma unroll
            for (int j = 0; j < EACH; j++)
                if (id[j] == best.id) {
                    score[j] = LOWEST;
                    id[j] = 2147483647;
                }
        }
    }
}

// Each row divided by its length: then products of rows are cosines. A warp per row; the grid is (rows), a block 32.
extern "C" __global__ void normalise(const float* rows, float* out, int dim) {
    const float* row = rows + (size_t)blockIdx.x * dim;
    float sum = 0;
    for (int i = threadIdx.x; i < dim; i += 32) sum += row[i] * row[i];
    for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    float scale = sum > 0 ? rsqrtf(sum) : 0;
    for (int i = threadIdx.x; i < dim; i += 32) out[(size_t)blockIdx.x * dim + i] = row[i] * scale;
}
