// Where an agent writes its observation.
#pragma once

#include "portable.cuh"

// One agent's row of entries. `lanes` lanes may fill a row together, in which case each() spreads the entries over
// them.
template <int lanes>
class ObservationRow {
 public:
  METHOD ObservationRow(Observation* row, int lane) : row_(row), lane_(lane) {}

  // Entry k; write each entry once.
  METHOD Observation& operator[](int k) const { return row_[k]; }

  // Writes values to entries k, k + stride, k + 2 stride, …, all of them known before the first is written: on a GPU
  // they are then waited for together, which a write between two reads would prevent.
  template <class... Values>
  METHOD void put(int k, int stride, Values... values) const {
    int at = k - stride;
    ((row_[at += stride] = values), ...);
  }

  // Calls visit(k) for k = 0, …, count - 1, in no particular order: the way to fill a long row.
  template <class Visit>
  METHOD void each(int count, Visit visit) const {
    if constexpr (lanes == 1) {
#ifdef __CUDACC__
#pragma unroll 32  // what visit indexes by k may then stay in registers
#else
#pragma GCC ivdep  // rows do not overlap the state: the loop may run in vector registers
#endif
      for (int k = 0; k < count; ++k) visit(k);
    } else {
      for (int first = 0; first < count; first += lanes)  // so often by all lanes alike
        if (first + lanes <= count || first + lane_ < count) visit(first + lane_);
    }
  }

 private:
  Observation* row_;
  int lane_;
};
