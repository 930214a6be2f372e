// Networks that sort numbers in registers: fixed sequences of comparisons, whose course does not depend on the data.
// What nobody reads of a result is not computed. Keys to sort by may be numbers whose lowest bits say what they stand
// for; then some are alike that differ in these bits only.
#pragma once

#include "portable.cuh"

template <int step, int size, class Key>
METHOD void order_two(Key (&key)[size], int low) {
  const Key smaller = min(key[low], key[low + step]);
  key[low + step] = max(key[low], key[low + step]);
  key[low] = smaller;
}

// Merges sorted runs of length `run` two by two.
template <int run, int step, int size, class Key>
METHOD void merge_runs(Key (&key)[size]) {
  constexpr int start = step % run;
#pragma unroll
  for (int low = start; low + step < size; ++low)
    if ((low - start) % (2 * step) < step && low / (2 * run) == (low + step) / (2 * run)) order_two<step>(key, low);
  if constexpr (step > 1) merge_runs<run, step / 2>(key);
}

// Sorts (K. E. Batcher, "Sorting networks and their applications", 1968).
template <int run = 1, int size, class Key>
METHOD void sort_in_registers(Key (&key)[size]) {
  merge_runs<run, run>(key);
  if constexpr (2 * run < size) sort_in_registers<2 * run>(key);
}

template <int low_bits>
METHOD bool are_alike(unsigned one, unsigned other) {
  return (one ^ other) >> low_bits == 0;
}

// Goes through the first keys of some that are sorted, and exchanges neighbours that are alike, as long as they are
// below `none`, unless precedes(one, other) holds. Returns whether it has exchanged any.
template <int low_bits, int count, int size, class Precedes>
METHOD bool put_right(unsigned (&key)[size], unsigned none, Precedes precedes) {
  bool exchanged = false;
#pragma unroll
  for (int k = 0; k + 1 < count; ++k) {
    if (!are_alike<low_bits>(key[k], key[k + 1]) || key[k] >= none || precedes(key[k], key[k + 1])) continue;
    const unsigned later = key[k];
    key[k] = key[k + 1];
    key[k + 1] = later;
    exchanged = true;
  }
  return exchanged;
}

// Sorts numbers that rise and then fall, or the other way round; their count is a power of two.
template <int step, int size, class Key>
METHOD void sort_bitonic(Key (&key)[size]) {
#pragma unroll
  for (int low = 0; low < size; ++low)
    if ((low & step) == 0) order_two<step>(key, low);
  if constexpr (step > 1) sort_bitonic<step / 2>(key);
}

// Replaces sorted numbers by as many, the least of them and of others, which are sorted too.
template <int size, int others>
METHOD void keep_least(unsigned (&key)[size], const unsigned (&other)[others]) {
  constexpr int width = size <= 2 ? 2 : size <= 4 ? 4 : size <= 8 ? 8 : size <= 16 ? 16 : 32;
  static_assert(size <= width, "of so many numbers");
  unsigned least[width];
#pragma unroll
  for (int k = 0; k < width; ++k) {
    const unsigned falling = width - 1 - k < others ? other[width - 1 - k] : ~0u;
    least[k] = k < size ? min(key[k], falling) : falling;
  }
  sort_bitonic<width / 2>(least);
#pragma unroll
  for (int k = 0; k < size; ++k) key[k] = least[k];
}
