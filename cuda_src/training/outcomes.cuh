// What a rollout keeps of episodes that end in a step.
#pragma once

#include "engine/portable.cuh"

// Copies whose episode goes on cost no memory traffic but two flags.
struct Outcomes {
  const bool* done;              // [E] whether the copy's episode ended in this step
  const bool* truncated;         // [T, E] whether it was cut off, in this and earlier steps
  const float* statistic[16];    // [E] numbers about the episode that ended
  std::int64_t stride[16];       // from one of these numbers to the next
  float* sum[16];                // [E] to which they are added
  const unsigned char* seen[8];  // [E, bytes] what followed this step
  unsigned char* kept[8];        // [S, E, bytes] where it goes if the copy was truncated: to a slot of each truncation
  std::int64_t bytes[8];
  std::int64_t copies;
  std::int32_t step;
  std::int32_t statistics;
  std::int32_t rows;
  std::int32_t parts;  // warps that share the work on 32 copies

  METHOD bool is_truncated(std::size_t copy) const { return truncated[step * copies + copy]; }

  METHOD void add_statistics(std::size_t copy) const {
    if (!done[copy]) return;
    for (int k = 0; k < statistics; ++k) sum[k][copy] += statistic[k][copy * stride[k]];
  }

  // Number of truncations of a copy in steps first, first + every, … before this one.
  METHOD int truncations(std::size_t copy, int first, int every) const {
    int number = 0;
    for (int t = first; t < step; t += every) number += truncated[t * copies + copy] ? 1 : 0;
    return number;
  }

  METHOD const unsigned char* source(int k, std::size_t copy) const { return seen[k] + copy * bytes[k]; }
  METHOD unsigned char* destination(int k, std::size_t copy, int slot) const {
    return kept[k] + (slot * copies + copy) * bytes[k];
  }
};
