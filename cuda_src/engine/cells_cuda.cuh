// Agents in the order of their cells, as the lanes of a copy sort and share them.
#pragma once

#include "cells.cuh"
#include "nearest.cuh"
#include "ordered.cuh"
#include "portable.cuh"

constexpr int at_once = Geometry::staged ? 1 : 4;  // agents that a lane loads before it looks at the first

// A rectangle in the plane.
struct Box {
  float low_x, high_x, low_y, high_y;

  METHOD Box grown(float by) const { return {low_x - by, high_x + by, low_y - by, high_y + by}; }
};

// Agents in the order of their cells. In device memory all that is known about one lies side by side, in shared memory
// it takes as little as may be.
struct Cells : CellGrid {
  // An agent in a cell.
  struct alignas(16) Member {
    float x, y;
    int who;  // its number, with marks
    int unused = 0;

    METHOD int agent() const { return who & (silent - 1); }
    METHOD bool is_candidate() const { return (who & bystander) == 0; }
    METHOD bool asks() const { return (who & silent) == 0; }
  };

  static constexpr int silent = 1 << 29;     // marks who does not ask
  static constexpr int bystander = 1 << 30;  // and who is no candidate
  static constexpr bool together = !Geometry::staged;

  float2* position_of;  // [size] unless they lie together
  int* who_is_at;       // [size] unless they lie together
  Member* member;       // [size] if they do
  int size;
  int asking;  // how many of them ask
  int* left;   // of what warps have to do, see in_parts

  METHOD Member at(int place) const {
    if constexpr (together) return member[place];
    return {position_of[place].x, position_of[place].y, who_is_at[place]};
  }

  METHOD float2 position(int place) const {
    if constexpr (together) return *reinterpret_cast<const float2*>(member + place);
    return position_of[place];
  }

  METHOD int agent(int place) const { return (together ? member[place].who : who_is_at[place]) & (silent - 1); }

  METHOD void put(int place, const Member& value) const {
    if constexpr (together) {
      member[place] = value;
    } else {
      position_of[place] = {value.x, value.y};
      who_is_at[place] = value.who;
    }
  }
};

// The lanes of a copy sort its agents.
class CellSorter : public Team {
 protected:
  static constexpr int left_at = 7;  // in words of the memory for searches

  unsigned char* search_memory_;  // of the team

  // Sorts the candidates and who asks, looking for both in the range `all`, into cells of about so many, or of more if
  // there is no memory for these. Warps then have work(cells) to do.
  template <class Search, class Agents, class Asks, class Work>
  METHOD Cells sort_into_cells(const Search& search, Agents all, float per_cell, Asks asks, Work work) {
    Cells cells;
    unsigned* bounds =
        zeroed_words<6>(reinterpret_cast<unsigned*>(search_memory_));  // the largest of -x, x, -y, y; members; who asks
    cells.left = reinterpret_cast<int*>(search_memory_) + left_at;
    cells.start = reinterpret_cast<int*>(search_memory_) + 8;
    cells.who_is_at = cells.start + Geometry::most_cells + 4;
    cells.position_of = reinterpret_cast<float2*>(search_memory_ + Geometry::positions_at);
    cells.member = reinterpret_cast<Cells::Member*>(cells.position_of);
    constexpr int members_at_once = loaded_at_once<Agents>();
    // Calls visit(members) for a few of them at once, without branches, so that their memory is waited for together;
    // `who` is negative where there is none.
    using Members = Cells::Member[members_at_once];
    const auto each_member = [&](auto visit) {
      for (int first = all.first + lane_; first < all.end(); first += members_at_once * Geometry::lanes) {
        Members members;
#pragma unroll
        for (int k = 0; k < members_at_once; ++k) {
          const int j = Math::min(first + k * Geometry::lanes, all.end() - 1);
          const float at_x = search.x[j], at_y = search.y[j];
          const bool candidate = search.among.has(j) && search.eligible(j), asking = asks(j);
          const bool is_there = (first + k * Geometry::lanes < all.end()) & is_somewhere(at_x, at_y);
          const int who = j | (candidate ? 0 : Cells::bystander) | (asking ? 0 : Cells::silent);
          members[k] = {at_x, at_y, (candidate | asking) & is_there ? who : -1};
        }
        visit(members);
      }
    };

    // How many agents are in each cell, where the members come to lie in the end; and an agent's number in its cell,
    // where lists come to lie.
    int* counts = Cells::together ? reinterpret_cast<int*>(cells.member) : cells.who_is_at;
    int* ranks = reinterpret_cast<int*>(search_memory_ + Geometry::lists_at);
    in_phase([&] {
      for (int cell = lane_; cell < Geometry::most_cells; cell += Geometry::lanes) counts[cell] = 0;
      unsigned bound[4] = {0, 0, 0, 0};
      int members = 0, asking = 0;
      each_member([&](const Members& member) {
#pragma unroll
        for (int k = 0; k < members_at_once; ++k) {
          if (member[k].who < 0) continue;
          const unsigned at_x = ordered(member[k].x), at_y = ordered(member[k].y);
          bound[0] = ::max(bound[0], ~at_x);
          bound[1] = ::max(bound[1], at_x);
          bound[2] = ::max(bound[2], ~at_y);
          bound[3] = ::max(bound[3], at_y);
          ++members;
          asking += member[k].asks() ? 1 : 0;
        }
      });
#pragma unroll
      for (int k = 0; k < 4; ++k) raise_to(bounds[k], __reduce_max_sync(~0u, bound[k]));
      members = __reduce_add_sync(~0u, members);
      asking = __reduce_add_sync(~0u, asking);
      if (lane_ % 32 == 0 && members > 0) {
        atomicAdd(bounds + 4, members);
        atomicAdd(bounds + 5, asking);
      }
    });
    cells.size = static_cast<int>(bounds[4]);
    cells.asking = static_cast<int>(bounds[5]);
    const float fewest_per_cell = static_cast<float>(cells.size) / (Geometry::most_cells - 1);
    cells.lay_out(cells.size, Math::max(per_cell, fewest_per_cell), number_in_order(~bounds[0]),
                  number_in_order(bounds[1]), number_in_order(~bounds[2]), number_in_order(bounds[3]));
    in_phase([&] {
      each_member([&](const Members& member) {
        int rank[members_at_once];
#pragma unroll
        for (int k = 0; k < members_at_once; ++k)
          if (member[k].who >= 0) rank[k] = atomicAdd(counts + cells.cell_of(member[k].x, member[k].y), 1);
#pragma unroll
        for (int k = 0; k < members_at_once; ++k)
          if (member[k].who >= 0) ranks[member[k].agent()] = rank[k];
      });
    });
    const int number = cells.rows * cells.columns;
    add_up(counts, cells.start, number);
    in_phase([&] {
      if (lane_ == 0) {
        cells.start[number] = cells.size;
        *cells.left = work(cells);
      }
      each_member([&](const Members& member) {
        int place[members_at_once];
#pragma unroll
        for (int k = 0; k < members_at_once; ++k)
          if (member[k].who >= 0)
            place[k] = cells.start[cells.cell_of(member[k].x, member[k].y)] + ranks[member[k].agent()];
#pragma unroll
        for (int k = 0; k < members_at_once; ++k)
          if (member[k].who >= 0) cells.put(place[k], member[k]);
      });
    });
    return cells;
  }

 private:
  // How many of a lane's agents are loaded together: all of them if there are registers.
  template <class Agents>
  METHOD static constexpr int loaded_at_once() {
    constexpr int of_lane = (most_of<Agents> + Geometry::lanes - 1) / Geometry::lanes;
    constexpr int most = Geometry::staged ? 1 : Geometry::grouped ? 3 : Geometry::phased ? 8 : 4;
    return of_lane < most ? of_lane : most;
  }

  // Makes a word of the team's memory at least the value, which is the same in all lanes of a warp.
  METHOD void raise_to(unsigned& word, unsigned value) const {
    const bool looks_first = Geometry::phased;  // where many warps share the word, and few have something to raise
    if (lane_ % 32 == 0 && (!looks_first || value > word)) atomicMax(&word, value);
  }
};
