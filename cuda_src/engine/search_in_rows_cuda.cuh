// The nearest of agents who are sorted into cells, found by the 32 lanes of a warp for an agent each.
//
// Each lane first looks at those next to its agent in its row of cells, and in the rows above and below: so many that
// they hold the nearest most of the time. The K-th nearest of them bounds how far the K nearest of all may be, and with
// that a few stretches of rows that are left to look at: none for seven of eight agents, if these are spread evenly.
//
// All lanes take up to 16 agents of a stretch at a time, measure them, sort them in a network, and keep the nearest.
#pragma once

#include "cells_cuda.cuh"
#include "nearest.cuh"
#include "sorting_cuda.cuh"

template <int K>
class SearchInRows {
 public:
  static constexpr float height_per_width = 4.0f;  // of a cell
  static constexpr int at_once = 16;               // agents
  static constexpr int most_rounds = 16;           // of so many
  static constexpr int most_stretches = 8;         // of a lane
  static constexpr int rows = 3;                   // that are looked at first
  using Place = std::conditional_t<(Geometry::num_agents < 0xffff), std::uint16_t, int>;
  static constexpr int bytes =  // of a warp's memory
      32 * (rows * int(sizeof(float)) + (2 * most_stretches + most_rounds) * int(sizeof(Place)));
  static_assert(Geometry::most_cells == 0 || bytes <= 4 * Geometry::warp_stage_floats, "as in search_memory.py");

  METHOD SearchInRows(const Cells& cells, unsigned char* memory, int lane, float limit)
      : cells_(cells),
        covered_(reinterpret_cast<float*>(memory) + lane),
        stretch_(reinterpret_cast<Stretch*>(memory + 32 * rows * sizeof(float)) + lane),
        start_(reinterpret_cast<Place*>(memory + 32 * (rows * sizeof(float) + most_stretches * sizeof(Stretch))) +
               lane),
        limit_(limit) {}

  // What the agent at a place of the cells finds; `asks` is false for lanes without an agent.
  METHOD Nearest<K> of(int place, float at_x, float at_y, bool asks) {
    place_ = place;
    at_x_ = at_x;
    at_y_ = at_y;
#pragma unroll
    for (int k = 0; k < kept; ++k) key_[k] = ~0u;
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
  // Keys are most bits of a squared distance, and below them the number of the round in which it was measured, and of
  // the agent in it.
  static constexpr int number_bits = 8;
  static constexpr int kept = K + 2;             // so many that it is known who comes behind the last that counts
  static constexpr unsigned none = 0x7f800000u;  // from here on keys stand for nobody
  static constexpr int rounds_of_row = (K + 9) / 10, of_row = at_once * rounds_of_row;
  static_assert(rows * rounds_of_row < most_rounds && rows < most_stretches, "some must be left for what follows");

  struct alignas(2 * sizeof(Place)) Stretch {
    Place first, size;

    METHOD operator Range() const { return {static_cast<int>(first), static_cast<int>(size)}; }
  };

  const Cells& cells_;
  float* covered_;    // [rows], 32 apart: how far along a row nobody is missed, but for those of an agent's cell
  Stretch* stretch_;  // [most_stretches], 32 apart; the first ones are those of `rows`
  Place* start_;      // [most_rounds], 32 apart: the place of a round's first agent
  float limit_;
  int place_;  // of the agent that asks
  float at_x_, at_y_;
  unsigned key_[kept];  // of the nearest so far

  // All lanes of the warp look together. Returns false if a lane has had too much to look at.
  METHOD bool look(bool asks) {
    const int home = cells_.row_of(at_y_), rounds_nearby = rounds_of_row * Math::min(cells_.rows, rows);
    const int first_row = Math::max(Math::min(home - 1, cells_.rows - rows), 0);
    const unsigned is_open = asks ? list_nearby(first_row, home) : 0;
    bool is_known = true;
    int stretches = 0, taken = rows;
    Range left{0, 0};
#pragma unroll 1
    for (int round = 0;; ++round) {
      if (round < rounds_nearby) {
        const int row = round / rounds_of_row, before = round % rounds_of_row * at_once;
        if (asks) left = stretch_[32 * row];
        const float2 away = take<at_once>(without(left, before), round);
        // Whoever is behind an agent stands no nearer than the start of its cell.
        float nearest = before == 0 ? Math::infinity : covered_[32 * row];
        if (before == 0 && (is_open >> 2 * row & 1) != 0) nearest = away.x;
        if (before == of_row - at_once && (is_open >> 2 * row & 2) != 0) nearest = Math::min(nearest, away.y);
        covered_[32 * row] = nearest;
        left.size = 0;
        continue;
      }
      if (round == rounds_nearby && asks) stretches = list_what_is_left(first_row, is_known);
      if (left.size <= 0 && taken < stretches) left = stretch_[32 * taken++];
      if (!__any_sync(~0u, left.size > 0)) return is_known;
      if (round == most_rounds) return is_known && left.size <= 0;
      const bool are_few = __all_sync(~0u, left.size <= at_once / 2);
      if (are_few)
        take<at_once / 2>(left, round);
      else
        take<at_once>(left, round);
      left = without(left, at_once);
    }
  }

  // Lists agents who stand next to this one in some rows. Bits tell on which sides of them are others.
  METHOD unsigned list_nearby(int first_row, int home) const {
    const int column = cells_.column_of(at_x_);
    unsigned is_open = 0;
#pragma unroll
    for (int k = 0; k < rows; ++k) {
      const int row = Math::min(first_row + k, cells_.rows - 1);
      const Range all = cells_.stretch(row, 0, cells_.columns - 1), cell = cells_.stretch(row, column, column);
      const int middle = row == home ? place_ : cell.first + cell.size / 2;
      const int first = Math::max(Math::min(middle - of_row / 2, all.end() - of_row), all.first);
      const int end = Math::min(first + of_row, all.end());
      stretch_[32 * k] = stretch_between(first, end);
      is_open |= ((first > all.first ? 1u : 0u) | (end < all.end() ? 2u : 0u)) << 2 * k;
    }
    return is_open;
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
      const Range needed = cells_.stretch(row, cells_.column_of(at_x_ - along), cells_.column_of(at_x_ + along));
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

  // Keeps the nearest of the first agents of a stretch, up to `count`. Returns how far the first and the last of so
  // many are away along the row.
  template <int count>
  METHOD float2 take(Range some, int round) {
    start_[32 * round] = static_cast<Place>(some.first);
    unsigned counted = (1u << Math::max(Math::min(some.size, count), 0)) - 1;
    const unsigned self = static_cast<unsigned>(place_ - some.first);
    if (self < count) counted &= ~(1u << self);
    float2 away;
    unsigned next[count];
#pragma unroll
    for (int k = 0; k < count; ++k) {
      const float2 its = cells_.position(some.first + k);
      const float dx = its.x - at_x_, dy = its.y - at_y_;
      if (k == 0) away.x = fabsf(dx);
      if (k == count - 1) away.y = fabsf(dx);
      const unsigned numbers = 0x03020100u + k / 4 * 0x04040404u + static_cast<unsigned>(round) * 0x10101010u;
      next[k] = __byte_perm(__float_as_uint(dx * dx + dy * dy), numbers, 0x3214 + k % 4);
    }
    if (!__all_sync(~0u, counted == (1u << count) - 1))
#pragma unroll
      for (int k = 0; k < count; ++k) next[k] = (counted >> k & 1) != 0 ? next[k] : ~0u;
    sort_in_registers(next);
    keep_least(key_, next);
    return away;
  }

  METHOD int place_of(unsigned key) const {
    return static_cast<int>(start_[32 * (key / at_once % most_rounds)]) + static_cast<int>(key % at_once);
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
      found.index[k] = is_there ? cells_.agent(place) : -1;
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

  // The exact way: adds all who may be near enough to a list, by insertion.
  METHOD void insert_all(Nearest<K>& found) const {
    const float reach = radius(Math::min(bound(), limit_));
    const int last = cells_.row_of(at_y_ + reach);
#pragma unroll 1
    for (int row = cells_.row_of(at_y_ - reach); row <= last; ++row) {
      const Range stretch = cells_.stretch(row, cells_.column_of(at_x_ - reach), cells_.column_of(at_x_ + reach));
#pragma unroll 1
      for (int place = stretch.first; place < stretch.end(); ++place)
        if (place != place_) found.insert(cells_.agent(place), distance_squared(place), limit_);
    }
  }
};
