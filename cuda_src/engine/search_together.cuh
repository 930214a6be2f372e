// How the lanes of a copy look for nearest agents together.
//
// With few agents to choose from, everyone looks at each. With some hundreds, the eligible ones are first brought
// together in shared memory (candidates_cuda.cuh). With more, all agents are sorted into cells (cells_cuda.cuh), and
// warps take 32 neighbours at a time: their candidates are those in a window of cells around them, the same for all
// lanes.
#pragma once

#include "candidates_cuda.cuh"
#include "cells_cuda.cuh"
#include "nearest.cuh"
#include "ordered.cuh"
#include "staged_rows_cuda.cuh"
#include "team_cuda.cuh"

constexpr int few = 24;  // agents, of whom it is faster to look at each than to bring them together

constexpr float first_distance = 1.9f;  // in which to look for candidates, in widths of a cell

using NeighborIndex = std::conditional_t<(Geometry::num_agents < 0xffff), std::uint16_t, std::uint32_t>;

// Everyone looks at those who have been brought together.
template <int K, class Agents, class Eligible>
struct SearchTogether {
  Search<K, Agents, Eligible> search;
  Candidates<Geometry::candidates> candidates;
  const int* place;  // [num_agents] among the candidates, -1 for others

  METHOD Nearest<K> of(int i) const {
    const float at_x = search.x[i], at_y = search.y[i];
    const int self = search.among.has(i) ? place[i] : -1;
    const bool near_only = K <= 4 && search.limit < Math::infinity;  // those within the limit are few
    const float bound =
        near_only ? candidates.stand_in(at_x, at_y, search.limit) : candidates.template bound<K>(at_x, at_y);
    return candidates.template nearest<K>(at_x, at_y, self, search.limit, bound);
  }
};

template <int K>
constexpr int list_words = ((K + 1) * sizeof(NeighborIndex) + 3) / 4;

// Everyone has looked, and left a list.
template <int K>
struct SearchDone {
  struct Found {
    int found;
    const NeighborIndex* index;

    METHOD int operator[](int k) const { return static_cast<int>(index[k]); }
  };

  const std::uint32_t* lists;  // [num_agents, list_words<K>]: how many are found, and who

  METHOD Found of(int i) const {
    const auto* list = reinterpret_cast<const NeighborIndex*>(lists + static_cast<std::size_t>(i) * list_words<K>);
    return {static_cast<int>(list[0]), list + 1};
  }
};

class Searcher : public Team {
 protected:
  unsigned char* search_memory_;  // of the team
  unsigned char* warp_memory_;    // of each warp, shared; free between observations

  // All lanes of a team call it together; asks(i) says who wants to know. The result holds until the next call.
  // `listed` leaves lists for several lanes to read; otherwise a lane may find for itself what it needs.
  template <bool listed, int K, class Agents, class Eligible, class Asks>
  METHOD auto prepare(const Search<K, Agents, Eligible>& search, Asks asks) {
    static_assert(K <= Geometry::neighbors, "neighbors() of the declaration must return the largest K of nearest<K>");
    constexpr int most = MostOf<Agents>::value < Geometry::num_agents ? MostOf<Agents>::value : Geometry::num_agents;
    auto* lists = reinterpret_cast<std::uint32_t*>(search_memory_ + Geometry::lists_at);
    if constexpr (Geometry::candidates == 0 || K > Geometry::longest_list || (most <= few && !listed)) {
      return SearchAlone<K, Agents, Eligible>{search};
    } else if constexpr (most <= Geometry::candidates) {
      Candidates<Geometry::candidates> candidates(search_memory_);
      int* place = reinterpret_cast<int*>(search_memory_ + Candidates<Geometry::candidates>::bytes);
      gather(search, candidates, place);
      const SearchTogether<K, Agents, Eligible> together{search, candidates, place};
      if constexpr (listed) {
        for (int i = lane_; i < Geometry::num_agents; i += Geometry::lanes)
          if (asks(i)) write_list(lists, i, together.of(i));
        synchronize();
        return SearchDone<K>{lists};
      } else {
        return together;
      }
    } else {
      search_in_cells(search, asks, lists);
      return SearchDone<K>{lists};
    }
  }

 private:
  template <int K>
  METHOD static void write_list(std::uint32_t* lists, int i, const Nearest<K>& found) {
    std::uint32_t* list = lists + static_cast<std::size_t>(i) * list_words<K>;
    const auto entry = [&](int k) {
      return static_cast<std::uint32_t>(k == 0 ? found.found : k <= K ? found.index[k - 1] : 0);
    };
#pragma unroll
    for (int word = 0; word < list_words<K>; ++word)
      list[word] = sizeof(NeighborIndex) == 4 ? entry(word) : (entry(2 * word) & 0xffff) | entry(2 * word + 1) << 16;
  }

  // Whether agent j is at finite coordinates: nobody else finds or is found.
  template <class Search>
  METHOD static bool is_somewhere(const Search& search, int j) {
    return search.x[j] - search.x[j] == 0.0f && search.y[j] - search.y[j] == 0.0f;
  }

  template <class Search>
  METHOD static bool is_candidate(const Search& search, int j) {
    return search.among.has(j) && search.eligible(j) && is_somewhere(search, j);
  }

  // Brings the eligible agents together.
  template <class Search, class Candidates>
  METHOD void gather(const Search& search, Candidates& candidates, int* place) {
    const int first = search.among.first & ~31, chunks = (search.among.end() - first + 31) / 32;
    int* counts = place + Geometry::num_agents;
    unsigned* farthest = reinterpret_cast<unsigned*>(counts + 8);
    const bool centered = is_somewhere(search, search.among.first);
    candidates.center_x = centered ? search.x[search.among.first] : 0.0f;
    candidates.center_y = centered ? search.y[search.among.first] : 0.0f;
    for (int chunk = lane_ / 32; chunk < chunks; chunk += warps_) {
      const int j = first + 32 * chunk + lane_ % 32;
      const bool taken = is_candidate(search, j);
      const unsigned takers = __ballot_sync(~0u, taken);
      const float norm = taken ? candidates.squared_distance_to_center(search.x[j], search.y[j]) : 0.0f;
      const unsigned largest = __reduce_max_sync(~0u, __float_as_uint(norm));
      if (search.among.has(j)) place[j] = taken ? __popc(takers & ((1u << lane_ % 32) - 1)) : -1;
      if (lane_ % 32 != 0) continue;
      counts[chunk] = __popc(takers);
      farthest[chunk] = largest;
    }
    synchronize();
    unsigned reach_squared = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      candidates.size += counts[chunk];
      reach_squared = ::max(reach_squared, farthest[chunk]);
    }
    candidates.reach = 1.001f * sqrtf(__uint_as_float(reach_squared));
    for (int chunk = lane_ / 32; chunk < chunks; chunk += warps_) {
      const int j = first + 32 * chunk + lane_ % 32;
      if (!search.among.has(j) || place[j] < 0) continue;
      for (int before = 0; before < chunk; ++before) place[j] += counts[before];
      candidates.put(place[j], j, search.x[j], search.y[j]);
    }
    candidates.close(lane_);
    synchronize();
  }

  // Fills the lists of all who ask. A warp takes 32 agents in the order of their cells. Its candidates are those within
  // some distance of the box around these agents: at first a distance that should do, then, if the K nearest may lie
  // farther off, one that does.
  template <int K, class Agents, class Eligible, class Asks>
  METHOD void search_in_cells(const Search<K, Agents, Eligible>& search, Asks asks, std::uint32_t* lists) {
    const Cells cells = sort_into_cells(search, asks);
    const float within = sqrtf(search.limit) * 1.00001f;
    Candidates<Geometry::candidates> candidates(warp_memory_);
    wait_for_stored_rows();
    for (int i = lane_; i < Geometry::num_agents; i += Geometry::lanes)
      if (asks(i) && !is_somewhere(search, i)) lists[static_cast<std::size_t>(i) * list_words<K>] = 0;  // finds nobody
#pragma unroll 1
    for (int first = lane_ & ~31; first < cells.size; first += Geometry::lanes) {
      const int at = Math::min(first + lane_ % 32, cells.size - 1);
      const float at_x = cells.x[at], at_y = cells.y[at];
      const Box box = box_of_warp(at_x, at_y);
      candidates.center_x = cells.x[first];
      candidates.center_y = cells.y[first];
      const bool is_huge = !(cells.extent() < 1e18f);  // squares overflow: all are candidates
      float distance = is_huge ? Math::infinity : Math::min(first_distance * cells.width(), within), bound = 3e38f;
      int number, self;
#pragma unroll 1
      for (bool is_first = true;; is_first = false) {
        number = load(candidates, cells, box, distance, 0, at, self);
        bound = fminf(bound, candidates.template bound<K>(at_x, at_y));
        const float needed = max_of_warp(Math::min(candidates.radius(at_x, at_y, bound), within));
        if (needed <= distance || !(distance < cells.extent())) break;
        const bool enough = needed <= 2.0f * distance && (number <= Geometry::candidates || !is_first);
        distance = enough ? needed : number > Geometry::candidates && is_first ? 0.5f * distance : 2.0f * distance;
        if (!enough) continue;
        number = load(candidates, cells, box, distance, 0, at, self);
        break;
      }
      Nearest<K> found;
#pragma unroll 1
      for (int skip = 0; skip < number || skip == 0; skip += Geometry::candidates) {
        if (skip > 0) load(candidates, cells, box, distance, skip, at, self);
        const Nearest<K> some = candidates.template nearest<K>(at_x, at_y, self, search.limit, bound);
        if (skip > 0)
          found.merge(some, search.limit);
        else
          found = some;
      }
      if (first + lane_ % 32 < cells.size) write_list(lists, cells.agent_at(at), found);
    }
    synchronize();
  }

  // Agents within some distance of a box become a warp's candidates, the first `skip` of them left out and no more than
  // there is room for. Returns how many there are in all; `self` becomes the place of the agent `at` in the cells.
  template <class Candidates>
  METHOD int load(Candidates& candidates, const Cells& cells, const Box& box, float distance, int skip, int at,
                  int& self) const {
    const int lane = lane_ % 32;
    const Box reached = box.grown(distance);
    const int first_column = cells.column_of(reached.low_x), last_column = cells.column_of(reached.high_x);
    const int first_row = cells.row_of(reached.low_y), last_row = cells.row_of(reached.high_y);
    int size = -skip;
    float farthest = 0.0f;
    self = -1;
    __syncwarp();
#pragma unroll 1
    for (int row = first_row; row <= last_row; ++row) {
      const Range stretch = cells.stretch(row, first_column, last_column);
#pragma unroll 1
      for (int first = stretch.first; first < stretch.end(); first += 32) {
        const int from = Math::min(first + lane, stretch.end() - 1), who = cells.agent[from];
        const float its_x = cells.x[from], its_y = cells.y[from];
        const bool taken = first + lane < stretch.end() && who < Cells::bystander && reached.has(its_x, its_y);
        const unsigned takers = __ballot_sync(~0u, taken);
        const int place = size + __popc(takers & ((1u << lane) - 1));
        if (taken && place >= 0 && place < Candidates::capacity) {
          candidates.put(place, who, its_x, its_y);
          farthest = fmaxf(farthest, candidates.squared_distance_to_center(its_x, its_y));
        }
        const unsigned own = static_cast<unsigned>(at - first);
        if (own < 32 && (takers >> own & 1) != 0) self = size + __popc(takers & ((1u << own) - 1));
        size += __popc(takers);
      }
    }
    if (self >= Candidates::capacity) self = -1;
    candidates.size = Math::min(size, Candidates::capacity);
    candidates.close(lane);
    candidates.reach = 1.001f * sqrtf(max_of_warp(farthest));
    __syncwarp();
    return size + skip;
  }

  // The largest of numbers that are not negative.
  METHOD static float max_of_warp(float value) {
    return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(value)));
  }

  METHOD static Box box_of_warp(float x, float y) {
    const unsigned at_x = ordered(x), at_y = ordered(y);
    return {number_in_order(__reduce_min_sync(~0u, at_x)), number_in_order(__reduce_max_sync(~0u, at_x)),
            number_in_order(__reduce_min_sync(~0u, at_y)), number_in_order(__reduce_max_sync(~0u, at_y))};
  }

  // Sorts the candidates and all who ask.
  template <class Search, class Asks>
  METHOD Cells sort_into_cells(const Search& search, Asks asks) {
    unsigned* corners = reinterpret_cast<unsigned*>(search_memory_);  // least and greatest x, least and greatest y
    int* count = reinterpret_cast<int*>(corners + 4);
    Cells cells;
    cells.start = count + 4;
    cells.x = reinterpret_cast<float*>(cells.start + Geometry::most_cells + 4);
    cells.y = cells.x + Geometry::num_agents;
    cells.agent = reinterpret_cast<int*>(cells.y + Geometry::num_agents);
    const auto each_member = [&](auto visit) {
      for (int j = lane_; j < Geometry::num_agents; j += Geometry::lanes) {
        const bool candidate = is_candidate(search, j);
        if (candidate || (asks(j) && is_somewhere(search, j))) visit(j, candidate);
      }
    };

    if (lane_ < 4) corners[lane_] = lane_ % 2 == 0 ? ~0u : 0u;
    if (lane_ == 0) *count = 0;
    for (int cell = lane_; cell <= Geometry::most_cells; cell += Geometry::lanes) cells.start[cell] = 0;
    synchronize();
    unsigned corner[4] = {~0u, 0u, ~0u, 0u};
    int members = 0;
    each_member([&](int j, bool) {
      const unsigned at_x = ordered(search.x[j]), at_y = ordered(search.y[j]);
      corner[0] = ::min(corner[0], at_x);
      corner[1] = ::max(corner[1], at_x);
      corner[2] = ::min(corner[2], at_y);
      corner[3] = ::max(corner[3], at_y);
      ++members;
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
    each_member([&](int j, bool) { atomicAdd(cells.start + cells.cell_of(search.x[j], search.y[j]) + 1, 1); });
    synchronize();
    add_up(cells.start + 1, cells.rows * cells.columns);
    each_member([&](int j, bool candidate) {
      const int at = atomicAdd(cells.start + cells.cell_of(search.x[j], search.y[j]) + 1, 1);
      cells.x[at] = search.x[j];
      cells.y[at] = search.y[j];
      cells.agent[at] = candidate ? j : j | Cells::bystander;
    });
    synchronize();
    return cells;
  }

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
    sum -= own;
    for (int warp = 0; warp < lane_ / 32; ++warp) sum += totals[warp];
    for (int k = first; k < end; ++k) {
      const int value = values[k];
      values[k] = sum;
      sum += value;
    }
    synchronize();
  }
};
