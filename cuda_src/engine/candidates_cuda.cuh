// The nearest of some candidates in shared memory, found by one lane without divergent insertions.
//
// Two passes over all candidates compare a cheap stand-in for the distance from q to a candidate p: with any center c,
// |p - c|^2 - 2 (q - c) p, two fused multiplications, differs from the squared distance by a number that all candidates
// share, and by rounding. The first pass takes the least of each of several interleaved columns of candidates; of
// these, the K + 1-st smallest is a bound that K others keep at least, and that few more do. The second pass marks who
// keeps it. Only those are then measured exactly, and sorted in a network whose course does not depend on the data.
#pragma once

#include "math.cuh"
#include "nearest.cuh"
#include "portable.cuh"

template <int step, int size, class Key>
METHOD void order_two(Key (&key)[size], int low) {
  const Key smaller = ::min(key[low], key[low + step]);
  key[low + step] = ::max(key[low], key[low + step]);
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

// Sorts in a fixed sequence of comparisons (K. E. Batcher, "Sorting networks and their applications", 1968). What
// nobody reads of the result is not computed.
template <int run = 1, int size, class Key>
METHOD void sort_in_registers(Key (&key)[size]) {
  merge_runs<run, run>(key);
  if constexpr (2 * run < size) sort_in_registers<2 * run>(key);
}

// Sorts what rises and then falls; the size is a power of two.
template <int step, int size, class Key>
METHOD void merge_bitonic(Key (&key)[size]) {
#pragma unroll
  for (int low = 0; low < size; ++low)
    if (low % (2 * step) < step) order_two<step>(key, low);
  if constexpr (step > 1) merge_bitonic<step / 2>(key);
}

// Keeps the smallest of `sorted` and `more`, both in ascending order, in `sorted`.
template <int size, int added, class Key>
METHOD void merge_in_registers(Key (&sorted)[size], const Key (&more)[added]) {
#pragma unroll
  for (int k = 0; k < added; ++k) sorted[size - 1 - k] = ::min(sorted[size - 1 - k], more[k]);
  merge_bitonic<size / 2>(sorted);
}

// Agents whose positions lie side by side in shared memory.
template <int most>
class Candidates {
 public:
  static constexpr int capacity = most;
  static constexpr int batch = 8;  // candidates are read in batches; `capacity` is a multiple of it
  static constexpr int bytes = 16 * capacity;

  float* x;     // [capacity]
  float* y;     // [capacity]
  float* norm;  // [capacity] |p - c|^2; infinite from the last candidate to the end of its batch
  int* agent;   // [capacity]
  int size = 0;
  float center_x, center_y;
  float reach;  // no candidate is farther from the center

  METHOD explicit Candidates(unsigned char* memory)
      : x(reinterpret_cast<float*>(memory)),
        y(x + capacity),
        norm(y + capacity),
        agent(reinterpret_cast<int*>(norm + capacity)) {}

  METHOD float squared_distance_to_center(float at_x, float at_y) const {
    return Math::square(at_x - center_x) + Math::square(at_y - center_y);
  }

  METHOD void put(int place, int who, float at_x, float at_y) const {
    x[place] = at_x;
    y[place] = at_y;
    norm[place] = squared_distance_to_center(at_x, at_y);
    agent[place] = who;
  }

  // Fills the last batch; lane 0, 1, … of those that share the candidates.
  METHOD void close(int lane) const {
    if (lane >= batch || size + lane >= capacity) return;
    x[size + lane] = y[size + lane] = 0.0f;
    norm[size + lane] = Math::infinity;
  }

  // A stand-in that at least K of the candidates keep below, and all of the K nearest.
  template <int K>
  METHOD float bound(float at_x, float at_y) const {
    constexpr int width = columns<K>();
    float least[width], value[batch];
#pragma unroll
    for (int c = 0; c < width; ++c) least[c] = Math::infinity;
    int first = 0;
#pragma unroll 1
    for (; first + width <= size; first += width)
#pragma unroll
      for (int c = 0; c < width; c += batch) {
        compare(first + c, at_x, at_y, value);
#pragma unroll
        for (int p = 0; p < batch; ++p) least[c + p] = fminf(least[c + p], value[p]);
      }
#pragma unroll
    for (int c = 0; c < width; c += batch) {
      if (first + c >= size) break;
      compare(first + c, at_x, at_y, value);
#pragma unroll
      for (int p = 0; p < batch; ++p) least[c + p] = fminf(least[c + p], value[p]);
    }
    sort_in_registers(least);
    return fminf(least[K] + 0.5f * slack(at_x, at_y), 3e38f);  // infinity stands for no candidate
  }

  // The distance that a stand-in amounts to at most.
  METHOD float radius(float at_x, float at_y, float stand_in) const {
    const float squared = stand_in + to_distance(at_x, at_y) + slack(at_x, at_y);
    return sqrtf(fmaxf(squared, 0.0f)) * 1.00001f;
  }

  // The reverse: what candidates at a squared distance keep below.
  METHOD float stand_in(float at_x, float at_y, float squared) const {
    return squared - to_distance(at_x, at_y) + slack(at_x, at_y);
  }

  // Finds the K nearest to (at_x, at_y), the candidate at place `self` apart, that are closer than the square root of
  // `limit`; `bound` is what the function of that name returned, for these candidates or for some of them. Returns
  // false where too many are as near, or too far off, to be told apart: then insert() finds them.
  template <int K>
  METHOD bool sort_nearest(float at_x, float at_y, int self, float limit, float bound, Nearest<K>& found) const {
    unsigned marks[words];
    const float keep_below = bound + slack(at_x, at_y);
    if (!(keep_below <= 3e38f)) return false;  // squares overflow
#pragma unroll
    for (int w = 0; w < words; ++w) marks[w] = 0;
#pragma unroll 1
    for (int first = 0; first < words * 32; first += 32) {  // a queue: what comes first ends in front
      const unsigned word = first < size ? below(keep_below, first, at_x, at_y) : 0;
#pragma unroll
      for (int w = 0; w + 1 < words; ++w) marks[w] = marks[w + 1];
      marks[words - 1] = self >> 5 == first / 32 ? word & ~(0x80000000u >> (self & 31)) : word;
    }
    return choose(at_x, at_y, limit, marks, found);
  }

  // The exact way, by insertion: adds all candidates to a list.
  template <int K>
  METHOD void insert(float at_x, float at_y, int self, float limit, Nearest<K>& found) const {
#pragma unroll 1
    for (int place = 0; place < size; ++place)
      if (place != self) found.insert(agent[place], distance_squared(place, at_x, at_y), limit);
  }

 private:
  static constexpr int words = (capacity + 31) / 32;
  static constexpr int place_bits = capacity <= 128 ? 7 : 8;  // of a place among the candidates
  static constexpr unsigned none = 0x80000000u;               // from here on keys stand for nobody
  static_assert(capacity <= 256 && capacity % batch == 0, "a place has eight bits");

  // More columns make a tighter bound.
  template <int K>
  METHOD static constexpr int columns() {
    return K <= 4 ? 8 : K <= 14 ? 24 : 40;
  }

  // What a stand-in lacks of the squared distance.
  METHOD float to_distance(float at_x, float at_y) const {
    const float shift = 2.0f * ((at_x - center_x) * center_x + (at_y - center_y) * center_y);
    return shift + squared_distance_to_center(at_x, at_y);
  }

  // Stand-ins are rounded a few times, at the size of `span` times the distance from the origin.
  METHOD float slack(float at_x, float at_y) const {
    const float span = fabsf(at_x - center_x) + fabsf(at_y - center_y) + reach;
    return 4e-6f * span * (fabsf(center_x) + fabsf(center_y) + span) + 1e-37f;
  }

  // Which of 32 candidates have a stand-in below a bound; bit 31 stands for the first.
  METHOD unsigned below(float bound, int first, float at_x, float at_y) const {
    unsigned result = 0;
    const int batches = Math::min((size - first + batch - 1) / batch, 32 / batch);
#pragma unroll
    for (int c = 0; c < 32 / batch; ++c) {
      if (c >= batches) break;
      float value[batch];
      compare(first + c * batch, at_x, at_y, value);
#pragma unroll
      for (int p = 0; p < batch; ++p)  // shifts the sign in
        result = __funnelshift_l(__float_as_uint(value[p] - bound), result, 1);
    }
    return batches == 32 / batch ? result : result << (32 - batches * batch);
  }

  // Writes the stand-ins of a batch of candidates to `value`.
  METHOD void compare(int first, float at_x, float at_y, float (&value)[batch]) const {
    const float along_x = -2.0f * (at_x - center_x), along_y = -2.0f * (at_y - center_y);
#pragma unroll
    for (int part = 0; part < batch; part += 4) {
      const float4 px = *reinterpret_cast<const float4*>(x + first + part);
      const float4 py = *reinterpret_cast<const float4*>(y + first + part);
      const float4 pn = *reinterpret_cast<const float4*>(norm + first + part);
      value[part] = __fmaf_rn(along_x, px.x, __fmaf_rn(along_y, py.x, pn.x));
      value[part + 1] = __fmaf_rn(along_x, px.y, __fmaf_rn(along_y, py.y, pn.y));
      value[part + 2] = __fmaf_rn(along_x, px.z, __fmaf_rn(along_y, py.z, pn.z));
      value[part + 3] = __fmaf_rn(along_x, px.w, __fmaf_rn(along_y, py.w, pn.w));
    }
  }

  METHOD float distance_squared(int place, float at_x, float at_y) const {
    const float dx = x[place] - at_x, dy = y[place] - at_y;
    return dx * dx + dy * dy;
  }

  // Sorts the marked candidates by keys of most bits of the distance, and the place. Returns false if that does not
  // suffice: more candidates are alike in these bits than are kept.
  template <int K>
  METHOD bool choose(float at_x, float at_y, float limit, unsigned (&marks)[words], Nearest<K>& found) const {
    constexpr int kept = K < 4 ? 4 : K < 7 ? 8 : K < 15 ? 16 : 32, more = kept / 2;
    int base = 0, taken = 0;
    const auto take = [&](int k) {  // the key of the next marked candidate, or a large one that no other is like
      if (marks[0] == 0) {
#pragma unroll
        for (int w = 0; w + 1 < words; ++w) marks[w] = marks[w + 1];
        marks[words - 1] = 0;
        base += 32;
      }
      const bool there = marks[0] != 0;
      const int bit = __clz(marks[0]), place = there ? base + bit : 0;
      marks[0] &= 0x7fffffffu >> (bit & 31);
      const float distance = distance_squared(place, at_x, at_y);
      const unsigned key = __float_as_uint(distance) >> place_bits << place_bits | place;
      return there && distance < limit ? key : none + ((taken + k) << place_bits);
    };
    unsigned key[kept];
#pragma unroll
    for (int k = 0; k < kept; ++k) key[k] = take(k);
    taken = kept;
    sort_in_registers(key);
    const auto some_left = [&] {
      unsigned any = 0;
#pragma unroll
      for (int w = 0; w < words; ++w) any |= marks[w];
      return any != 0;
    };
    while (some_left()) {
      unsigned added[more];
#pragma unroll
      for (int k = 0; k < more; ++k) added[k] = take(k);
      taken += more;
      sort_in_registers(added);
      merge_in_registers(key, added);
    }
    unsigned least_difference = ~0u;
#pragma unroll
    for (int k = 0; k + 1 < kept; ++k) least_difference = ::min(least_difference, key[k] ^ key[k + 1]);
    if (are_alike(least_difference, 0))
      while (put_right(at_x, at_y, key)) {
      }
    found.found = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const bool there = key[k] < none;
      const int place = there ? place_of(key[k]) : 0;
      found.index[k] = there ? agent[place] : -1;
      found.distance_squared[k] = there ? distance_squared(place, at_x, at_y) : Math::infinity;
      found.found += there ? 1 : 0;
    }
    return !are_alike(key[K - 1], key[kept - 1]);
  }

  METHOD static int place_of(unsigned key) { return key & ((1 << place_bits) - 1); }
  METHOD static bool are_alike(unsigned one, unsigned other) { return (one ^ other) >> place_bits == 0; }

  // Exchanges neighbours of the list that are alike in the bits of the keys but not in the right order.
  template <int kept>
  METHOD bool put_right(float at_x, float at_y, unsigned (&key)[kept]) const {
    bool exchanged = false;
#pragma unroll
    for (int k = 0; k + 1 < kept; ++k) {
      if (!are_alike(key[k], key[k + 1])) continue;
      const float first = distance_squared(place_of(key[k]), at_x, at_y);
      const float second = distance_squared(place_of(key[k + 1]), at_x, at_y);
      if (first < second || (first == second && agent[place_of(key[k])] < agent[place_of(key[k + 1])])) continue;
      const unsigned later = key[k];
      key[k] = key[k + 1];
      key[k + 1] = later;
      exchanged = true;
    }
    return exchanged;
  }
};
