#pragma once

#include "portable.cuh"

// Agents `first`, …, `first + size - 1` of a copy: a group, or all agents.
struct Range {
  int first;
  int size;

  METHOD constexpr int end() const { return first + size; }
  METHOD constexpr bool has(int agent) const { return agent >= first && agent < first + size; }
};
