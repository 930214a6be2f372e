#pragma once

#include "portable.cuh"

// Unsigned integers in the order of the given numbers.
METHOD unsigned ordered(int key) { return static_cast<unsigned>(key) ^ 0x80000000u; }
METHOD unsigned ordered(float key) {
  const unsigned bits = __float_as_uint(key + 0.0f);  // -0 becomes +0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The number that ordered(number) comes from.
METHOD float number_in_order(unsigned key) { return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key); }
