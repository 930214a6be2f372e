// Positions of those among whom the lanes of a warp look first.
#pragma once

#include "cells_cuda.cuh"
#include "range.cuh"

// Where agents are sorted in shared memory, they are at hand as they are.
class Everybody {
 public:
  METHOD Everybody(const Cells<true>& cells, unsigned char*, int) : cells_(cells) {}

  template <int rows>
  METHOD bool bring(const Range (&)[rows], bool) {
    return true;
  }
  METHOD int slot(int, int place) const { return place; }
  METHOD float2 position(int slot) const { return cells_.position(slot); }

 private:
  const Cells<true>& cells_;
};

// Where they are sorted in device memory, a warp brings a stretch of each of some rows of cells to its shared memory.
template <int rows, int of_row>
class Vicinity {
 public:
  static constexpr int room = rows * of_row + 128;
  static constexpr int bytes = (room + of_row) * sizeof(float2);  // whoever looks may go on behind the last that counts
  static_assert(Geometry::most_cells == 0 || bytes <= Geometry::vicinity_bytes, "as in search_memory.py");

  METHOD Vicinity(const Cells<true>& cells, unsigned char* memory, int lane)
      : cells_(cells), lane_(lane), position_(reinterpret_cast<float2*>(memory)) {}

  // Brings what the lanes that ask want of each row. Returns false if there is no room for that.
  METHOD bool bring(const Range (&wanted)[rows], bool asks) {
    int end[rows], size = 0;
#pragma unroll
    for (int k = 0; k < rows; ++k) {
      const bool counts = asks && wanted[k].size > 0;
      const unsigned first = __reduce_min_sync(~0u, counts ? static_cast<unsigned>(wanted[k].first) : ~0u);
      const unsigned behind = __reduce_max_sync(~0u, counts ? static_cast<unsigned>(wanted[k].end()) : 0u);
      shift_[k] = size - static_cast<int>(first);
      size += behind > 0 ? static_cast<int>(behind - first) : 0;
      end[k] = size;
    }
    if (size > room) return false;
    __syncwarp();                                              // others may still be looking at what was here
    constexpr int at_once = (rows * (32 + of_row) + 31) / 32;  // for one trip most of the time
#pragma unroll 1
    for (int start = lane_; start < size; start += 32 * at_once) {
      float2 position[at_once];
#pragma unroll
      for (int k = 0; k < at_once; ++k) {
        const int slot = ::min(start + 32 * k, size - 1);
        int shift = shift_[0];
#pragma unroll
        for (int row = 1; row < rows; ++row) shift = slot < end[row - 1] ? shift : shift_[row];
        position[k] = cells_.position(slot - shift);
      }
#pragma unroll
      for (int k = 0; k < at_once; ++k)
        if (start + 32 * k < size) position_[start + 32 * k] = position[k];
    }
    __syncwarp();
    return true;
  }

  METHOD int slot(int row, int place) const {
    int shift = shift_[0];
#pragma unroll
    for (int k = 1; k < rows; ++k) shift = row < k ? shift : shift_[k];
    return place + shift;
  }

  METHOD float2 position(int slot) const { return position_[slot]; }

 private:
  const Cells<true>& cells_;
  int lane_;
  int shift_[rows];   // from places to slots
  float2* position_;  // [room]
};
