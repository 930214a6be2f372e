// A random order of many indexes, each found by itself: no sort, and no memory but the result's.
#pragma once

#include "draw.cuh"

// A Feistel network is a bijection of the numbers of so many bits, whatever its rounds compute; walking along its cycle
// until a number is small enough makes it one of the numbers below `count` (J. Black and P. Rogaway, 2002, "Ciphers
// with arbitrary finite domains").
struct Permutation {
  Draw draw;
  std::int64_t* order;  // [N]
  std::int64_t count;

  METHOD std::size_t size() const { return static_cast<std::size_t>(count); }

  METHOD void run(std::size_t i) const {
    const PhiloxBlock keys = draw.block(0, 0);
    int bits = fewest_bits;
    while (size() > std::size_t{1} << bits) ++bits;
    std::size_t number = i;
    do number = shuffled(number, bits / 2, bits - bits / 2, keys);
    while (number >= size());
    order[i] = static_cast<std::int64_t>(number);
  }

 private:
  static constexpr int rounds = 12;
  static constexpr int fewest_bits = 8;  // on fewer the rounds are too alike to reach all orders equally often

  METHOD static std::size_t shuffled(std::size_t number, int low_bits, int high_bits, const PhiloxBlock& keys) {
    const std::uint32_t low_mask = (1u << low_bits) - 1, high_mask = (1u << high_bits) - 1;
    std::uint32_t low = static_cast<std::uint32_t>(number) & low_mask;
    std::uint32_t high = static_cast<std::uint32_t>(number >> low_bits);
    UNROLLED
    for (std::uint32_t round = 0; round < rounds; round += 2) {
      high ^= mixed(low ^ (keys.word[round % 4] + round * 0x9E3779B9u)) & high_mask;
      low ^= mixed(high ^ (keys.word[(round + 1) % 4] + round * 0xBB67AE85u)) & low_mask;
    }
    return static_cast<std::size_t>(high) << low_bits | low;
  }

  // The finalizer of MurmurHash3 (A. Appleby), in which every bit depends on all.
  METHOD static std::uint32_t mixed(std::uint32_t x) {
    x = (x ^ x >> 16) * 0x85EBCA6Bu;
    x = (x ^ x >> 13) * 0xC2B2AE35u;
    return x ^ x >> 16;
  }
};
