// A loop of which few rounds have something to do.
#pragma once

#include "portable.cuh"

// Calls visit(k) for each k = 0, …, count - 1 that chosen(k) holds for, in order. A lane of a GPU first finds out which
// they are, and goes on to the next one as soon as others have one left to visit.
template <class Chosen, class Visit>
METHOD void visit_chosen(int count, Chosen chosen, Visit visit) {
#ifdef __CUDACC__
  for (int first = 0; first < count; first += 32) {
    unsigned left = 0;
#pragma unroll
    for (int k = 0; k < 32; ++k)
      if (first + k < count && chosen(first + k)) left |= 1u << k;
#pragma unroll 1
    for (; left != 0; left &= left - 1) visit(first + __ffs(left) - 1);
  }
#else
  for (int k = 0; k < count; ++k)
    if (chosen(k)) visit(k);
#endif
}
