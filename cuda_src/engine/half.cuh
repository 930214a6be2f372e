// Observations of 16 bits: floats rounded to the nearest, of two equally near ones to the even, on every device alike.
#pragma once

#include "portable.cuh"

// 8 bits of exponent, 7 of fraction: the upper half of a float.
METHOD std::uint16_t to_bfloat16(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  std::uint16_t result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result) : "f"(x));
  return result;
#else
  const auto bits = portable::bit_cast<std::uint32_t>(x);
  const std::uint32_t odd = bits >> 16 & 1;
  return static_cast<std::uint16_t>(x == x ? (bits + 0x7fffu + odd) >> 16 : 0x7fffu);
#endif
}

// IEEE half precision: 5 bits of exponent, 10 of fraction; infinite from 65520 on.
METHOD std::uint16_t to_float16(float x) {
#ifdef __CUDACC__
  std::uint16_t result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(x));
  return result;
#else
  const auto bits = portable::bit_cast<std::int32_t>(x);
  const std::int32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  const std::int32_t odd = size >> 13 & 1;
  const std::int32_t normal = (size - (112 << 23) + 0xfff + odd) >> 13;  // the exponent's bias is 112 less
  // Below the normal range the unit is 2^-24, which is that of floats from 0.5 to 1: the addition rounds.
  const float shifted = portable::bit_cast<float>(size) + 0.5f;
  const std::int32_t subnormal = portable::bit_cast<std::int32_t>(shifted) - 0x3f000000;
  const std::int32_t finite = size < 0x38800000 ? subnormal : normal;
  const std::int32_t rounded = size < 0x477ff000 ? finite : 0x7c00;
  return static_cast<std::uint16_t>(size <= 0x7f800000 ? sign | rounded : 0x7fff);
#endif
}

// An entry of an observation, which takes any number that is assigned to it.
struct Bfloat16 {
  std::uint16_t bits;
  METHOD Bfloat16& operator=(float x) {
    bits = to_bfloat16(x);
    return *this;
  }
};

struct Float16 {
  std::uint16_t bits;
  METHOD Float16& operator=(float x) {
    bits = to_float16(x);
    return *this;
  }
};
