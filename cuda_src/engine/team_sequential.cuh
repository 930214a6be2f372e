// One thread plays all agents of a copy in turn: on a CPU, and on a GPU where a copy is small enough for a lane; see
// team_cuda.cuh for what the functions mean.
#pragma once

#include "math.cuh"
#include "portable.cuh"
#include "range.cuh"

class Team {
 public:
  template <class Visit>
  METHOD void each(Range range, Visit visit) {
    if (!active_) return;
    UNROLLED
    for (int i = range.first; i < range.end(); ++i) visit(i);
  }

  template <class Predicate>
  METHOD bool any(Range range, Predicate predicate) {
#ifdef __CUDACC__
    bool found = false;
#pragma unroll
    for (int i = range.first; i < range.end(); ++i) found |= predicate(i);
    return found;
#else
    for (int i = range.first; i < range.end(); ++i)
      if (predicate(i)) return true;
    return false;
#endif
  }

  template <class Predicate>
  METHOD int count(Range range, Predicate predicate) {
    int total = 0;
    UNROLLED
    for (int i = range.first; i < range.end(); ++i) total += predicate(i) ? 1 : 0;
    return total;
  }

  template <class Value>
  METHOD float sum(Range range, Value value) {
#ifdef __CUDACC__
    return sum_of_few(range.size, [&](int part) { return value(range.first + part); });
#else  // not the same for few: g++ 12 vectorises the plain loop over a constant number of values wrongly
    return sum_of_span(range.first, range.size, value);
#endif
  }

  template <class Key>
  METHOD int argmin(Range range, Key key) {
    int best = range.first;
    auto smallest = key(best);
    UNROLLED
    for (int i = range.first + 1; i < range.end(); ++i) {
      const auto candidate = key(i);
      if (candidate < smallest) {
        smallest = candidate;
        best = i;
      }
    }
    return best;
  }

  METHOD void add(int& target, int amount) { target += amount; }

 protected:
  METHOD void only_if(bool condition) { active_ = present_ && condition; }
  METHOD bool any_active() const { return active_; }
  METHOD bool is_leader() const { return active_; }
  METHOD void synchronize() const {}

  // Calls visit(k) for k = 0, …, count - 1, none of which waits for what another one returns.
  template <int count, bool sums_apart = true, class Visit>
  METHOD void side_by_side(Visit visit) {
    UNROLLED
    for (int k = 0; k < count; ++k) visit(k);
  }

  template <class Visit>
  METHOD void each_own(Range range, Visit visit) {
    each(range, visit);
  }

  // Lane number `lane` of a warp whose copies up to `copies` exist.
  METHOD void join(int lane, int copies) { present_ = lane < copies; }

  static constexpr int team_ = 0;
  static constexpr int lane_ = 0;
  bool present_ = true;  // whether this thread's copy exists
  bool active_ = true;

 private:
  // Adds up to 32 values in a binary tree.
  template <class Value>
  METHOD static float sum_of_few(int parts, Value value) {
    float partial[32];
    UNROLLED
    for (int p = 0; p < parts; ++p) partial[p] = value(p);
    UNROLLED
    for (int half = 16; half > 0; half /= 2) {
      UNROLLED
      for (int p = 0; p < half && p + half < parts; ++p) partial[p] += partial[p + half];
    }
    return partial[0];
  }

  // Adds 32 values in a binary tree, then 32 such sums, and so on: the order in which all teams add.
  template <class Value>
  static float sum_of_span(int first, int size, Value& value) {
    int stride = 1;
    while (stride * 32 < size) stride *= 32;
    const int parts = (size + stride - 1) / stride;
    return sum_of_few(parts, [&](int p) {
      const int start = first + p * stride;
      return stride == 1 ? value(start) : sum_of_span(start, Math::min(stride, first + size - start), value);
    });
  }
};
