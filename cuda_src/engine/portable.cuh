// What differs between a CUDA build and a C++ build of the same source.
#pragma once

#include <cstdint>
#include <cstring>

// METHOD marks every function of the engine and of the environments: inlined, so that constants fold through all
// layers.
// UNROLLED stands before a loop over a constant number of agents or entries, which a GPU then keeps in registers.
#ifdef __CUDACC__
#define METHOD __device__ __forceinline__
#define UNROLLED _Pragma("unroll")
#else
#define METHOD inline __attribute__((always_inline))
#define UNROLLED
#endif

namespace portable {

template <class To, class From>
METHOD To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

METHOD std::uint32_t multiply_high(std::uint32_t a, std::uint32_t b) {
#ifdef __CUDACC__
  return __umulhi(a, b);
#else
  return static_cast<std::uint32_t>((static_cast<std::uint64_t>(a) * b) >> 32);
#endif
}

METHOD float square_root(float x) {  // correctly rounded on both
#ifdef __CUDACC__
  return __fsqrt_rn(x);
#else
  return __builtin_sqrtf(x);
#endif
}

METHOD float multiply_add(float a, float b, float c) {  // a * b + c, rounded once on both
#ifdef __CUDACC__
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

// The smaller and the larger of two numbers; the limit, if x is not a number.
METHOD float at_most(float x, float limit) {
#ifdef __CUDACC__
  return fminf(x, limit);
#else
  return x < limit ? x : limit;
#endif
}

METHOD float at_least(float x, float limit) {
#ifdef __CUDACC__
  return fmaxf(x, limit);
#else
  return x > limit ? x : limit;
#endif
}

METHOD float round_down(float x) {
#ifdef __CUDACC__
  return floorf(x);
#else
  return __builtin_floorf(x);
#endif
}

METHOD float round_nearest(float x) {
#ifdef __CUDACC__
  return rintf(x);
#else
  return __builtin_rintf(x);
#endif
}

// x limited to [low, high], low <= high.
METHOD int clip(int x, int low, int high) {
  int raised = x > low ? x : low;
#ifdef __CUDACC__
  asm(""
      : "+r"(raised));  // ptxas 13.0 takes max(min(x, high), 0) == high for true where x is below high: keep this order
#endif
  return raised < high ? raised : high;
}

}  // namespace portable
