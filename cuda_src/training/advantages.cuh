// Generalised advantage estimation (J. Schulman et al., 2016, arXiv:1506.02438): equations 11 to 16, backwards in time.
#pragma once

#include "engine/portable.cuh"

// T steps of E copies with n agents each. After termination nothing is earned, so nothing is bootstrapped; after
// truncation the value of the final observation stands for what would have followed. Either way the sum over later
// steps stops.
struct Advantages {
  const float* reward;       // [T, E, n]
  const float* value;        // [T + 1, E, n] of the observations that the policy acted on, and of the last
  const float* final_value;  // [S, E, n] of the observations at a copy's first, second, … truncation
  const bool* terminated;    // [T, E, n]
  const bool* truncated;     // [T, E]
  const bool* done;          // [T, E]
  float* advantage;          // [T, E, n]
  std::int64_t steps;
  std::int64_t copies;
  std::int64_t agents;
  float discount;
  float decay;  // the discount times λ

  METHOD std::size_t size() const { return static_cast<std::size_t>(copies * agents); }

  METHOD void run(std::size_t i) const {
    const std::int64_t copy = static_cast<std::int64_t>(i) / agents, per_step = copies * agents;
    std::int64_t slot = -1;  // of the last truncation up to a step
#pragma unroll 4
    for (std::int64_t t = 0; t < steps; ++t) slot += truncated[t * copies + copy] ? 1 : 0;
    float later = 0.0f;
#pragma unroll 4  // so that the loads of several steps are on their way at once
    for (std::int64_t t = steps - 1; t >= 0; --t) {
      const std::int64_t at = t * per_step + static_cast<std::int64_t>(i), of_copy = t * copies + copy;
      const bool leaves = terminated[at], ends = done[of_copy];
      float next = value[at + per_step];
      if (truncated[of_copy]) next = final_value[slot-- * per_step + static_cast<std::int64_t>(i)];
      const float error = reward[at] + discount * (leaves ? 0.0f : next) - value[at];
      later = error + (leaves || ends ? 0.0f : decay * later);
      advantage[at] = later;
    }
  }
};
