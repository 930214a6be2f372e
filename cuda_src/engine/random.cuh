// Counter-based random numbers: Philox4x32-10 (J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011). A draw is a function of seed, copy, episode, step, agent and its place in the agent's sequence, so it does
// not depend on the device, on the number of copies or on how agents are mapped to threads.
#pragma once

#include "math.cuh"
#include "portable.cuh"

struct PhiloxBlock {
  std::uint32_t word[4];
};

METHOD PhiloxBlock philox(PhiloxBlock counter, std::uint64_t key) {
  std::uint32_t key0 = static_cast<std::uint32_t>(key), key1 = static_cast<std::uint32_t>(key >> 32);
  auto& c = counter.word;
  for (int round = 0; round < 10; ++round) {
    const std::uint32_t high0 = portable::multiply_high(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
    const std::uint32_t high1 = portable::multiply_high(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
    c[0] = high1 ^ c[1] ^ key0;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ key1;
    c[3] = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// The random key of copy number `copy` under a seed.
METHOD std::uint64_t copy_key(std::uint64_t seed, std::uint64_t copy) {
  const PhiloxBlock counter{{static_cast<std::uint32_t>(copy), static_cast<std::uint32_t>(copy >> 32), 0x636F7079u, 0}};
  const PhiloxBlock block = philox(counter, seed);
  return block.word[0] | static_cast<std::uint64_t>(block.word[1]) << 32;
}

// 32 random bits as a number that is uniform on [0, 1), a multiple of 2^-24.
METHOD float uniform_of(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 5.9604644775390625e-8f; }

// Two uniform numbers as one that is normal with mean 0 and standard deviation 1 (Box and Muller).
METHOD float normal_of(float first, float second) {
  const float radius = Math::sqrt(-2.0f * Math::log(1.0f - first));
  return radius * Math::cos(2.0f * Math::pi * second);
}

// A sequence of random numbers; each call draws the next.
class Random {
 public:
  METHOD Random(std::uint64_t key, int episode, int step, int agent) : key_(key), draws_(0) {
    start_[0] = static_cast<std::uint32_t>(episode);
    start_[1] = static_cast<std::uint32_t>(step);
    start_[2] = static_cast<std::uint32_t>(agent);
  }

  // 32 random bits.
  METHOD std::uint32_t bits() {
    if (draws_ % 4 == 0) block_ = philox({{start_[0], start_[1], start_[2], draws_ / 4}}, key_);
    return block_.word[draws_++ % 4];
  }

  // Uniform on [0, 1), a multiple of 2^-24.
  METHOD float uniform() { return uniform_of(bits()); }

  // Uniform on [low, high].
  METHOD float uniform(float low, float high) { return Math::min(low + (high - low) * uniform(), high); }

  // Uniform on 0, 1, …, count - 1; no value is more than count / 2^32 likelier than another.
  METHOD int integer(int count) {
    return static_cast<int>(portable::multiply_high(bits(), static_cast<std::uint32_t>(count)));
  }

  // Normal with mean 0 and standard deviation 1.
  METHOD float normal() {
    const float first = uniform();
    return normal_of(first, uniform());
  }

 private:
  std::uint64_t key_;
  std::uint32_t start_[3];
  std::uint32_t draws_;
  PhiloxBlock block_;
};
