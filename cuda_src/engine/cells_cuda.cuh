// Agents in the order of their cells, as the lanes of a copy sort and share them.
#pragma once

#include "cells.cuh"
#include "field.cuh"
#include "nearest.cuh"
#include "ordered.cuh"
#include "portable.cuh"

// Agents in the order of their cells. In device memory all that is known about one lies side by side, with what is
// observed of it if `with_state`; in shared memory it takes as little as may be.
template <bool with_state>
struct Cells : CellGrid {
  // An agent in a cell.
  struct alignas(16) Member {
    float x, y;
    int who;  // its number, with marks
    int unused = 0;

    METHOD int agent() const { return who & SortedAgent::numbers; }
    METHOD bool is_candidate() const { return (who & bystander) == 0; }
    METHOD bool asks() const { return (who & silent) == 0; }
  };

  static constexpr int silent = SortedAgent::numbers + 1;  // marks who does not ask
  static constexpr int bystander = 2 * silent;             // and who is no candidate
  static constexpr bool together = !Geometry::staged;
  static constexpr int pieces = with_state ? SortedAgent::pieces : 1;  // of 16 bytes

  // Marks and a number in half the room.
  using Who = std::uint16_t;
  static constexpr int mark_shift = 15, short_numbers = SortedAgent::numbers >> mark_shift;
  static_assert(together || Geometry::num_agents <= short_numbers, "marks are above a number");

  float2* position_of;  // [size] unless they lie together
  Who* who_is_at;       // [size] unless they lie together
  Member* member;       // [size, pieces] if they do
  int size;
  int asking;  // how many of them ask
  int lost;    // how many others ask, who are nowhere; in phases only
  int* left;   // of what warps have to do, see in_parts

  METHOD Member at(int place) const {
    if constexpr (together) return *record(place);
    const int who = who_is_at[place], marks = (who << mark_shift) & (silent | bystander);
    return {position_of[place].x, position_of[place].y, (who & short_numbers) | marks};
  }

  METHOD const Member* record(int place) const { return member + pieces * place; }
  METHOD const uint4* records() const { return reinterpret_cast<const uint4*>(member); }

  METHOD float2 position(int place) const {
    if constexpr (together) return *reinterpret_cast<const float2*>(record(place));
    return position_of[place];
  }

  METHOD int agent(int place) const {
    if constexpr (together) return record(place)->agent();
    return who_is_at[place] & short_numbers;
  }

  // The numbers of those who have been found at some places.
  template <int K>
  METHOD Nearest<K> agents(Nearest<K> found) const {
#pragma unroll(unrolled(K))
    for (int k = 0; k < K; ++k) found.index[k] = agent(found.index[k]);
    return found;
  }

  METHOD void put(int place, Member value) const {
    if constexpr (together) {
      member[pieces * place] = value;
    } else {
      position_of[place] = {value.x, value.y};
      who_is_at[place] = static_cast<Who>(value.agent() | (value.who & (silent | bystander)) >> mark_shift);
    }
  }

  // The same with the member's state, for all lanes of a warp; the place is negative for those without one. Two lanes
  // write the record of one and then of the other, a piece each, since the second-level cache takes as long for a part
  // of a sector as for all of it. carry(j, nth, word) sets the words of the nth piece that tell of agent j's state.
  template <class Carry>
  METHOD void put_with_state(int place, Member value, int j, Carry carry) const {
    static_assert(SortedAgent::pieces == 2, "one for each of two lanes");
    const int nth = static_cast<int>(threadIdx.x) & 1;
#pragma unroll
    for (int turn = 0; turn < 2; ++turn) {
      const int lane = (static_cast<int>(threadIdx.x) & 30) + turn, its_place = __shfl_sync(~0u, place, lane);
      std::uint32_t word[4] = {__float_as_uint(__shfl_sync(~0u, value.x, lane)),
                               __float_as_uint(__shfl_sync(~0u, value.y, lane)),
                               static_cast<std::uint32_t>(__shfl_sync(~0u, value.who, lane)), 0};
      carry(__shfl_sync(~0u, j, lane), nth, word);
      if (its_place >= 0)
        reinterpret_cast<uint4*>(member)[pieces * its_place + nth] = {word[0], word[1], word[2], word[3]};
    }
  }
};

// The lanes of a copy sort its agents.
class CellSorter : public Team {
 protected:
  unsigned char* search_memory_;  // of the team

  // Sorts the candidates and who asks, looking for both in the range `all`, into cells of about so many, or of more if
  // there is no memory for these. Warps then have work(cells) to do. `with_state` adds what `carry` tells of each,
  // where members lie together.
  template <bool with_state, class Search, class Agents, class Asks, class Carry, class Work>
  METHOD auto sort_into_cells(const Search& search, Agents all, float per_cell, float height_per_width, Asks asks,
                              [[maybe_unused]] Carry carry, Work work) {
    using Cells = ::Cells<with_state>;
    Cells cells;
    // The largest of -x, x, -y, y; members; who of them asks; what is left to do, and a word for the launch; who is
    // lost.
    constexpr int words = Geometry::phased ? 16 : 8;
    unsigned* bounds = zeroed_words<words>(reinterpret_cast<unsigned*>(search_memory_));
    [[maybe_unused]] auto* layout = reinterpret_cast<CellLayout*>(search_memory_);
    cells.left = reinterpret_cast<int*>(bounds + 6);
    cells.start = reinterpret_cast<int*>(search_memory_) + 8;
    cells.who_is_at = reinterpret_cast<typename Cells::Who*>(cells.start + Geometry::most_cells + 4);
    cells.position_of = reinterpret_cast<float2*>(search_memory_ + Geometry::positions_at);
    cells.member = reinterpret_cast<typename Cells::Member*>(cells.position_of);
    // Calls visit(members) for a few of the range at once, without branches, so that their memory is waited for
    // together; `who` is negative where there is none. All lanes of a warp take part.
    constexpr int taken_at_once = loaded_at_once<Agents>();
    using Members = typename Cells::Member[taken_at_once];
    const int lane = lane_ % 32;
    const auto each_of_range = [&](auto visit) {
      for (int start = all.first + (lane_ & ~31); start < all.end(); start += taken_at_once * Geometry::lanes) {
        Members members;
#pragma unroll
        for (int k = 0; k < taken_at_once; ++k) {
          const int number = start + lane + k * Geometry::lanes, j = Math::min(number, all.end() - 1);
          const float at_x = search.x[j], at_y = search.y[j];
          const bool candidate = search.among.has(j) && search.eligible(j), asking = asks(j);
          const bool is_there = is_somewhere(at_x, at_y), is_one = number < all.end();
          const int who = j | (candidate ? 0 : Cells::bystander) | (asking ? 0 : Cells::silent);
          members[k] = {at_x, at_y, (candidate | asking) & is_there & is_one ? who : asking & is_one ? lost : -1};
        }
        visit(members);
      }
    };

    // How many agents are in each cell, where the members come to lie in the end; who they are, and which number each
    // of them has in its cell, where lists come to lie.
    int* counts = reinterpret_cast<int*>(cells.position_of);
    int* members = reinterpret_cast<int*>(search_memory_ + Geometry::lists_at);
    int* ranks = members + Geometry::num_agents;
    in_phase([&] {
      for (int cell = lane_; cell < Geometry::most_cells; cell += Geometry::lanes) counts[cell] = 0;
      unsigned bound[4] = {0, 0, 0, 0};
      int asking = 0, others = 0;
      each_of_range([&](const Members& some) {
        unsigned those[taken_at_once];
        int number = 0;
#pragma unroll
        for (int k = 0; k < taken_at_once; ++k) {
          those[k] = __ballot_sync(~0u, some[k].who >= 0);
          number += __popc(those[k]);
        }
        int place = lane == 0 && number > 0 ? static_cast<int>(atomicAdd(bounds + 4, number)) : 0;
        place = __shfl_sync(~0u, place, 0);
#pragma unroll
        for (int k = 0; k < taken_at_once; ++k) {
          if (some[k].who >= 0) {
            members[place + __popc(those[k] & ((1u << lane) - 1))] = some[k].who;
            const unsigned at_x = ordered(some[k].x), at_y = ordered(some[k].y);
            bound[0] = ::max(bound[0], ~at_x);
            bound[1] = ::max(bound[1], at_x);
            bound[2] = ::max(bound[2], ~at_y);
            bound[3] = ::max(bound[3], at_y);
            asking += some[k].asks() ? 1 : 0;
          }
          others += some[k].who == lost ? 1 : 0;
          place += __popc(those[k]);
        }
      });
#pragma unroll
      for (int k = 0; k < 4; ++k) raise_to(bounds[k], __reduce_max_sync(~0u, bound[k]));
      asking = __reduce_add_sync(~0u, asking);
      if (lane == 0 && asking > 0) atomicAdd(bounds + 5, asking);
      if constexpr (Geometry::phased) {
        others = __reduce_add_sync(~0u, others);
        if (lane == 0 && others > 0) atomicAdd(bounds + 8, others);
      }
    });
    cells.size = static_cast<int>(bounds[4]);
    cells.asking = static_cast<int>(bounds[5]);
    cells.lost = 1;  // perhaps
    if constexpr (Geometry::phased) cells.lost = static_cast<int>(bounds[8]);
    const float fewest_per_cell = static_cast<float>(cells.size) / (Geometry::most_cells - 1);
    cells.lay_out(cells.size, Math::max(per_cell, fewest_per_cell), height_per_width, number_in_order(~bounds[0]),
                  number_in_order(bounds[1]), number_in_order(~bounds[2]), number_in_order(bounds[3]));
    // Calls visit(nth, some) for a few members at once, the numbers of whom are `nth` and what follows at a distance of
    // all lanes; `who` is negative where there is none. All lanes of a warp take part.
    const auto number_of = [&](const auto& member) { return member.who < 0 ? all.first : member.agent(); };
    const auto each_member = [&](auto visit) {
      for (int start = lane_ & ~31; start < cells.size; start += taken_at_once * Geometry::lanes) {
        Members some;
#pragma unroll
        for (int k = 0; k < taken_at_once; ++k) {
          const int nth = start + lane + k * Geometry::lanes;
          some[k].who = nth < cells.size ? members[nth] : -1;
        }
#pragma unroll
        for (int k = 0; k < taken_at_once; ++k) {
          const int j = number_of(some[k]);
          some[k].x = search.x[j];
          some[k].y = search.y[j];
        }
        visit(start + lane, some);
      }
    };
    in_phase([&] {
      each_member([&](int first, const Members& some) {
        int rank[taken_at_once];
#pragma unroll
        for (int k = 0; k < taken_at_once; ++k)
          if (some[k].who >= 0) rank[k] = atomicAdd(counts + cells.cell_of(some[k].x, some[k].y), 1);
#pragma unroll
        for (int k = 0; k < taken_at_once; ++k)
          if (some[k].who >= 0) ranks[first + k * Geometry::lanes] = rank[k];
      });
    });
    const int number = cells.rows * cells.columns;
    add_up(counts, cells.start, number);
    in_phase([&] {
      if (lane_ == 0) {
        cells.start[number] = cells.size;
        *cells.left = work(cells);
        if constexpr (Geometry::phased) *layout = {cells, cells.asking, cells.lost};
      }
      each_member([&](int first, const Members& some) {
        int place[taken_at_once];
#pragma unroll
        for (int k = 0; k < taken_at_once; ++k) {
          place[k] = -1;
          if (some[k].who >= 0)
            place[k] = cells.start[cells.cell_of(some[k].x, some[k].y)] + ranks[first + k * Geometry::lanes];
        }
#pragma unroll
        for (int k = 0; k < taken_at_once; ++k) {
          auto member = some[k];
          if (!member.is_candidate()) member.y = Math::infinity;  // nobody is to find it
          if constexpr (with_state && Cells::together && Geometry::carried > 0)
            cells.put_with_state(place[k], member, number_of(member), carry);
          else if (place[k] >= 0)
            cells.put(place[k], member);
        }
      });
    });
    if constexpr (Geometry::phased) {  // whoever searches finds it there
      static_cast<CellShape&>(cells) = layout->shape;
      cells.asking = layout->asking;
      cells.lost = layout->lost;
    }
    return cells;
  }

 private:
  struct CellLayout {
    CellShape shape;
    int asking, lost;
  };

  static constexpr int lost = -2;  // stands for who asks but is nowhere

  // How many of a lane's agents are loaded together: all of them if there are registers.
  template <class Agents>
  METHOD static constexpr int loaded_at_once() {
    constexpr int of_lane = (most_of<Agents> + Geometry::lanes - 1) / Geometry::lanes;
    constexpr int most = Geometry::grouped ? 3 : Geometry::phased ? 8 : 4;
    return of_lane < most ? of_lane : most;
  }

  // Makes a word of the team's memory at least the value, which is the same in all lanes of a warp.
  METHOD void raise_to(unsigned& word, unsigned value) const {
    const bool looks_first = Geometry::phased;  // where many warps share the word, and few have something to raise
    if (lane_ % 32 == 0 && (!looks_first || value > word)) atomicMax(&word, value);
  }
};
