// Stores 2,000,000 rows of floats, those of 100 copies one after the other, and nothing else: in the order of memory,
// or in a random order within each copy. Warps store 16 rows at a time from shared memory with the copy engine, as
// cuda_src/engine/staged_rows_cuda.cuh does. Prints microseconds; see benchmarks/scattered_rows.py.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

constexpr int copies = 100, agents = 20'000, rows = copies * agents;
constexpr int threads = 128, blocks_of_multiprocessor = 3;  // twice as many are slower
constexpr int at_once = 16, line = 32;                      // rows of a warp, and floats
constexpr int room = 104;                                   // floats for a row, wherever it starts in a line

enum class Way { together, one_by_one, prefetched };

__device__ void store(float* to, const float* from, int count, int lane, int lanes) {
  const int head = min(-static_cast<int>(reinterpret_cast<std::uintptr_t>(to) / 4) & 3, count);
  const int bulk = (count - head) / 4 * 4;
  for (int k = lane; k < 4; k += lanes) {
    if (k < head) to[k] = from[k];
    if (head + bulk + k < count) to[head + bulk + k] = from[head + bulk + k];
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (lane == 0)
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to + head),
                 "r"(static_cast<unsigned>(__cvta_generic_to_shared(from + head))), "r"(4 * bulk)
                 : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

template <Way way, int length>
__global__ void __launch_bounds__(threads) store_rows(float* out, const int* order) {
  __shared__ __align__(128) float stages[threads / 32][at_once * room + line];
  float* stage = stages[threadIdx.x / 32];
  const int lane = threadIdx.x % 32, warps = gridDim.x * (threads / 32), row = lane / 2;
  for (int k = lane; k < at_once * room; k += 32) stage[k] = static_cast<float>(k);
  const auto off_line = [](const float* at) {
    return static_cast<int>(reinterpret_cast<std::uintptr_t>(at) / 4 % line);
  };
  for (int part = blockIdx.x * (threads / 32) + threadIdx.x / 32; part < rows / at_once; part += warps) {
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    __syncwarp();
    if (way == Way::together) {
      float* to = out + static_cast<std::size_t>(part) * at_once * length;
      store(to, stage + off_line(to), at_once * length, lane, 32);
      continue;
    }
    const int next = part + warps;
    if (way == Way::prefetched && next < rows / at_once) {
      const float* its = out + static_cast<std::size_t>(order[next * at_once + row]) * length;
      asm volatile("prefetch.global.L2 [%0];" ::"l"(its + (lane % 2 == 0 ? 0 : length - 1)));
    }
    float* to = out + static_cast<std::size_t>(order[part * at_once + row]) * length;
    float* from = stage + row * room;
    from += (off_line(to) - off_line(from)) & (line - 1);  // as far off a line as there
    store(to, from, length, lane % 2, 2);
  }
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

static void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

template <Way way, int length>
static float microseconds(float* out, const int* order, int multiprocessors) {
  cudaEvent_t start, end;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int k = 0; k < 11; ++k) {
    check(cudaEventRecord(start));
    store_rows<way, length><<<blocks_of_multiprocessor * multiprocessors, threads>>>(out, order);
    check(cudaGetLastError());
    check(cudaEventRecord(end));
    check(cudaEventSynchronize(end));
    float milliseconds;
    check(cudaEventElapsedTime(&milliseconds, start, end));
    times.push_back(1e3f * milliseconds);
  }
  std::nth_element(times.begin(), times.begin() + 5, times.end());
  return times[5];
}

int main() {
  float* out;
  int *in_order, *scattered, multiprocessors;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  check(cudaMalloc(&out, sizeof(float) * 72 * rows));
  check(cudaMalloc(&in_order, sizeof(int) * rows));
  check(cudaMalloc(&scattered, sizeof(int) * rows));
  std::vector<int> order(rows);
  std::iota(order.begin(), order.end(), 0);
  check(cudaMemcpy(in_order, order.data(), sizeof(int) * rows, cudaMemcpyHostToDevice));
  std::mt19937 generator;
  for (int copy = 0; copy < copies; ++copy)
    std::shuffle(order.begin() + copy * agents, order.begin() + (copy + 1) * agents, generator);
  check(cudaMemcpy(scattered, order.data(), sizeof(int) * rows, cudaMemcpyHostToDevice));
  const int n = multiprocessors;
  std::printf("{\"16 rows of 71 floats together\": %.1f,\n", microseconds<Way::together, 71>(out, in_order, n));
  std::printf("\"rows of 71 floats one by one, in order\": %.1f,\n",
              microseconds<Way::one_by_one, 71>(out, in_order, n));
  std::printf("\"rows of 71 floats, scattered\": %.1f,\n", microseconds<Way::one_by_one, 71>(out, scattered, n));
  std::printf("\"rows of 71 floats, scattered, their ends prefetched\": %.1f,\n",
              microseconds<Way::prefetched, 71>(out, scattered, n));
  std::printf("\"rows of 72 floats, scattered\": %.1f}\n", microseconds<Way::one_by_one, 72>(out, scattered, n));
}
