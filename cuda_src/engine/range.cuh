#pragma once

#include "portable.cuh"

// Agents `first`, …, `first + size - 1` of a copy: a group, or all agents.
struct Range {
  int first;
  int size;

  METHOD constexpr int end() const { return first + size; }
  METHOD constexpr bool has(int agent) const { return agent >= first && agent < first + size; }
};

// The same, known when the code is compiled: what the groups are.
template <int first_agent, int number>
struct FixedRange {
  static constexpr int first = first_agent, size = number;

  METHOD constexpr operator Range() const { return {first, size}; }
  METHOD static constexpr int end() { return first + size; }
  METHOD static constexpr bool has(int agent) { return agent >= first && agent < first + size; }
};

// The most agents that a range of this type may have.
template <class Agents>
struct MostOf {
  static constexpr int value = 1 << 30;
};

template <int first_agent, int number>
struct MostOf<FixedRange<first_agent, number>> {
  static constexpr int value = number;
};
