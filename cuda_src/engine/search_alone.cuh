// Each agent looks for its nearest by itself, when it is asked; see search_together.cuh for what the functions mean.
#pragma once

#include "nearest.cuh"

class Searcher : public Team {
 protected:
  template <int K, class Agents>
  static constexpr bool searches_in_cells = false;

  METHOD void use_memory(unsigned char*) {}  // it needs none

  template <bool listed, int K, class Agents, class Eligible, class Asks>
  METHOD auto prepare(const Search<K, Agents, Eligible>& search, Range, Asks) {
    static_assert(K <= Geometry::neighbors, "neighbors() of the declaration must return the largest K of nearest<K>");
    return SearchAlone<K, Agents, Eligible>{search};
  }
};
