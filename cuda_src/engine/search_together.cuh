// How the lanes of a copy look for nearest agents together.
//
// With few agents to choose from, everyone looks at each. With up to 176, the eligible ones are first brought
// together in shared memory (candidates_cuda.cuh). With more, all agents are sorted into cells (cells_cuda.cuh), and
// warps take 32 neighbours at a time: their candidates are those in a window of cells around them, the same for all
// lanes.
#pragma once

#include "candidates_cuda.cuh"
#include "cells_cuda.cuh"
#include "nearest.cuh"
#include "ordered.cuh"
#include "staged_rows_cuda.cuh"

constexpr int few = 24;  // agents, of whom it is faster to look at each than to bring them together

constexpr float wanted_candidates = 0.6f * Geometry::candidates;  // of 32 agents, where there would be too many
constexpr int most_corrections = 2;  // of the distance within which they stand; a crowd in one place stays too many

constexpr int candidates_at_once = Geometry::staged ? 1 : 3;  // as at_once, where a warp loads about 150, 32 at a time

using NeighborIndex = Candidates<Geometry::candidates>::Index;

// Everyone looks at the cells around, row by row, outwards: for very few neighbours, which soon limit how far to look.
template <int K, class Agents, class Eligible>
struct SearchInCells {
  Search<K, Agents, Eligible> search;
  Cells cells;  // of the candidates alone

  METHOD Nearest<K> of(int i) const {
    const float at_x = search.x[i], at_y = search.y[i];
    Nearest<K> best;
    best.clear();
    if (cells.size == 0 || !is_somewhere(search, i)) return best;
    const int home = cells.row_of(at_y);
#pragma unroll 1
    for (int away = 0;; ++away) {
      const float reach = radius(Math::min(best.distance_squared[K - 1], search.limit));
      const bool back = home - away >= cells.row_of(at_y - reach);
      const bool forth = home + away <= cells.row_of(at_y + reach);
      if (!back && !forth) return best;
#pragma unroll 1
      for (int side = back ? 0 : 1; side < (forth && away > 0 ? 2 : 1); ++side) {
        const int row = side == 0 ? home - away : home + away;
        const Range stretch = cells.stretch(row, cells.column_of(at_x - reach), cells.column_of(at_x + reach));
#pragma unroll 1
        for (int first = stretch.first; first < stretch.end(); first += at_once) {
          float distance[at_once];
#pragma unroll
          for (int k = 0; k < at_once; ++k) {
            const float2 its = cells.position(Math::min(first + k, stretch.end() - 1));
            const float dx = its.x - at_x, dy = its.y - at_y;
            distance[k] = dx * dx + dy * dy;
          }
#pragma unroll
          for (int k = 0; k < at_once; ++k) {
            if (first + k >= stretch.end() || distance[k] > best.distance_squared[K - 1]) continue;
            const int other = cells.agent(first + k);
            if (other != i) best.insert(other, distance[k], search.limit);
          }
        }
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

  const std::uint32_t* lists;  // [num_agents, list_words<K>]: who is found, and how many

  METHOD Found of(int i) const {
    const auto* list = reinterpret_cast<const NeighborIndex*>(lists + static_cast<std::size_t>(i) * list_words<K>);
    return {static_cast<int>(list[K]), list};
  }
};

// The same, with the list in registers: what is observed of all can be on its way before the first of it is written.
// Two lanes that share a row ask for neighbors 2 k and 2 k + 1 at once, which are side by side.
template <int K>
struct SearchLoaded {
  struct Found {
    int found;
    std::uint32_t word[list_words<K> + 1];

    METHOD int operator[](int k) const {
      if constexpr (sizeof(NeighborIndex) == 4) return static_cast<int>(k % 2 == 0 ? word[k & ~1] : word[k | 1]);
      return static_cast<int>(word[k / 2] >> (k % 2 * 16) & 0xffff);
    }
  };

  const std::uint32_t* lists;

  METHOD Found of(int i) const {
    Found result{};
#pragma unroll
    for (int k = 0; k < list_words<K>; ++k) result.word[k] = lists[i * list_words<K> + k];
    result.found = result[K];
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

  // All lanes of a team call it together; asks(i) says who of a range wants to know. The result holds until the next
  // call. `listed` leaves lists for several lanes to read; otherwise a lane may find for itself what it needs.
  template <bool listed, int K, class Agents, class Eligible, class Asks>
  METHOD auto prepare(const Search<K, Agents, Eligible>& search, Range range, Asks asks) {
    static_assert(K <= Geometry::neighbors, "neighbors() of the declaration must return the largest K of nearest<K>");
    constexpr int most = most_of<Agents>;
    auto* lists = reinterpret_cast<std::uint32_t*>(search_memory_ + Geometry::lists_at);
    if constexpr (Geometry::candidates == 0 || K > Geometry::longest_list || (most <= few && !listed)) {
      return SearchAlone<K, Agents, Eligible>{search};
    } else if constexpr (!listed && K <= 4 && most > Geometry::candidates) {
      constexpr float per_cell = 0.4f * (K > 2 ? K : 2);  // small ones: after a row of them, few are left to look at
      const auto nobody_asks = [](int) { return false; };
      const Cells cells =
          sort_into_cells(search, search.among, per_cell, nobody_asks, [&](const Cells&) { return range.size; });
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
    in_helped_phase<32 * chunks>([&] {
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
        search, asks, Geometry::num_agents, [](int) {},
        [&](int i, const Nearest<K>& found) {
          if (i >= 0) write_list(lists, i, found);
        },
        [&](int first) {
          const int i = first + lane_ % 32;
          if (i >= Geometry::num_agents || !asks(i) || is_somewhere(search, i)) return;
          Nearest<K> nobody;
          nobody.clear();
          write_list(lists, i, nobody);
        });
  }

 protected:
  // Warps take 32 agents at a time, in the order of their cells, and call visit(i, found) in all lanes; i is -1 for
  // lanes without an agent. Some time before, they call announce(i), at least once. Unless all ask, visit_others(k) for
  // k = 0, 32, …, up to `others` follows, in all lanes as well: who does not ask, or is nowhere, finds nobody.
  template <int K, class Agents, class Eligible, class Asks, class Announce, class Visit, class VisitOthers>
  METHOD void search_in_cells(const Search<K, Agents, Eligible>& search, Asks asks, int others, Announce announce,
                              Visit visit, VisitOthers visit_others) {
    const auto end_in_cells = [](const Cells& cells) { return (cells.size + 31) & ~31; };
    const auto end_of_all = [&](const Cells& cells) {
      return end_in_cells(cells) + (cells.asking < Geometry::num_agents ? others : 0);
    };
    const Cells cells =
        sort_into_cells(search, Range{0, Geometry::num_agents}, Geometry::agents_per_cell, asks, end_of_all);
    const int end_of_cells = end_in_cells(cells), lane = lane_ % 32;
    in_helped_phase([&] {
      in_parts(cells.left, end_of_all(cells), [&](int first) {
        if (first >= end_of_cells) return visit_others(first - end_of_cells);
        wait_for_stored_rows();
        const auto own = cells.at(Math::min(first + lane, cells.size - 1));
        const int i = first + lane < cells.size && own.asks() ? own.agent() : -1;
        const Nearest<K> found = nearest_of_part<K>(cells, first, own, search.limit, [&] { announce(i); });
        visit(i, found);
      });
    });
  }

  // The same with lists for several lanes to read, 32 in `lists`: calls visit(i, prepared), where prepared.of(lane) is
  // what the agent of a lane finds.
  template <int K, class Agents, class Eligible, class Asks, class Announce, class Visit, class VisitOthers>
  METHOD void list_in_cells(const Search<K, Agents, Eligible>& search, Asks asks, int others, std::uint32_t* lists,
                            Announce announce, Visit visit, VisitOthers visit_others) {
    search_in_cells(
        search, asks, others, announce,
        [&](int i, const Nearest<K>& found) {
          write_list(lists, lane_ % 32, found);
          __syncwarp();
          visit(i, SearchLoaded<K>{lists});
        },
        visit_others);
  }

 private:
  // What the 32 agents from the place `first` of the cells on find, each lane for its own one. Candidates are those
  // within some distance of the box around all of them: at first a distance that should do, or less if that is too
  // many; then, for those of whose K nearest one lies farther off, one that does. Calls announce() before each choice.
  template <int K, class Announce>
  METHOD Nearest<K> nearest_of_part(const Cells& cells, int first, const Cells::Member& agent, float limit,
                                    Announce announce) const {
    static_assert(
        Geometry::most_cells == 0 || Candidates<Geometry::candidates>::bytes + 32 <= 4 * Geometry::warp_stage_floats,
        "room for the candidates of a warp, as in search_memory.py");
    Candidates<Geometry::candidates> candidates(warp_memory_, lane_ % 32);
    std::uint8_t* own = warp_memory_ + Candidates<Geometry::candidates>::bytes;  // the agents' places as candidates
    const float within = limit < Math::infinity ? radius(limit) : limit;
    const float at_x = agent.x, at_y = agent.y;
    Box box = box_of_warp(at_x, at_y, true);
    const bool is_huge = !(cells.extent() < 1e18f);  // squares overflow: all are candidates
    const float usual_distance = is_huge ? Math::infinity : Math::min(first_distance_around(box, cells), within);
    float distance = usual_distance;
    int corrections_left = most_corrections;
    float bound = Math::infinity;
    bool is_done = false;
    Nearest<K> found;
#pragma unroll 1
    for (;;) {
      const int number = load(candidates, cells, box, distance, 0, first, own);
      if (number > Geometry::candidates && corrections_left > 0 && distance < cells.extent()) {
        --corrections_left;
        distance *= Math::sqrt(wanted_candidates / static_cast<float>(number));  // right if they are spread evenly
        continue;
      }
      corrections_left = 0;  // whatever distance follows is needed
      announce();
      const auto query = candidates.query(at_x, at_y);
      bound = fminf(bound, candidates.template bound<K>(query));
      const bool is_marked = number <= Geometry::candidates;
      const auto marks = candidates.mark(query, Math::min(bound, limit));
      const int self = own[lane_ % 32];
      const bool is_sorted = is_done || (is_marked && candidates.sort_nearest(query, marks, self, limit, bound, found));
      if (!is_sorted) found.clear();
#pragma unroll 1
      for (int skip = 0; skip < number; skip += Geometry::candidates) {
        if (skip > 0) load(candidates, cells, box, distance, skip, first, own);
        if (!is_sorted) candidates.insert(at_x, at_y, own[lane_ % 32], limit, found);
      }
      const float needed = Math::min(radius(found.distance_squared[K - 1]), within);
      is_done = is_done || needed <= distance || !(distance < cells.extent());
      if (__all_sync(~0u, is_done)) return found;
      distance = Math::min(max_of_warp(is_done ? 0.0f : needed), Math::max(2.0f * distance, usual_distance));
      box = box_of_warp(at_x, at_y, !is_done);
    }
  }

  // How far to look for candidates at first: farther at the sides of the field, where fewer stand around.
  METHOD static float first_distance_around(const Box& box, const Cells& cells) {
    const auto is_at_side = [](float low, float high, float field_low, float per_cell, int count) {
      const float from_low = (low - field_low) * per_cell, from_high = count - (high - field_low) * per_cell;
      return Math::min(from_low, from_high) < 1.0f;
    };
    float distance = first_distance * cells.width();
    if (is_at_side(box.low_x, box.high_x, cells.low_x, cells.per_width, cells.columns)) distance *= farther_at_side;
    if (is_at_side(box.low_y, box.high_y, cells.low_y, cells.per_height, cells.rows)) distance *= farther_at_side;
    return distance;
  }

  // Agents within some distance of a box become a warp's candidates, the first `skip` of them left out and no more than
  // there is room for. Returns how many there are in all. Of each of the 32 agents from place `first` of the cells on,
  // `own` becomes the place among the candidates, or 0.
  template <class Candidates>
  METHOD int load(Candidates& candidates, const Cells& cells, const Box& box, float distance, int skip, int first,
                  std::uint8_t* own) const {
    const int lane = lane_ % 32;
    const Box reached = box.grown(distance);
    const int first_column = cells.column_of(reached.low_x), last_column = cells.column_of(reached.high_x);
    const int last_row = cells.row_of(reached.high_y);
    int size = -skip;
    candidates.center_x = 0.5f * box.low_x + 0.5f * box.high_x;
    candidates.center_y = 0.5f * box.low_y + 0.5f * box.high_y;
    const float along_x = Math::max(reached.high_x - candidates.center_x, candidates.center_x - reached.low_x);
    const float along_y = Math::max(reached.high_y - candidates.center_y, candidates.center_y - reached.low_y);
    candidates.set_reach(1.4143f * Math::max(along_x, along_y));
    own[lane] = 0;
    __syncwarp();
#pragma unroll 1
    for (int first_row = cells.row_of(reached.low_y); first_row <= last_row; first_row += 32) {
      // Each lane looks a row up. The places of the cells in all these stretches are numbered through, and taken 32 at
      // a time.
      const int rows = Math::min(last_row - first_row + 1, 32);
      Range stretch{0, 0};
      if (lane < rows) stretch = cells.stretch(first_row + lane, first_column, last_column);
      const int total = __reduce_add_sync(~0u, stretch.size);
      int row = 0, end = 0;  // where the numbers of the rows before this one end
      int shift = 0;         // from a number of the last of these to the place
      const auto place_of_number = [&](int from) {
        const int number = Math::min(from + lane, total - 1);
        int place = number + shift;
#pragma unroll 1
        while (end < Math::min(from + 32, total)) {
          shift = __shfl_sync(~0u, stretch.first, row) - end;
          if (number >= end) place = number + shift;
          end += __shfl_sync(~0u, stretch.size, row++);
        }
        return place;
      };
#pragma unroll 1
      for (int from = 0; from < total; from += 32 * candidates_at_once) {
        int place[candidates_at_once];
        Cells::Member its[candidates_at_once];
#pragma unroll
        for (int k = 0; k < candidates_at_once; ++k) {
          place[k] = place_of_number(from + 32 * k);
          its[k] = cells.at(place[k]);
        }
#pragma unroll
        for (int k = 0; k < candidates_at_once; ++k) {
          const bool taken = candidates.is_within(its[k].x, its[k].y, along_x, along_y) & its[k].is_candidate() &
                             (from + 32 * k + lane < total);
          const unsigned takers = __ballot_sync(~0u, taken);
          const int candidate = size + __popc(takers & ((1u << lane) - 1));
          if (taken && candidate >= 0 && candidate < Candidates::capacity) {
            candidates.put(candidate, its[k].agent(), its[k].x, its[k].y);
            if (static_cast<unsigned>(place[k] - first) < 32)
              own[place[k] - first] = static_cast<std::uint8_t>(candidates.place_of(candidate));
          }
          size += __popc(takers);
        }
      }
    }
    candidates.size = Math::min(size, Candidates::capacity);
    candidates.close(lane);
    __syncwarp();
    return size + skip;
  }

  // The largest of numbers that are not negative.
  METHOD static float max_of_warp(float value) {
    return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(value)));
  }

  // Around those lanes of a warp that count.
  METHOD static Box box_of_warp(float x, float y, bool counts) {
    const unsigned at_x = ordered(x), at_y = ordered(y), least = counts ? 0 : ~0u;
    return {
        number_in_order(__reduce_min_sync(~0u, at_x | least)), number_in_order(__reduce_max_sync(~0u, at_x & ~least)),
        number_in_order(__reduce_min_sync(~0u, at_y | least)), number_in_order(__reduce_max_sync(~0u, at_y & ~least))};
  }
};
