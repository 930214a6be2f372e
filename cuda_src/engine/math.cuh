// Elementary functions that give the same bits on every device: built from IEEE additions, multiplications, divisions
// and square roots only, in a fixed order, without contraction.
//
// Approximations after S. L. Moshier's Cephes library (single precision); errors are at most 2 units in the last place
// on the ranges that the comments name (absolute error below 1e-7 near the zeros of sin and cos).
#pragma once

#include "portable.cuh"

// A base of every environment, so that `sin(x)` in its dynamics is this one and never the platform's.
struct Math {
  static constexpr float pi = 3.14159265358979323846f;
  static constexpr float infinity = __builtin_huge_valf();

  template <class T>
  METHOD static T min(T a, T b) {
    return b < a ? b : a;
  }

  template <class T>
  METHOD static T max(T a, T b) {
    return a < b ? b : a;
  }

  // x limited to [low, high]; NaN becomes low.
  template <class T>
  METHOD static T clip(T x, T low, T high) {
    return x > low ? (x < high ? x : high) : low;
  }

  METHOD static int clip(int x, int low, int high) { return portable::clip(x, low, high); }

  template <class T>
  METHOD static T square(T x) {
    return x * x;
  }

  template <class T>
  METHOD static T abs(T x) {
    return x < T(0) ? -x : x;
  }

  METHOD static float sqrt(float x) { return portable::square_root(x); }
  METHOD static float floor(float x) { return portable::round_down(x); }
  METHOD static float round(float x) { return portable::round_nearest(x); }

  // x as an integer, rounded toward zero; limited to ±2^30, so that no device overflows in its own way.
  METHOD static int to_int(float x) { return static_cast<int>(clip(x, -1073741824.0f, 1073741824.0f)); }

  // x modulo period, in [0, period).
  METHOD static float wrap(float x, float period) {
    const float rest = x - period * floor(x / period);
    return rest >= period || rest < 0.0f ? 0.0f : rest;
  }

  // |x| up to 8192; beyond it the reduction to a quadrant loses digits, equally on all devices.
  METHOD static float sin(float x) {
    float rest;
    const int quadrant = reduce_to_quadrant(x, rest);
    const float value = quadrant & 1 ? cosine_of_rest(rest) : sine_of_rest(rest);
    return quadrant & 2 ? -value : value;
  }

  METHOD static float cos(float x) {
    float rest;
    const int quadrant = reduce_to_quadrant(x, rest);
    const float value = quadrant & 1 ? sine_of_rest(rest) : cosine_of_rest(rest);
    return (quadrant + 1) & 2 ? -value : value;
  }

  METHOD static float exp(float x) {
    if (x > 88.72283f) return infinity;
    if (x < -103.97208f) return 0.0f;
    const float n = floor(1.44269504088896341f * x + 0.5f);
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const float value = p * (r * r) + r + 1.0f;
    const int half = static_cast<int>(n) / 2;  // two factors reach subnormal results and 2^128
    return value * power_of_two(half) * power_of_two(static_cast<int>(n) - half);
  }

  METHOD static float log(float x) {
    if (!(x > 0.0f)) return x == 0.0f ? -infinity : (x - x) * infinity;
    if (x == infinity) return infinity;
    float exponent = 0.0f;
    if (x < 1.17549435e-38f) {  // subnormal
      x *= 16777216.0f;
      exponent = -24.0f;
    }
    const auto bits = portable::bit_cast<std::uint32_t>(x);
    exponent += static_cast<float>(static_cast<int>(bits >> 23) - 126);
    float m = portable::bit_cast<float>((bits & 0x007fffffu) | 0x3f000000u);  // in [1/2, 1)
    if (m < 0.707106781186547524f) {
      exponent -= 1.0f;
      m += m;
    }
    m -= 1.0f;
    const float z = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * z + exponent * -2.12194440e-4f - 0.5f * z;
    return (m + p) + exponent * 0.693359375f;
  }

  METHOD static float tanh(float x) {
    const float z = abs(x);
    if (z > 9.02f) return x < 0.0f ? -1.0f : 1.0f;
    if (z >= 0.625f) {
      const float value = 1.0f - 2.0f / (exp(z + z) + 1.0f);
      return x < 0.0f ? -value : value;
    }
    const float s = x * x;
    float p = -5.70498872745e-3f;
    p = p * s + 2.06390887954e-2f;
    p = p * s - 5.37397155531e-2f;
    p = p * s + 1.33314422036e-1f;
    p = p * s - 3.33332819422e-1f;
    return p * s * x + x;
  }

  // The angle of the vector (x, y) in (-pi, pi]; 0 for the zero vector.
  METHOD static float atan2(float y, float x) {
    const float ax = abs(x), ay = abs(y);
    const float large = max(ax, ay), small = min(ax, ay);
    if (!(large > 0.0f)) return 0.0f;
    float angle = arctangent_of_ratio(small / large);
    if (ay > ax) angle = 0.5f * pi - angle;
    if (x < 0.0f) angle = pi - angle;
    return y < 0.0f ? -angle : angle;
  }

 private:
  // Writes x minus the nearest multiple of pi/2 and returns that multiple modulo 4.
  METHOD static int reduce_to_quadrant(float x, float& rest) {
    const float n = round(x * 0.636619772367581343f);
    rest = ((x - n * 1.5703125f) - n * 4.837512969970703125e-4f) - n * 7.54978995489188216e-8f;  // pi/2 in three parts
    return to_int(n) & 3;
  }

  METHOD static float sine_of_rest(float x) {  // |x| <= pi/4
    const float z = x * x;
    return ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * x + x;
  }

  METHOD static float cosine_of_rest(float x) {  // |x| <= pi/4
    const float z = x * x;
    const float p = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z;
    return p - 0.5f * z + 1.0f;
  }

  METHOD static float arctangent_of_ratio(float x) {  // 0 <= x <= 1
    float offset = 0.0f;
    if (x > 0.4142135623730950f) {  // tan(pi/8)
      offset = 0.25f * pi;
      x = (x - 1.0f) / (x + 1.0f);
    }
    const float z = x * x;
    float p = 8.05374449538e-2f;
    p = p * z - 1.38776856032e-1f;
    p = p * z + 1.99777106478e-1f;
    p = p * z - 3.33329491539e-1f;
    return offset + (p * z * x + x);
  }

  METHOD static float power_of_two(int exponent) {  // -126 <= exponent <= 127
    return portable::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
  }
};
