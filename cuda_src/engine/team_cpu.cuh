// One CPU thread plays all agents of a copy in turn; see team_cuda.cuh for what the functions mean.
#pragma once

#include "math.cuh"
#include "portable.cuh"
#include "range.cuh"

class Team {
 public:
  template <class Visit>
  METHOD void each(Range range, Visit visit) {
    if (!active_) return;
    for (int i = range.first; i < range.end(); ++i) visit(i);
  }

  template <class Predicate>
  METHOD bool any(Range range, Predicate predicate) {
    for (int i = range.first; i < range.end(); ++i)
      if (predicate(i)) return true;
    return false;
  }

  template <class Predicate>
  METHOD int count(Range range, Predicate predicate) {
    int total = 0;
    for (int i = range.first; i < range.end(); ++i) total += predicate(i) ? 1 : 0;
    return total;
  }

  template <class Value>
  METHOD float sum(Range range, Value value) {
    return sum_of_span(range.first, range.size, value);
  }

  template <class Key>
  METHOD int argmin(Range range, Key key) {
    int best = range.first;
    auto smallest = key(best);
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
  METHOD void only_if(bool condition) { active_ = condition; }
  METHOD bool any_active() const { return active_; }
  METHOD bool is_leader() const { return active_; }

  static constexpr int team_ = 0;
  bool active_ = true;

 private:
  // Adds 32 values in a binary tree, then 32 such sums, and so on: the order in which all teams add.
  template <class Value>
  static float sum_of_span(int first, int size, Value& value) {
    int stride = 1;
    while (stride * 32 < size) stride *= 32;
    float partial[32];
    const int parts = (size + stride - 1) / stride;
    for (int p = 0; p < parts; ++p) {
      const int start = first + p * stride;
      partial[p] = stride == 1 ? value(start) : sum_of_span(start, Math::min(stride, first + size - start), value);
    }
    for (int half = 16; half > 0; half /= 2)
      for (int p = 0; p < half && p + half < parts; ++p) partial[p] += partial[p + half];
    return partial[0];
  }
};
