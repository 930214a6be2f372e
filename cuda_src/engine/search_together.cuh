// How the lanes of a copy look for nearest agents together.
//
// With few agents to choose from, everyone looks at each. With up to 176, the eligible ones are first brought
// together in shared memory (candidates_cuda.cuh). With more, all agents are sorted into cells (cells_cuda.cuh), and
// warps take 32 at a time, in the order of the cells: each lane looks at those around its agent
// (search_in_rows_cuda.cuh). For a few nearest in a loop over agents, only the candidates are sorted, and each lane
// looks for itself.
#pragma once

#include "candidates_cuda.cuh"
#include "cells_cuda.cuh"
#include "nearest.cuh"
#include "ordered.cuh"
#include "search_in_rows_cuda.cuh"
#include "staged_rows_cuda.cuh"

constexpr int few = 24;  // agents, of whom it is faster to look at each than to bring them together

using NeighborIndex = Candidates<Geometry::candidates>::Index;

// Everyone looks at the cells around: for very few neighbours. Where the limit leaves only a small part of two rows, at
// that; else row by row, outwards, as whoever is found soon limits how far to look.
template <int K, class Agents, class Eligible>
struct SearchInCells {
  static constexpr int at_once = 4;  // candidates, which a lane waits for together

  Search<K, Agents, Eligible> search;
  Cells<false> cells;  // of the candidates alone

  METHOD Nearest<K> of(int i) const {
    const float at_x = search.x[i], at_y = search.y[i];
    Nearest<K> best;
    best.clear();
    if (cells.size == 0 || !is_somewhere(search, i)) return best;
    const float limit = radius(search.limit);
    const int first_row = cells.row_of(at_y - limit), last_row = cells.row_of(at_y + limit);
    if (4.0f * limit < cells.height() && last_row - first_row <= 1) {
      const Range one = cells.stretch(first_row, at_x, limit);
      const Range other = last_row > first_row ? cells.stretch(last_row, at_x, limit) : Range{0, 0};
      const int shift = other.first - one.size;
      take(i, at_x, at_y, one.size + other.size, best, [&](int k) { return k + (k < one.size ? one.first : shift); });
      return best;
    }
    const int home = cells.row_of(at_y);
#pragma unroll 1
    for (int away = 0;; ++away) {
      const float reach = radius(Math::min(best.distance_squared[K - 1], search.limit));
      const bool back = home - away >= cells.row_of(at_y - reach);
      const bool forth = home + away <= cells.row_of(at_y + reach);
      if (!back && !forth) return best;
#pragma unroll 1
      for (int side = back ? 0 : 1; side < (forth && away > 0 ? 2 : 1); ++side) {
        const Range stretch = cells.stretch(side == 0 ? home - away : home + away, at_x, reach);
        take(i, at_x, at_y, stretch.size, best, [&](int k) { return stretch.first + k; });
      }
    }
  }

 private:
  // Looks at so many agents, the k-th of whom is at place_of(k).
  template <class PlaceOf>
  METHOD void take(int i, float at_x, float at_y, int size, Nearest<K>& best, PlaceOf place_of) const {
#pragma unroll 1
    for (int first = 0; first < size; first += at_once) {
      float distance[at_once];
#pragma unroll
      for (int k = 0; k < at_once; ++k) {
        const float2 its = cells.position(place_of(Math::min(first + k, size - 1)));
        const float dx = its.x - at_x, dy = its.y - at_y;
        distance[k] = dx * dx + dy * dy;
      }
#pragma unroll
      for (int k = 0; k < at_once; ++k) {
        const bool is_near = distance[k] < search.limit && distance[k] <= best.distance_squared[K - 1];
        if (first + k >= size || !is_near) continue;
        const int other = cells.agent(place_of(first + k));
        if (other != i) best.insert(other, distance[k], search.limit);
      }
    }
  }
};

template <int K, class Agents, class Eligible>
constexpr bool is_task_of_warps<SearchInCells<K, Agents, Eligible>> = Geometry::phased;

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

  const std::uint32_t* lists;  // [num_agents, list_words]: who is found, and how many

  METHOD Found of(int i) const {
    const std::size_t start = static_cast<std::size_t>(i) * list_words<K>;
    const auto* list = reinterpret_cast<const NeighborIndex*>(lists + start);
    return {static_cast<int>(list[K]), list};
  }
};

// The same with their places in the cells, in registers: what is observed of all can be on its way before the first of
// it is written. Two lanes that share a row ask for neighbors 2 k and 2 k + 1 at once, which are side by side.
template <int K>
struct SearchLoaded {
  struct Found {
    int found;
    const uint4* records;
    std::uint32_t word[list_words<K> + 1];

    METHOD SortedAgent operator[](int k) const { return {records, entry(k)}; }

    METHOD int entry(int k) const {
      if constexpr (sizeof(NeighborIndex) == 4) return static_cast<int>(k % 2 == 0 ? word[k & ~1] : word[k | 1]);
      return static_cast<int>(word[k / 2] >> (k % 2 * 16) & 0xffff);
    }
  };

  const std::uint32_t* lists;
  const uint4* records;

  METHOD Found of(int i) const {
    Found result{0, records, {}};
#pragma unroll
    for (int k = 0; k < list_words<K>; ++k) result.word[k] = lists[i * list_words<K> + k];
    result.found = result.entry(K);
    return result;
  }
};

class Searcher : public CellSorter {
 protected:
  // Whether agents are sorted into cells, for warps to look around in.
  template <int K, class Agents>
  static constexpr bool searches_in_cells =
      Geometry::candidates > 0 && K <= Geometry::longest_list && (most_of<Agents> > Geometry::candidates);

  unsigned char* warp_memory_;  // of each warp, shared; free between observations
  static constexpr auto no_state = [](int, int, std::uint32_t*) {};

  // All lanes of a team call it together; asks(i) says who of a range wants to know. The result holds until the next
  // call. `listed` leaves lists for several lanes to read; otherwise a lane may find for itself what it needs.
  template <bool listed, int K, class Agents, class Eligible, class Asks>
  METHOD auto prepare(const Search<K, Agents, Eligible>& search, Range range, Asks asks) {
    static_assert(K <= Geometry::neighbors, "neighbors() of the declaration must return the largest K of nearest<K>");
    constexpr int most = most_of<Agents>;
    auto* lists = reinterpret_cast<std::uint32_t*>(search_memory_ + Geometry::lists_at);
    if constexpr (Geometry::candidates == 0 || K > Geometry::longest_list || (most <= few && !listed)) {
      return SearchAlone<K, Agents, Eligible>{search};
    } else if constexpr (!listed && K <= 4 && most > (Geometry::most_cells > 0 ? few : Geometry::candidates)) {
      constexpr float per_cell = 0.4f * (K > 2 ? K : 2);  // small ones: after a row of them, few are left to look at
      constexpr float height_per_width = 2.0f;
      const auto nobody_asks = [](int) { return false; };
      const auto cells = sort_into_cells<false>(search, search.among, per_cell, height_per_width, nobody_asks, no_state,
                                                [&](const auto&) { return range.size; });
      return SearchInCells<K, Agents, Eligible>{search, cells};
    } else if constexpr (most <= Geometry::candidates) {
      list_nearest_together(search, asks, lists);
      return SearchDone<K>{lists};
    } else {
      list_nearest(search, asks, lists);
      return SearchDone<K>{lists};
    }
  }

  // Calls visit(i, found) for every agent of a range: a warp first finds out who of some agents asks, so that all its
  // lanes have someone to look for.
  template <int K, class Agents, class Eligible, class Asks, class Visit>
  METHOD void each_in_cells(Range range, const SearchInCells<K, Agents, Eligible>& prepared, Asks asks, Visit visit) {
    constexpr int chunks = 4;
    in_helped_phase<32 * chunks>(prepared.cells.left, [&] {
      static_assert(Geometry::grouped || Geometry::warps <= Geometry::searching_warps, "of the blocks that search");
      __shared__ int who_asks[Geometry::searching_warps][32 * chunks];
      const int lane = lane_ % 32;
      int* const asking = who_asks[threadIdx.x / 32];
      in_parts<32 * chunks>(prepared.cells.left, range.size, [&](int first) {
        bool asks_in[chunks];
#pragma unroll
        for (int k = 0; k < chunks; ++k) {
          const int nth = first + 32 * k + lane;
          asks_in[k] = nth < range.size && asks(range.first + nth);
        }
        int count = 0;
#pragma unroll
        for (int k = 0; k < chunks; ++k) {
          const int nth = first + 32 * k + lane;
          const unsigned those = __ballot_sync(~0u, asks_in[k]);
          if (asks_in[k]) asking[count + __popc(those & ((1u << lane) - 1))] = range.first + nth;
          count += __popc(those);
          Nearest<K> nobody;
          nobody.found = 0;
          if (!asks_in[k] && nth < range.size) visit(range.first + nth, nobody);
        }
        __syncwarp();
#pragma unroll 1
        for (int k = lane; k < count; k += 32) {
          const int i = asking[k];
          visit(i, prepared.of(i));
        }
        __syncwarp();
      });
    });
  }

  template <int K>
  METHOD static void write_list(std::uint32_t* lists, int i, const Nearest<K>& found) {
    std::uint32_t* list = lists + static_cast<std::size_t>(i) * list_words<K>;
    const auto entry = [&](int k) {
      return static_cast<std::uint32_t>(k < K ? found.index[k] : k == K ? found.found : 0);
    };
#pragma unroll
    for (int word = 0; word < list_words<K>; ++word)
      list[word] = sizeof(NeighborIndex) == 4 ? entry(word) : (entry(2 * word) & 0xffff) | entry(2 * word + 1) << 16;
  }

 private:
  template <class Search>
  METHOD static bool is_candidate(const Search& search, int j) {
    return search.among.has(j) && search.eligible(j) && is_somewhere(search, j);
  }

  // Fills the lists of all who ask: everyone looks at the eligible agents, who are brought together.
  template <int K, class Agents, class Eligible, class Asks>
  METHOD void list_nearest_together(const Search<K, Agents, Eligible>& search, Asks asks, std::uint32_t* lists) {
    static_assert(
        Candidates<Geometry::candidates>::bytes + 2 * ((Geometry::num_agents + 1) & ~1) + 64 <= Geometry::lists_at,
        "candidates, their places and counts, as in search_memory.py");
    Candidates<Geometry::candidates> candidates(search_memory_, lane_ % 32);
    auto* place = reinterpret_cast<std::int16_t*>(search_memory_ + Candidates<Geometry::candidates>::bytes);
    gather(search, candidates, place);
    const bool near_only = K <= 4 && search.limit < Math::infinity;  // those within the limit are few
    in_phase([&] {
#pragma unroll 1
      for (int first = lane_ & ~31; first < Geometry::num_agents; first += Geometry::lanes) {
        const int i = Math::min(first + lane_ % 32, Geometry::num_agents - 1);
        const bool asking = first + lane_ % 32 < Geometry::num_agents && asks(i);
        if (!__any_sync(~0u, asking)) continue;
        const auto query = candidates.query(search.x[i], search.y[i]);
        const int self = search.among.has(i) ? place[i] : -1;
        const float bound = near_only ? Math::infinity : candidates.template bound<K>(query);
        const auto marks = candidates.mark(query, Math::min(bound, search.limit));
        if (!asking) continue;
        Nearest<K> found;
        const bool is_known = near_only ? candidates.insert_marked(query, marks, self, search.limit, found)
                                        : candidates.sort_nearest(query, marks, self, search.limit, bound, found);
        if (!is_known) {
          found.clear();
          candidates.insert(query.at_x, query.at_y, self, search.limit, found);
        }
        write_list(lists, i, found);
      }
    });
  }

  // Brings the eligible agents together.
  template <class Search, class Candidates>
  METHOD void gather(const Search& search, Candidates& candidates, std::int16_t* place) {
    const int first = search.among.first & ~31, chunks = (search.among.end() - first + 31) / 32;
    int* counts = reinterpret_cast<int*>(place + (Geometry::num_agents + 1) / 2 * 2);
    unsigned* farthest = reinterpret_cast<unsigned*>(counts + 8);
    const bool centered = is_somewhere(search, search.among.first);
    candidates.center_x = centered ? search.x[search.among.first] : 0.0f;
    candidates.center_y = centered ? search.y[search.among.first] : 0.0f;
    in_phase([&] {
      for (int chunk = lane_ / 32; chunk < chunks; chunk += warps_) {
        const int j = first + 32 * chunk + lane_ % 32;
        const bool taken = is_candidate(search, j);
        const unsigned takers = __ballot_sync(~0u, taken);
        const float norm = taken ? candidates.squared_distance_to_center(search.x[j], search.y[j]) : 0.0f;
        const unsigned largest = __reduce_max_sync(~0u, __float_as_uint(norm));
        if (search.among.has(j))
          place[j] = static_cast<std::int16_t>(taken ? __popc(takers & ((1u << lane_ % 32) - 1)) : -1);
        if (lane_ % 32 != 0) continue;
        counts[chunk] = __popc(takers);
        farthest[chunk] = largest;
      }
    });
    const int lane = lane_ % 32, count = lane < chunks ? counts[lane] : 0;
    candidates.size = __reduce_add_sync(~0u, count);
    const unsigned reach_squared = __reduce_max_sync(~0u, lane < chunks ? farthest[lane] : 0);
    candidates.set_reach(1.001f * sqrtf(__uint_as_float(reach_squared)));
    in_phase([&] {
#pragma unroll 1
      for (int chunk = lane_ / 32; chunk < chunks; chunk += warps_) {
        const int j = first + 32 * chunk + lane, before = __reduce_add_sync(~0u, lane < chunk ? count : 0);
        if (!search.among.has(j) || place[j] < 0) continue;
        const int k = place[j] + before;
        candidates.put(k, j, search.x[j], search.y[j]);
        place[j] = static_cast<std::int16_t>(candidates.place_of(k));
      }
      candidates.close(lane_);
    });
  }

  // Fills the lists of all who ask.
  template <int K, class Agents, class Eligible, class Asks>
  METHOD void list_nearest(const Search<K, Agents, Eligible>& search, Asks asks, std::uint32_t* lists) {
    search_in_cells(
        search, asks, Geometry::num_agents, no_state, [](int) {},
        [&](int i, int, const Nearest<K>& found, const auto& cells) {
          if (i >= 0) write_list(lists, i, cells.agents(found));
        },
        [&](int first, const auto&) {
          const int i = first + lane_ % 32;
          if (i >= Geometry::num_agents || !asks(i) || is_somewhere(search, i)) return;
          Nearest<K> nobody;
          nobody.clear();
          write_list(lists, i, nobody);
        });
  }

 protected:
  // Warps take 32 agents at a time, in the order of their cells, and call visit(i, place, found, cells) in all lanes; i
  // is -1 for lanes without an agent, `place` is its own in the cells, and `found` are places as well. What `carry`
  // tells of an agent lies there. Some time before, they call announce(i), at least once. Unless all ask,
  // visit_others(k, cells) for k = 0, 32, …, up to `others` follows, in all lanes as well: who does not ask finds
  // nobody, nor does who is nowhere; unless some are lost, none of these asks.
  template <int K, class Agents, class Eligible, class Asks, class Carry, class Announce, class Visit,
            class VisitOthers>
  METHOD void search_in_cells(const Search<K, Agents, Eligible>& search, Asks asks, int others, Carry carry,
                              Announce announce, Visit visit, VisitOthers visit_others) {
    const auto end_in_cells = [](const auto& cells) { return (cells.size + 31) & ~31; };
    const auto end_of_all = [&](const auto& cells) {
      return end_in_cells(cells) + (cells.asking < Geometry::num_agents ? others : 0);
    };
    const auto cells = sort_into_cells<true>(search, Range{0, Geometry::num_agents}, Geometry::agents_per_cell,
                                             SearchInRows<K>::height_per_width, asks, carry, end_of_all);
    const int end_of_cells = end_in_cells(cells), lane = lane_ % 32;
    in_helped_phase(cells.left, [&] {
      in_parts(cells.left, end_of_all(cells), [&](int first) {
        if (first >= end_of_cells) return visit_others(first - end_of_cells, cells);
        wait_for_stored_rows();
        const int place = Math::min(first + lane, cells.size - 1);
        const auto own = cells.at(place);
        const int i = first + lane < cells.size && own.asks() ? own.agent() : -1;
        announce(i);
        const float at_y = own.is_candidate() ? own.y : search.y[own.agent()];
        SearchInRows<K> look(cells, warp_memory_, warp_memory_ + Geometry::vicinity_at, lane, search.limit);
        visit(i, place, look.of(place, own.x, at_y, i >= 0), cells);
      });
    });
  }

  // The same with lists for several lanes to read, 32 in `lists`: calls visit(i, sorted, prepared), where
  // prepared.of(lane) is what the agent of a lane finds.
  template <int K, class Agents, class Eligible, class Asks, class Carry, class Announce, class Visit,
            class VisitOthers>
  METHOD void list_in_cells(const Search<K, Agents, Eligible>& search, Asks asks, int others, std::uint32_t* lists,
                            Carry carry, Announce announce, Visit visit, VisitOthers visit_others) {
    search_in_cells(
        search, asks, others, carry, announce,
        [&](int i, int place, const Nearest<K>& found, const auto& cells) {
          __syncwarp();  // whoever is still looking has its own in this memory
          write_list(lists, lane_ % 32, found);
          __syncwarp();
          visit(i, SortedAgent{cells.records(), place}, SearchLoaded<K>{lists, cells.records()});
        },
        visit_others);
  }
};
