// The random numbers of a training run: Philox, keyed by the run's seed and counted by row, place in the row and draw.
// So a draw depends neither on the device nor on how rows are mapped to threads.
#pragma once

#include "engine/random.cuh"

// One draw of many rows of random numbers; see RandomStream in gpu_marl_envs/training/randomness.py.
struct Draw {
  std::int64_t seed;             // of the run
  const std::int64_t* position;  // [] number of draws before those of this iteration; on the device, for CUDA graphs
  std::int64_t offset;           // number of draws before this one in this iteration

  // Four words of random bits.
  METHOD PhiloxBlock block(std::size_t row, int place) const {
    const auto number = static_cast<std::uint64_t>(*position + offset);
    return philox({{static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(place),
                    static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(number >> 32)}},
                  static_cast<std::uint64_t>(seed));
  }
};

// Word k of a block; an index that is not constant would move the block to memory.
METHOD std::uint32_t word_of(const PhiloxBlock& block, int k) {
  const std::uint32_t low = k & 1 ? block.word[1] : block.word[0];
  const std::uint32_t high = k & 1 ? block.word[3] : block.word[2];
  return k & 2 ? high : low;
}

// Fills a tensor with numbers that are uniform on [0, 1).
struct Uniform {
  Draw draw;
  float* number;  // [N]
  std::int64_t count;

  METHOD std::size_t size() const { return static_cast<std::size_t>(count); }

  METHOD void run(std::size_t i) const { number[i] = uniform_of(draw.block(i, 0).word[0]); }
};
