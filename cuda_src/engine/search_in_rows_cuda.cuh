// The nearest of agents who are sorted into cells, found by the 32 lanes of a warp for an agent each.
//
// Each lane first looks at those next to its agent in its row of cells, and in the rows above and below: so many that
// they hold the nearest most of the time. The K-th nearest of them bounds how far the K nearest of all may be, and with
// that a few stretches of rows that are left to look at: none for nine of ten agents, if these are spread evenly.
//
// All lanes take up to 16 agents of a stretch at a time, then 8 of what is left, measure them, sort them in a network,
// and keep the nearest.
#pragma once

#include "cells_cuda.cuh"
#include "nearest.cuh"
#include "sorting_cuda.cuh"
#include "vicinity_cuda.cuh"

template <int K>
class SearchInRows {
 public:
  static constexpr float height_per_width = 4.0f;  // of a cell
  static constexpr int at_once = 16;               // agents, of those at hand
  static constexpr int left_at_once = 8;           // of others
  static constexpr int most_numbers = 256;         // of agents that a lane looks at
  static constexpr int most_stretches = 8;         // of a lane
  static constexpr int rows = 3;                   // that are looked at first
  static constexpr int rounds_of_row = (K + 9) / 10, of_row = at_once * rounds_of_row;
  using AtHand = std::conditional_t<Geometry::staged, Everybody, Vicinity<rows, of_row>>;
  using Place = std::conditional_t<(Geometry::num_agents < 0xffff), std::uint16_t, int>;
  static constexpr int starts = most_numbers / left_at_once;
  static constexpr int bytes =  // of a warp's memory
      32 * (rows * int(sizeof(float)) + (2 * most_stretches + starts) * int(sizeof(Place)));
  static_assert(Geometry::most_cells == 0 || bytes <= Geometry::vicinity_at, "as in search_memory.py");

  METHOD SearchInRows(const Cells<true>& cells, unsigned char* memory, unsigned char* vicinity, int lane, float limit)
      : cells_(cells),
        at_hand_(cells, vicinity, lane),
        covered_(reinterpret_cast<float*>(memory) + lane),
        stretch_(reinterpret_cast<Stretch*>(memory + 32 * rows * sizeof(float)) + lane),
        start_(reinterpret_cast<Place*>(memory + 32 * (rows * sizeof(float) + most_stretches * sizeof(Stretch))) +
               lane),
        limit_(limit) {}

  // The places of those whom the agent at a place of the cells finds, and some that there are instead of those it does
  // not; `asks` is false for lanes without an agent.
  METHOD Nearest<K> of(int place, float at_x, float at_y, bool asks) {
    place_ = place;
    at_x_ = at_x;
    at_y_ = at_y;
    bool is_known = look(asks);
    Nearest<K> found;
    if (asks && is_known) is_known = read(found);
    if (!asks || !is_known) {
      found.clear();
      if (asks) insert_all(found);
    }
    return found;
  }

 private:
  // Keys are most bits of a squared distance, and below them the number of an agent among those looked at.
  static constexpr int number_bits = 8;
  static constexpr int kept = K + 2;             // so many that it is known who comes behind the last that counts
  static constexpr unsigned none = 0x7f800000u;  // from here on keys stand for nobody
  static_assert(rows * of_row < most_numbers && rows < most_stretches, "some must be left for what follows");

  struct alignas(2 * sizeof(Place)) Stretch {
    Place first, size;

    METHOD operator Range() const { return {static_cast<int>(first), static_cast<int>(size)}; }
  };

  const Cells<true>& cells_;
  AtHand at_hand_;
  float* covered_;    // [rows], 32 apart: how far along a row nobody is missed, but for those of an agent's cell
  Stretch* stretch_;  // [most_stretches], 32 apart; the first ones are those of `rows`
  Place* start_;      // [starts], 32 apart: the place of each eighth number
  float limit_;
  int place_;  // of the agent that asks
  float at_x_, at_y_;
  unsigned key_[kept];  // of the nearest so far

  // All lanes of the warp look together. Returns false if a lane has had too much to look at.
  METHOD bool look(bool asks) {
    const int home = cells_.row_of(at_y_), first_row = Math::max(Math::min(home - 1, cells_.rows - rows), 0);
    const int numbers_nearby = of_row * Math::min(cells_.rows, rows);
    const int numbers_at_hand = list_nearby(first_row, home, asks) ? numbers_nearby : 0;
    bool is_known = true;
    int stretches = 0, taken = rows;
    Range left{0, 0};
#pragma unroll 1
    for (int number = 0;;) {
      if (number < numbers_nearby) {
        const int row = number / of_row;
        if (asks) left = without(stretch_[32 * row], number % of_row);
        if (number < numbers_at_hand) {
          const int slot = left.size > 0 ? at_hand_.slot(row, left.first) : 0;
          take<at_once>(left, number, [&](int k) { return at_hand_.position(slot + k); });
          number += at_once;
          left.size = 0;
          continue;
        }
      } else {
        if (number == numbers_nearby && asks) stretches = list_what_is_left(first_row, is_known);
        if (left.size <= 0 && taken < stretches) left = stretch_[32 * taken++];
        if (!__any_sync(~0u, left.size > 0)) return is_known;
        if (number == most_numbers) return is_known && left.size <= 0;
      }
      take<left_at_once>(left, number, [&](int k) { return cells_.position(left.first + k); });
      number += left_at_once;
      left = without(left, left_at_once);
    }
  }

  // Lists agents who stand next to this one in some rows. Returns whether they are at hand.
  METHOD bool list_nearby(int first_row, int home, bool asks) {
    const int column = cells_.column_of(at_x_);
    Range nearby[rows];
#pragma unroll
    for (int k = 0; k < rows; ++k) {
      const int row = Math::min(first_row + k, cells_.rows - 1);
      const Range all = cells_.stretch(row, 0, cells_.columns - 1), cell = cells_.stretch(row, column, column);
      const int middle = row == home ? place_ : cell.first + cell.size / 2;
      const int first = Math::max(Math::min(middle - of_row / 2, all.end() - of_row), all.first);
      const int end = Math::min(first + of_row, all.end());
      nearby[k] = {first, end - first};
      stretch_[32 * k] = stretch_between(first, end);
      // Whoever is behind the next one stands no nearer than the start of its cell.
      float nearest = Math::infinity;
      if (first > all.first) nearest = fabsf(cells_.position(first - 1).x - at_x_);
      if (end < all.end()) nearest = Math::min(nearest, fabsf(cells_.position(end).x - at_x_));
      covered_[32 * k] = nearest;
    }
    return at_hand_.bring(nearby, asks);
  }

  // Lists what may hold one of the K nearest and has not been looked at. Returns where stretches end.
  METHOD int list_what_is_left(int first_row, bool& is_known) {
    const float farthest = Math::min(bound(), limit_), reach = radius(farthest);
    const int from = cells_.row_of(at_y_ - reach), to = cells_.row_of(at_y_ + reach);
    unsigned todo = to - from < 32 ? ~0u >> (31 - (to - from)) : 0;
    is_known = to - from < 32;
#pragma unroll
    for (int k = 0; k < rows; ++k) {
      const unsigned nth = static_cast<unsigned>(first_row + k - from);
      const float looked = 0.99999f * covered_[32 * k] - cells_.most_width();
      const bool is_covered = looked > 0.0f && looked * looked > rest_along(first_row + k, farthest);
      if (nth < 32 && is_covered) todo &= ~(1u << nth);
    }
    int stretches = rows;
#pragma unroll 1
    for (; todo != 0; todo &= todo - 1) {
      const int row = from + __ffs(todo) - 1;
      const float along = radius(Math::max(rest_along(row, farthest), 0.0f));
      const Range needed = cells_.stretch(row, at_x_, along);
      const int nth = row - first_row;
      const bool is_nearby = nth >= 0 && nth < rows;
      const Range seen = is_nearby ? Range(stretch_[32 * nth]) : Range{needed.end(), 0};
      const auto list = [&](int start, int end) {
        if (start >= end) return;
        if (stretches < most_stretches)
          stretch_[32 * stretches++] = stretch_between(start, end);
        else
          is_known = false;
      };
      list(needed.first, Math::min(seen.first, needed.end()));
      list(Math::max(seen.end(), needed.first), needed.end());
    }
    return stretches;
  }

  // What follows the first agents of a stretch; if nobody does, a place that there is.
  METHOD static Range without(Range stretch, int first) {
    return stretch.size > first ? Range{stretch.first + first, stretch.size - first} : Range{0, 0};
  }

  METHOD static Stretch stretch_between(int first, int end) {
    return {static_cast<Place>(first), static_cast<Place>(end - first)};
  }

  // What is left of a squared distance for the way along a row.
  METHOD float rest_along(int row, float squared) const {
    const float away = cells_.rows_between(row, at_y_) * cells_.height();
    return squared - away * away;
  }

  // No more than this is the squared distance of the K-th nearest.
  METHOD float bound() const {
    return key_[K - 1] < none ? __uint_as_float(key_[K - 1] | ((1u << number_bits) - 1)) : Math::infinity;
  }

  // Keeps the nearest of the first agents of a stretch, up to `count`, the k-th of them at position_of(k), which get
  // numbers from `number` on.
  template <int count, class PositionOf>
  METHOD void take(Range some, int number, PositionOf position_of) {
#pragma unroll
    for (int k = 0; k < count; k += left_at_once)
      start_[32 * ((number + k) / left_at_once)] = static_cast<Place>(some.first + k);
    unsigned counted = (1u << Math::max(Math::min(some.size, count), 0)) - 1;
    const unsigned self = static_cast<unsigned>(place_ - some.first);
    if (self < count) counted &= ~(1u << self);
    unsigned next[count];
#pragma unroll
    for (int k = 0; k < count; ++k) {
      const float2 its = position_of(k);
      const float dx = its.x - at_x_, dy = its.y - at_y_;
      const unsigned numbers = 0x03020100u + k / 4 * 0x04040404u + static_cast<unsigned>(number) * 0x01010101u;
      next[k] = __byte_perm(__float_as_uint(dx * dx + dy * dy), numbers, 0x3214 + k % 4);
    }
    // In most rounds all count, but for the one that asks, who then is in the middle.
    constexpr int middle = count / 2;
    if (!__all_sync(~0u, (counted | 1u << middle) == (1u << count) - 1))
#pragma unroll
      for (int k = 0; k < count; ++k) next[k] = (counted >> k & 1) != 0 ? next[k] : ~0u;
    else
      next[middle] = (counted >> middle & 1) != 0 ? next[middle] : ~0u;
    sort_in_registers(next);
    if (number > 0) return keep_least(key_, next);
#pragma unroll
    for (int k = 0; k < kept; ++k) key_[k] = k < count ? next[k] : ~0u;
  }

  METHOD int place_of(unsigned key) const {
    const unsigned number = key % most_numbers;
    return static_cast<int>(start_[32 * (number / left_at_once)]) + static_cast<int>(number % left_at_once);
  }

  METHOD float distance_squared(int place) const {
    const float2 its = cells_.position(place);
    const float dx = its.x - at_x_, dy = its.y - at_y_;
    return dx * dx + dy * dy;
  }

  // Returns false if keys do not tell who is nearest.
  METHOD bool read(Nearest<K>& found) {
    unsigned least_step = ~0u;
#pragma unroll
    for (int k = 0; k < K; ++k) least_step = ::min(least_step, key_[k + 1] - key_[k]);
    if (least_step < 1u << number_bits)
      while (put_right<number_bits, kept>(key_, none,
                                          [&](unsigned one, unsigned other) { return precedes(one, other); })) {
      }
    found.clear();
#pragma unroll
    for (int k = 0; k < K; ++k) {
      bool is_there = key_[k] < none;
      const int place = is_there ? place_of(key_[k]) : 0;
      if (limit_ < Math::infinity) is_there &= distance_squared(place) < limit_;
      found.index[k] = is_there ? place : 0;
      found.found += is_there ? 1 : 0;
    }
    return !are_alike<number_bits>(key_[K - 1], key_[kept - 1]) || key_[K - 1] >= none;
  }

  // Of two agents.
  METHOD bool precedes(unsigned key, unsigned other) const {
    const int one = place_of(key), two = place_of(other);
    const float first = distance_squared(one), second = distance_squared(two);
    return first < second || (first == second && cells_.agent(one) < cells_.agent(two));
  }

  // The exact way: adds all who may be near enough to a list, by insertion, and then finds out where they are. Places
  // would do from the start, but in a crowd at one point their numbers decide, and would be loaded for each comparison.
  METHOD void insert_all(Nearest<K>& found) const {
    const float reach = radius(Math::min(bound(), limit_));
    each_within(reach, [&](int place) {
      if (place != place_) found.insert(cells_.agent(place), distance_squared(place), limit_);
    });
    const Nearest<K> numbers = found;
#pragma unroll
    for (int k = 0; k < K; ++k) found.index[k] = 0;
    each_within(reach, [&](int place) {
      const int number = cells_.agent(place);
#pragma unroll
      for (int k = 0; k < K; ++k)
        if (numbers.index[k] == number) found.index[k] = place;
    });
  }

  template <class Visit>
  METHOD void each_within(float reach, Visit visit) const {
    const int last = cells_.row_of(at_y_ + reach);
#pragma unroll 1
    for (int row = cells_.row_of(at_y_ - reach); row <= last; ++row) {
      const Range stretch = cells_.stretch(row, at_x_, reach);
#pragma unroll 1
      for (int place = stretch.first; place < stretch.end(); ++place) visit(place);
    }
  }
};
