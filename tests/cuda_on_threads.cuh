// What CUDA brings, for lanes that are threads of a CPU: their number, shared memory, barriers, what the lanes of a
// warp do together, atomics, bits, and products on tensor cores.
#pragma once

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

constexpr int WARPS = 2;

static std::barrier<> block_barrier(32 * WARPS);
static std::barrier<> warp_barrier[WARPS] = {std::barrier<>(32), std::barrier<>(32)};
static std::uint32_t exchanged[WARPS][32];
static thread_local int thread;
#define threadIdx (Thread{thread})
#define __shared__ static
struct Thread {
  int x;
};

using std::max;
using std::min;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

static void __syncwarp() { warp_barrier[thread / 32].arrive_and_wait(); }
static void __syncthreads() { block_barrier.arrive_and_wait(); }
static int __syncthreads_count(int mine) {
  static std::atomic<int> count;
  if (thread == 0) count = 0;
  __syncthreads();
  count += mine;
  __syncthreads();
  const int result = count;
  __syncthreads();
  return result;
}
static int __syncthreads_or(int mine) { return __syncthreads_count(mine != 0) > 0; }

// Also orders what lanes have written, which CUDA does not promise.
template <class Combine>
static std::uint32_t over_warp(std::uint32_t mine, Combine combine) {
  exchanged[thread / 32][thread % 32] = mine;
  __syncwarp();
  const std::uint32_t result = combine(exchanged[thread / 32]);
  __syncwarp();
  return result;
}

static unsigned __ballot_sync(unsigned, bool mine) {
  return over_warp(mine, [](const std::uint32_t* all) {
    std::uint32_t bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= all[lane] << lane;
    return bits;
  });
}
static bool __any_sync(unsigned, bool mine) { return __ballot_sync(~0u, mine) != 0; }
static bool __all_sync(unsigned, bool mine) { return __ballot_sync(~0u, mine) == ~0u; }
static unsigned __reduce_max_sync(unsigned, unsigned mine) {
  return over_warp(mine, [](const std::uint32_t* all) { return *std::max_element(all, all + 32); });
}
static unsigned __reduce_min_sync(unsigned, unsigned mine) {
  return over_warp(mine, [](const std::uint32_t* all) { return *std::min_element(all, all + 32); });
}
static int __reduce_add_sync(unsigned, int mine) {
  return static_cast<int>(over_warp(static_cast<std::uint32_t>(mine), [](const std::uint32_t* all) {
    std::uint32_t sum = 0;
    for (int lane = 0; lane < 32; ++lane) sum += all[lane];
    return sum;
  }));
}

template <class T>
static T from_lane(T mine, int lane) {
  std::uint32_t bits;
  std::memcpy(&bits, &mine, sizeof(bits));
  bits = over_warp(bits, [&](const std::uint32_t* all) { return all[lane]; });
  T result;
  std::memcpy(&result, &bits, sizeof(bits));
  return result;
}
template <class T>
static T __shfl_sync(unsigned, T mine, int lane, int width = 32) {
  return from_lane(mine, thread % 32 / width * width + lane % width);
}
template <class T>
static T __shfl_down_sync(unsigned, T mine, int by) {
  return from_lane(mine, thread % 32 + by < 32 ? thread % 32 + by : thread % 32);
}
template <class T>
static T __shfl_up_sync(unsigned, T mine, int by) {
  return from_lane(mine, thread % 32 >= by ? thread % 32 - by : thread % 32);
}

template <class T>
static T __shfl_xor_sync(unsigned, T mine, int distance) {
  return from_lane(mine, thread % 32 ^ distance);
}

// Like those of CUDA, these do not order what is around them.
template <class T>
static T atomicAdd(T* target, std::type_identity_t<T> amount) {
  return std::atomic_ref<T>(*target).fetch_add(amount, std::memory_order_relaxed);
}
template <class T>
static void atomicMax(T* target, T value) {
  std::atomic_ref<T> atomic(*target);
  T present = atomic.load(std::memory_order_relaxed);
  while (value > present && !atomic.compare_exchange_weak(present, value, std::memory_order_relaxed)) {
  }
}

static std::uint32_t __float_as_uint(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return value == value ? bits : 0x7fffffffu;  // as a GPU writes NaN
}
static float __uint_as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}
static int __popc(unsigned bits) { return __builtin_popcount(bits); }
static int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
static int __clz(unsigned bits) { return bits ? __builtin_clz(bits) : 32; }
static unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const std::uint64_t bytes = static_cast<std::uint64_t>(high) << 32 | low;
  unsigned result = 0;
  for (int k = 0; k < 4; ++k) result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * k & 7) & 0xff) << 8 * k;
  return result;
}
static unsigned __funnelshift_l(unsigned low, unsigned high, int by) {
  return static_cast<unsigned>(((static_cast<std::uint64_t>(high) << 32 | low) << (by & 31)) >> 32);
}

#include "engine/half.cuh"
#include "engine/portable.cuh"
#include "engine/tensor_cores_cuda.cuh"

static float from_half(std::uint32_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, sizeof(value));
  return static_cast<float>(value);
}
static Pair pair_of(float first, float second) {
  return {to_float16(first) | static_cast<std::uint32_t>(to_float16(second)) << 16};
}
static float first_of(Pair pair) { return from_half(pair.bits & 0xffff); }
static float second_of(Pair pair) { return from_half(pair.bits >> 16); }
static Pair firsts_of(Pair one, Pair other) { return {(one.bits & 0xffffu) | other.bits << 16}; }
static Pair seconds_of(Pair one, Pair other) { return {one.bits >> 16 | (other.bits & 0xffff0000u)}; }
static Pair swapped(Pair pair) { return {pair.bits >> 16 | pair.bits << 16}; }
static Pair min(Pair a, Pair b) {
  return pair_of(std::fmin(first_of(a), first_of(b)), std::fmin(second_of(a), second_of(b)));
}
static Pair max(Pair a, Pair b) {
  return pair_of(std::fmax(first_of(a), first_of(b)), std::fmax(second_of(a), second_of(b)));
}

// A sum of terms of which only those bits count that are among the upper 24 of the largest.
static float truncated_sum(const float (&terms)[9]) {
  float largest = 0;
  double exact = 0, sum = 0;
  for (const float term : terms) {
    largest = std::fmax(largest, std::fabs(term));
    exact += term;
  }
  if (!std::isfinite(exact) || largest == 0) return static_cast<float>(exact);
  const int unit = std::ilogb(largest) - 23;
  for (const float term : terms) sum += std::ldexp(std::trunc(std::ldexp(static_cast<double>(term), -unit)), unit);
  return static_cast<float>(sum);
}

static void add_product(Pair upper, Pair lower, Pair column, float (&sum)[4]) {
  struct Operands {
    Pair upper, lower, column;
  };
  static Operands operands[WARPS][2][32];  // those of the call before may still be read
  static thread_local int turn = 0;
  turn ^= 1;
  const auto& of_lane = operands[thread / 32][turn];
  operands[thread / 32][turn][thread % 32] = {upper, lower, column};
  __syncwarp();
  const int quad = thread % 32 / 4, pair = thread % 4;
  for (int k = 0; k < 4; ++k) {
    float terms[9] = {sum[k]};
    for (int t = 0; t < 4; ++t) {
      const Pair row = k < 2 ? of_lane[4 * quad + t].upper : of_lane[4 * quad + t].lower;
      const Pair other = of_lane[4 * (2 * pair + k % 2) + t].column;
      terms[1 + 2 * t] = first_of(row) * first_of(other);
      terms[2 + 2 * t] = second_of(row) * second_of(other);
    }
    sum[k] = truncated_sum(terms);
  }
}
static void add_product(Pair upper, Pair lower, Pair column, Pair (&sum)[2]) {
  float sums[4] = {first_of(sum[0]), second_of(sum[0]), first_of(sum[1]), second_of(sum[1])};
  add_product(upper, lower, column, sums);
  sum[0] = pair_of(sums[0], sums[1]);
  sum[1] = pair_of(sums[2], sums[3]);
}
