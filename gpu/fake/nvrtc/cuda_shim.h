// CUDA C++ as C++ of the host, for the tests: one thread after the other.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
struct fake_dim { unsigned x, y, z; };
static thread_local fake_dim threadIdx, blockIdx, blockDim, gridDim;
static thread_local unsigned fake_trapped;
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
inline void __trap() { fake_trapped = 719; }
template <class F> void fake_grid(const unsigned* grid, const unsigned* block, F run) {
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)
        for (threadIdx.z = 0; threadIdx.z < block[2]; ++threadIdx.z)
          for (threadIdx.y = 0; threadIdx.y < block[1]; ++threadIdx.y)
            for (threadIdx.x = 0; threadIdx.x < block[0]; ++threadIdx.x) run();
}
template <class... A, size_t... I>
unsigned fake_run(void (*f)(A...), const unsigned* grid, const unsigned* block, void** args, std::integer_sequence<size_t, I...>) {
  fake_trapped = 0;
  fake_grid(grid, block, [&] { f(*static_cast<A*>(args[I])...); });
  return fake_trapped;
}
template <class... A> unsigned fake_run(void (*f)(A...), const unsigned* grid, const unsigned* block, void** args) {
  return fake_run(f, grid, block, args, std::index_sequence_for<A...>{});
}
template <class... A> size_t fake_sizes(void (*)(A...), size_t* sizes) {
  size_t all[] = {sizeof(A)...};
  memcpy(sizes, all, sizeof all);
  return sizeof...(A);
}
#define REGATTA_KERNEL(name)                                                                                        \
  extern "C" unsigned name##_on_host(const unsigned* grid, const unsigned* block, unsigned, void** args) {           \
    return fake_run(name, grid, block, args);                                                                       \
  }                                                                                                                 \
  extern "C" size_t name##_arg_sizes(size_t* sizes) { return fake_sizes(name, sizes); }
