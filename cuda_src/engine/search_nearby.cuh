// One thread looks for nearest agents: among few, each looks at everyone; among more, the candidates are sorted into
// cells, and each looks at those around. See search_together.cuh for what the functions mean.
#pragma once

#include "cells.cuh"
#include "nearest.cuh"

constexpr float height_per_width = 2.0f;  // of a cell
constexpr float first_distance = 1.9f;    // in which to look for candidates, in widths of a cell
constexpr float tiny = 1e-30f;            // a distance whose square is zero

// Memory of a copy for its searches: the candidates in the order of their cells, and those whom an agent looks at.
struct SearchMemory {
  static constexpr int block = 16;  // candidates that are measured at once, some of them behind the last that counts
  static constexpr int room = Geometry::num_agents + batch<Geometry::neighbors> + block;

  int start[Geometry::most_cells + 1];
  int agent[room];
  float x[room];
  float y[room];
  int seen[room];        // an agent
  float distance[room];  // its squared distance, infinite if it does not count
};
static_assert(sizeof(SearchMemory) <= Geometry::unit_bytes - Geometry::search_at,
              "search_memory.py gives it too little");

// Each looks at the cells around, and farther if one of the K nearest may lie beyond them.
template <int K, class Agents, class Eligible>
struct SearchNearby {
  Search<K, Agents, Eligible> search;
  CellGrid cells;
  SearchMemory* memory;
  float first_reach;  // in which to look at first

  METHOD Nearest<K> of(int i) const {
    const float at_x = search.x[i], at_y = search.y[i];
    float reach = is_somewhere(at_x, at_y) ? Math::min(first_reach, radius(search.limit)) : Math::infinity;
    for (;;) {  // all who are within reach are in these cells
      const int first_column = cells.column_of(at_x - reach), last_column = cells.column_of(at_x + reach);
      const int first_row = cells.row_of(at_y - reach), last_row = cells.row_of(at_y + reach);
      int size = 0;
      for (int row = first_row; row <= last_row; ++row)
        size = measure(i, at_x, at_y, cells.stretch(row, first_column, last_column), size);
      for (int t = 0; t < batch<K>; ++t) memory->distance[size + t] = Math::infinity;
      const int padded = (size + batch<K> - 1) / batch<K> * batch<K>;
      const Nearest<K> best = nearest_of<K, true>(
          0, padded, [&](int c) { return memory->distance[c]; }, [&](int c) { return memory->seen[c]; });
      const float needed = radius(Math::min(best.distance_squared[K - 1], search.limit));
      const int looked_at = (last_column - first_column + 1) * (last_row - first_row + 1);
      if (needed <= reach || looked_at == cells.columns * cells.rows) return best;
      reach = Math::min(needed, 2.0f * reach);
    }
  }

 private:
  // Measures the agents of a stretch of cells, behind `size` others. Returns how many there are then.
  METHOD int measure(int i, float at_x, float at_y, Range stretch, int size) const {
    constexpr int block = SearchMemory::block;
    for (int first = stretch.first; first < stretch.end(); first += block) {
      float distance[block];
      int candidate[block];
      in_vectors<block>([&](int t) {
        const float dx = memory->x[first + t] - at_x, dy = memory->y[first + t] - at_y;
        const float squared = dx * dx + dy * dy;
        candidate[t] = memory->agent[first + t];
        distance[t] = (squared < search.limit) & (candidate[t] != i) ? squared : Math::infinity;
      });
      memcpy(memory->distance + size + first - stretch.first, distance, sizeof(distance));
      memcpy(memory->seen + size + first - stretch.first, candidate, sizeof(candidate));
    }
    return size + stretch.size;
  }
};

class Searcher : public Team {
 protected:
  SearchMemory* search_memory_;

  METHOD void use_memory(unsigned char* memory) { search_memory_ = reinterpret_cast<SearchMemory*>(memory); }

  template <bool listed, int K, class Agents, class Eligible, class Asks>
  METHOD auto prepare(const Search<K, Agents, Eligible>& search, Range, Asks) {
    static_assert(K <= Geometry::neighbors, "neighbors() of the declaration must return the largest K of nearest<K>");
    if constexpr (most_of<Agents> <= Geometry::candidates)
      return SearchAlone<K, Agents, Eligible>{search};
    else
      return sort_into_cells(search);
  }

 private:
  template <int K, class Agents, class Eligible>
  METHOD SearchNearby<K, Agents, Eligible> sort_into_cells(const Search<K, Agents, Eligible>& search) {
    constexpr float huge = 3.402823466e38f;
    const Range among = search.among;
    int* const candidates = search_memory_->seen;
    int size = 0;
    float low_x = huge, high_x = -huge, low_y = huge, high_y = -huge;
    for (int j = among.first; j < among.end(); ++j) {
      const bool counts = bool(search.eligible(j)) & is_somewhere(search, j);
      candidates[size] = j;
      size += counts ? 1 : 0;
      low_x = counts ? Math::min(low_x, search.x[j]) : low_x;
      high_x = counts ? Math::max(high_x, search.x[j]) : high_x;
      low_y = counts ? Math::min(low_y, search.y[j]) : low_y;
      high_y = counts ? Math::max(high_y, search.y[j]) : high_y;
    }

    CellGrid cells;
    cells.start = search_memory_->start;
    cells.lay_out(size, Geometry::agents_per_cell, height_per_width, low_x, high_x, low_y, high_y);
    const auto cell_of = [&](int j) { return cells.cell_of(search.x[j], search.y[j]); };
    memset(cells.start, 0, (cells.rows * cells.columns + 1) * sizeof(int));
    int* const next = cells.start + 1;  // where the next agent of a cell goes; at last, where those of the next start
    for (int k = 0; k < size; ++k) ++next[cell_of(candidates[k])];
    for (int cell = 0, sum = 0; cell < cells.rows * cells.columns; ++cell) {
      sum += next[cell];
      next[cell] = sum - next[cell];
    }
    for (int k = 0; k < size; ++k) {
      const int j = candidates[k], place = next[cell_of(j)]++;
      search_memory_->agent[place] = j;
      search_memory_->x[place] = search.x[j];
      search_memory_->y[place] = search.y[j];
    }
    const bool few = size <= 4 * K;  // it is faster to look at each
    const float width = Math::max(1.0f / cells.per_width, 1.0f / (cells.per_height * height_per_width));
    return {search, cells, search_memory_, few ? Math::infinity : Math::max(first_distance * width, tiny)};
  }
};
