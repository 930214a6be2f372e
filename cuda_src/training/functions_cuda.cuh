// The functions of training on a GPU.
#pragma once

#include <cuda_pipeline.h>

#include <cstdint>

#include "engine/portable.cuh"

template <class Function>
METHOD void over_indexes(const Function& function) {
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < function.size()) function.run(i);
}

// Rows of so many entries, laid end to end. Widths and the entries of a block are fewer than 2^16.
class Rows {
 public:
  METHOD explicit Rows(int width) : reciprocal_(width > 1 ? ~0u / width + 1 : 0) {}

  // The row of entry k: k / width.
  METHOD int operator()(int k) const { return reciprocal_ == 0 ? k : static_cast<int>(__umulhi(k, reciprocal_)); }

 private:
  unsigned reciprocal_;
};

// In shared memory rows start an odd number of words apart, so that lanes which access the same entry of their rows
// meet in no bank.
METHOD int staged_stride(int width) { return width | 1; }

// Brings a block's rows to shared memory as whole lines.
template <class Function>
METHOD void load_rows(const Function& function, std::size_t first, int rows, float* stage) {
  const int width = function.width(), count = rows * width, padding = staged_stride(width) - width;
  const std::size_t before = first * width;
  const float* input = function.input + before;
  const Rows row(padding == 0 ? 1 : width);
  if (!function.loads_unchanged()) {
#pragma unroll 4
    for (int k = threadIdx.x; k < count; k += blockDim.x) stage[k + padding * row(k)] = function.entry(before + k);
  } else if (padding == 0 && count % 4 == 0 && reinterpret_cast<std::uintptr_t>(input) % 16 == 0) {
    for (int k = 4 * threadIdx.x; k < count; k += 4 * blockDim.x) __pipeline_memcpy_async(stage + k, input + k, 16);
  } else {
    for (int k = threadIdx.x; k < count; k += blockDim.x)
      __pipeline_memcpy_async(stage + k + padding * row(k), input + k, 4);
  }
  __pipeline_commit();
  __pipeline_wait_prior(0);
}

// Stores the first entries of a block's rows as whole lines.
template <class Function>
METHOD void store_rows(const Function& function, std::size_t first, int rows, const float* stage) {
  const int stride = staged_stride(function.width()), results = function.results();
  auto* output = reinterpret_cast<float*>(function.output) + first * results;
  const Rows row(results);
  for (int k = threadIdx.x; k < rows * results; k += blockDim.x) output[k] = stage[k + (stride - results) * row(k)];
}

// A block works on as many rows as it has threads.
template <class Function>
METHOD void over_rows(const Function& function) {
  extern __shared__ __align__(16) float stage[];
  const std::size_t first = static_cast<std::size_t>(blockIdx.x) * blockDim.x, left = function.size() - first;
  const int rows = left < blockDim.x ? static_cast<int>(left) : static_cast<int>(blockDim.x);
  load_rows(function, first, rows, stage);
  __syncthreads();
  if (threadIdx.x < rows) function.run(first + threadIdx.x, stage + threadIdx.x * staged_stride(function.width()));
  __syncthreads();
  store_rows(function, first, rows, stage);
}

// The lanes of some warps copy bytes, as many at once as their number and their addresses allow.
template <class Unit>
METHOD void copy_as(unsigned char* to, const unsigned char* from, std::int64_t bytes, int lane, int lanes) {
  const std::int64_t count = bytes / static_cast<std::int64_t>(sizeof(Unit));
#pragma unroll 4
  for (std::int64_t k = lane; k < count; k += lanes)
    reinterpret_cast<Unit*>(to)[k] = reinterpret_cast<const Unit*>(from)[k];
}

METHOD void copy_bytes(unsigned char* to, const unsigned char* from, std::int64_t bytes, int lane, int lanes) {
  const auto all = reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from) | bytes;
  if (all % 16 == 0)
    copy_as<int4>(to, from, bytes, lane, lanes);
  else if (all % 4 == 0)
    copy_as<int>(to, from, bytes, lane, lanes);
  else
    copy_as<unsigned char>(to, from, bytes, lane, lanes);
}

// A warp looks at 32 copies, a lane at each; then its lanes together keep what the truncated ones saw.
template <class Function>
METHOD void over_copies(const Function& function) {
  const std::size_t warp = (static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const std::size_t first = warp / function.parts * 32;
  const int lane = static_cast<int>(threadIdx.x % 32), part = static_cast<int>(warp % function.parts);
  const bool exists = first + lane < static_cast<std::size_t>(function.copies);
  if (exists && part == 0) function.add_statistics(first + lane);
  const unsigned truncated = __ballot_sync(~0u, exists && function.is_truncated(first + lane));
  for (unsigned left = truncated; left != 0; left &= left - 1) {
    const std::size_t copy = first + __ffs(left) - 1;
    int slot = function.truncations(copy, lane, 32);
    for (int distance = 16; distance > 0; distance /= 2) slot += __shfl_xor_sync(~0u, slot, distance);
    for (int k = 0; k < function.rows; ++k)
      copy_bytes(function.destination(k, copy, slot), function.source(k, copy), function.bytes[k], 32 * part + lane,
                 32 * function.parts);
  }
}

#define FUNCTION(name, over) \
  extern "C" __global__ void gpu_marl_##name(const __grid_constant__ name function) { over(function); }
#define OVER_INDEXES(name) FUNCTION(name, over_indexes)
#define OVER_ROWS(name) FUNCTION(name, over_rows)
#define OVER_COPIES(name) FUNCTION(name, over_copies)

#include "functions.cuh"
