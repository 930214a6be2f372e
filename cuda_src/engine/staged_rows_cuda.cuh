// Rows of observations on their way from shared to device memory.
#pragma once

#include "portable.cuh"

// Whether those who play have shared memory for rows. Where phases share launches, who searches has all of it.
constexpr bool has_stage = !(Geometry::grouped && Geometry::most_cells > 0);

template <class Entry>
constexpr int entries_of_line = 128 / sizeof(Entry);

// The entries by which an address lies behind the start of a line. Shared memory that is shifted as much as its
// destination is copied line by line; the copy engine splits every sector otherwise.
template <class Entry>
METHOD int entries_off_line(const Entry* address) {
  return static_cast<int>(reinterpret_cast<std::uintptr_t>(address) / sizeof(Entry) % entries_of_line<Entry>);
}

// Lets the copy engine see what this lane has written to shared memory, after the next barrier.
METHOD void show_copy_engine() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Has the second-level cache fetch what a row shares with the rows around: sectors of 32 bytes, of which it needs all
// before it stores a part. It would do so when the row is stored, and other loads and stores would wait for that.
template <class Entry>
METHOD void prefetch_ends(const Entry* row, int count) {
  asm volatile("prefetch.global.L2 [%0];\nprefetch.global.L2 [%1];" ::"l"(row), "l"(row + count - 1));
}

// Each `lanes` lanes of a warp store `count` entries of their own; both addresses are equally far off a multiple of 16
// bytes. On cards that have one, the copy engine takes them so many at a time; `from` must not change before
// wait_for_stored_rows has returned.
template <int lanes = 32, class Entry>
METHOD void store_rows(Entry* to, const Entry* from, int count, int lane) {
  constexpr int at_once = 16 / sizeof(Entry);
  const int head = Math::min(-entries_off_line(to) & (at_once - 1), count);
  const int trips = (count - head) / at_once, tail = head + at_once * trips;
#pragma unroll
  for (int k = 0; k < at_once; k += lanes) {
    if (k + lane < head) to[k + lane] = from[k + lane];
    if (k + lane < count - tail) to[tail + k + lane] = from[tail + k + lane];
  }
#if __CUDA_ARCH__ >= 900
  show_copy_engine();
  __syncwarp();
  if (lane == 0 && trips > 0)
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to + head),
                 "r"(static_cast<unsigned>(__cvta_generic_to_shared(from + head))), "r"(16 * trips)
                 : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
  __syncwarp();
#pragma unroll 4
  for (int trip = lane; trip < trips; trip += lanes)
    reinterpret_cast<int4*>(to + head)[trip] = reinterpret_cast<const int4*>(from + head)[trip];
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
