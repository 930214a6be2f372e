// Rows of observations on their way from shared to device memory.
#pragma once

#include "portable.cuh"

constexpr int line_floats = 32;  // 128 bytes

// The floats by which an address lies behind the start of a line. Shared memory that is shifted as much as its
// destination is copied line by line; the copy engine splits every sector otherwise.
METHOD int floats_off_line(const float* address) {
  return static_cast<int>(reinterpret_cast<std::uintptr_t>(address) / sizeof(float) % line_floats);
}

// One warp stores `count` floats; both addresses are equally far off a line. On cards that have one, the copy engine
// takes them 16 bytes at a time; `from` must not change before wait_for_stored_rows has returned.
METHOD void store_rows(float* to, const float* from, int count, int lane) {
  const int head = Math::min(-floats_off_line(to) & 3, count), fours = (count - head) / 4, tail = head + 4 * fours;
  if (lane < head) to[lane] = from[lane];
  if (lane < count - tail) to[tail + lane] = from[tail + lane];
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (lane == 0 && fours > 0)
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to + head),
                 "r"(static_cast<unsigned>(__cvta_generic_to_shared(from + head))), "r"(16 * fours)
                 : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
  __syncwarp();
#pragma unroll 4
  for (int four = lane; four < fours; four += 32)
    reinterpret_cast<float4*>(to + head)[four] = reinterpret_cast<const float4*>(from + head)[four];
#endif
}

// Waits until the warp's shared memory has been read by all but the last `pending` calls of store_rows.
template <int pending = 0>
METHOD void wait_for_stored_rows() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
#endif
  __syncwarp();
}
