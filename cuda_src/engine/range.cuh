#pragma once

#include "portable.cuh"

// Agents `first`, …, `first + size - 1` of a copy: a group, or all agents.
struct Range {
  int first;
  int size;

  METHOD constexpr int end() const { return first + size; }
  METHOD constexpr bool has(int agent) const { return agent >= first && agent < first + size; }
};

// A range that is known when the dynamics are compiled: loops over it have constant bounds from the start.
template <int first_agent, int num_agents>
struct FixedRange {
  static constexpr int first = first_agent;
  static constexpr int size = num_agents;

  METHOD static constexpr int end() { return first + size; }
  METHOD static constexpr bool has(int agent) { return agent >= first && agent < end(); }
  METHOD constexpr operator Range() const { return {first, size}; }
};
