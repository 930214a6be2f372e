// Agents in the order of their cells, as the lanes of a copy sort and share them.
#pragma once

#include "cells.cuh"

// A rectangle in the plane.
struct Box {
  float low_x, high_x, low_y, high_y;

  METHOD Box grown(float by) const { return {low_x - by, high_x + by, low_y - by, high_y + by}; }
};

struct Cells : CellGrid {
  float2* position;  // [size]
  int* agent;        // [size] with `bystander` added for those who are no candidates
  int size;
  int* taken;  // agents, in this order, of whom warps have taken care

  static constexpr int bystander = 1 << 30;

  METHOD int agent_at(int at) const { return agent[at] & (bystander - 1); }
};
