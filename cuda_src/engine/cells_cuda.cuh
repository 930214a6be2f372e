// Agents in the order of their cells, as the lanes of a copy sort and share them.
#pragma once

#include "cells.cuh"
#include "ordered.cuh"
#include "team_cuda.cuh"

constexpr int at_once = Geometry::staged ? 1 : 4;  // agents that a lane loads before it looks at the first

// A rectangle in the plane.
struct Box {
  float low_x, high_x, low_y, high_y;

  METHOD Box grown(float by) const { return {low_x - by, high_x + by, low_y - by, high_y + by}; }
};

struct Cells : CellGrid {
  float2* position;  // [size]
  int* agent;        // [size] with `bystander` added for those who are no candidates
  int size;
  int* taken;  // agents, in this order, of whom warps have taken care

  static constexpr int bystander = 1 << 30;

  METHOD int agent_at(int at) const { return agent[at] & (bystander - 1); }
};

// The lanes of a copy sort its agents.
class CellSorter : public Team {
 protected:
  unsigned char* search_memory_;  // of the team

  // Sorts the candidates and who asks, looking for both in the range `all`.
  template <class Search, class Agents, class Asks>
  METHOD Cells sort_into_cells(const Search& search, Agents all, Asks asks) {
    unsigned* corners = reinterpret_cast<unsigned*>(search_memory_);  // least and greatest x, least and greatest y
    int* count = reinterpret_cast<int*>(corners + 4);
    Cells cells;
    cells.taken = count + 1;
    cells.start = count + 4;
    cells.agent = cells.start + Geometry::most_cells + 4;
    cells.position = reinterpret_cast<float2*>(search_memory_ + Geometry::positions_at);
    // Calls visit(who, x, y) for a few of them at once, without branches, so that their memory is waited for together.
    const auto each_member = [&](auto visit) {
      for (int first = all.first + lane_; first < all.end(); first += at_once * Geometry::lanes) {
        int who[at_once];
        float2 at[at_once];
#pragma unroll
        for (int k = 0; k < at_once; ++k) {
          const int j = Math::min(first + k * Geometry::lanes, all.end() - 1);
          at[k] = {search.x[j], search.y[j]};
          const bool candidate = search.among.has(j) && search.eligible(j), asking = asks(j);
          const bool is_there = (first + k * Geometry::lanes < all.end()) & is_somewhere(at[k].x, at[k].y);
          who[k] = !((candidate | asking) & is_there) ? -1 : candidate ? j : j | Cells::bystander;
        }
        visit(who, at);
      }
    };

    if (lane_ < 4) corners[lane_] = lane_ % 2 == 0 ? ~0u : 0u;
    if (lane_ == 0) *count = *cells.taken = 0;
    for (int cell = lane_; cell <= Geometry::most_cells; cell += Geometry::lanes) cells.start[cell] = 0;
    synchronize();
    unsigned corner[4] = {~0u, 0u, ~0u, 0u};
    int members = 0;
    each_member([&](const int (&who)[at_once], const float2(&at)[at_once]) {
#pragma unroll
      for (int k = 0; k < at_once; ++k) {
        if (who[k] < 0) continue;
        const unsigned at_x = ordered(at[k].x), at_y = ordered(at[k].y);
        corner[0] = ::min(corner[0], at_x);
        corner[1] = ::max(corner[1], at_x);
        corner[2] = ::min(corner[2], at_y);
        corner[3] = ::max(corner[3], at_y);
        ++members;
      }
    });
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
      const unsigned least = __reduce_min_sync(~0u, corner[k]), greatest = __reduce_max_sync(~0u, corner[k + 1]);
      if (lane_ % 32 != 0) continue;
      atomicMin(corners + k, least);
      atomicMax(corners + k + 1, greatest);
    }
    members = __reduce_add_sync(~0u, members);
    if (lane_ % 32 == 0) atomicAdd(count, members);
    synchronize();
    cells.size = *count;
    cells.lay_out(cells.size, Geometry::agents_per_cell, number_in_order(corners[0]), number_in_order(corners[1]),
                  number_in_order(corners[2]), number_in_order(corners[3]));
    each_member([&](const int (&who)[at_once], const float2(&at)[at_once]) {
#pragma unroll
      for (int k = 0; k < at_once; ++k)
        if (who[k] >= 0) atomicAdd(cells.start + cells.cell_of(at[k].x, at[k].y) + 1, 1);
    });
    synchronize();
    add_up(cells.start + 1, cells.rows * cells.columns);
    each_member([&](const int (&who)[at_once], const float2(&at)[at_once]) {
      int place[at_once];
#pragma unroll
      for (int k = 0; k < at_once; ++k)
        if (who[k] >= 0) place[k] = atomicAdd(cells.start + cells.cell_of(at[k].x, at[k].y) + 1, 1);
#pragma unroll
      for (int k = 0; k < at_once; ++k) {
        if (who[k] < 0) continue;
        cells.position[place[k]] = at[k];
        cells.agent[place[k]] = who[k];
      }
    });
    synchronize();
    return cells;
  }

 private:
  // Replaces each value by the sum of those before it.
  METHOD void add_up(int* values, int count) {
    int* totals = reinterpret_cast<int*>(scratch_);
    const int per_lane = (count + Geometry::lanes - 1) / Geometry::lanes;
    const int first = Math::min(lane_ * per_lane, count), end = Math::min(first + per_lane, count);
    int own = 0;
    for (int k = first; k < end; ++k) own += values[k];
    int sum = own;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int below = __shfl_up_sync(~0u, sum, step);
      if (lane_ % 32 >= step) sum += below;
    }
    if (lane_ % 32 == 31) totals[lane_ / 32] = sum;
    synchronize();
    int before = 0;
    for (int warp = lane_ % 32; warp < lane_ / 32; warp += 32) before += totals[warp];
    sum += __reduce_add_sync(~0u, before) - own;
    for (int k = first; k < end; ++k) {
      const int value = values[k];
      values[k] = sum;
      sum += value;
    }
    synchronize();
  }
};
