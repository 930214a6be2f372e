// Pairs of numbers in half precision, and products of small matrices of them, which all lanes of a warp compute
// together on the tensor cores.
//
// A quad is four lanes 4 g, …, 4 g + 3. Lane t of it holds entries 2 t and 2 t + 1 of rows g and g + 8 of the first
// matrix (16 rows of 8), of column g of the second (8 columns of 8), and of rows g and g + 8 of the result (16 rows of
// 8).
#pragma once

#include "portable.cuh"

// Two numbers in half precision, the first of them in the lower bits.
struct Pair {
  std::uint32_t bits;
};

#ifdef __CUDACC__

METHOD Pair pair_of(float first, float second) {
  Pair result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result.bits) : "f"(second), "f"(first));
  return result;
}

METHOD float first_of(Pair pair) {
  float result;
  asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }" : "=f"(result) : "r"(pair.bits));
  return result;
}

METHOD float second_of(Pair pair) {
  float result;
  asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high; }" : "=f"(result) : "r"(pair.bits));
  return result;
}

METHOD Pair min(Pair one, Pair other) {
  Pair result;
  asm("min.f16x2 %0, %1, %2;" : "=r"(result.bits) : "r"(one.bits), "r"(other.bits));
  return result;
}

METHOD Pair max(Pair one, Pair other) {
  Pair result;
  asm("max.f16x2 %0, %1, %2;" : "=r"(result.bits) : "r"(one.bits), "r"(other.bits));
  return result;
}

// Adds the product of two matrices, of which a lane has two columns of `upper` and `lower` rows and of `column`. The
// sum is rounded to half precision, and its first and second entries are pairs.
METHOD void add_product(Pair upper, Pair lower, Pair column, Pair (&sum)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3}, {%4}, {%5, %6};"
               : "=r"(sum[0].bits), "=r"(sum[1].bits)
               : "r"(upper.bits), "r"(lower.bits), "r"(column.bits), "r"(sum[0].bits), "r"(sum[1].bits));
}

// The same in single precision.
METHOD void add_product(Pair upper, Pair lower, Pair column, float (&sum)[4]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
               : "=f"(sum[0]), "=f"(sum[1]), "=f"(sum[2]), "=f"(sum[3])
               : "r"(upper.bits), "r"(lower.bits), "r"(column.bits), "f"(sum[0]), "f"(sum[1]), "f"(sum[2]),
                 "f"(sum[3]));
}

METHOD Pair firsts_of(Pair one, Pair other) { return {__byte_perm(one.bits, other.bits, 0x5410)}; }
METHOD Pair seconds_of(Pair one, Pair other) { return {__byte_perm(one.bits, other.bits, 0x7632)}; }
METHOD Pair swapped(Pair pair) { return {__byte_perm(pair.bits, pair.bits, 0x1032)}; }

#endif

// Lane t of each quad gets what lane r of it has in value[t], for r = 0, …, 3.
METHOD void transpose_in_quads(int lane, std::uint32_t (&value)[4]) {
  const auto exchange = [&](int distance, std::uint32_t& one, std::uint32_t& other) {
    const bool is_upper = (lane & distance) != 0;
    const std::uint32_t received = __shfl_xor_sync(~0u, is_upper ? one : other, distance);
    (is_upper ? one : other) = received;
  };
  exchange(1, value[0], value[1]);
  exchange(1, value[2], value[3]);
  exchange(2, value[0], value[2]);
  exchange(2, value[1], value[3]);
}

// The same in any order, for less: lane t of each quad gets what its lanes have in value[t].
METHOD void gather_in_quads(int lane, std::uint32_t (&value)[4]) {
  const auto exchange = [&](int distance, std::uint32_t& one, std::uint32_t& other) {
    const bool is_upper = (lane & distance) != 0;
    const std::uint32_t received = __shfl_xor_sync(~0u, is_upper ? one : other, distance);
    one = is_upper ? other : one;
    other = received;
  };
  exchange(1, value[0], value[1]);
  exchange(1, value[2], value[3]);
  exchange(2, value[0], value[2]);
  exchange(2, value[1], value[3]);
}
