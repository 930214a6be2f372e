// Exports the engine's functions, for tests that compare them with others.
#include "engine/half.cuh"
#include "engine/random.cuh"

extern "C" {

#define ELEMENTWISE(name, expression)                                   \
  void name(const float* x, const float* y, float* result, long size) { \
    for (long i = 0; i < size; ++i) {                                   \
      const float a = x[i], b = y[i];                                   \
      (void)b;                                                          \
      result[i] = expression;                                           \
    }                                                                   \
  }
ELEMENTWISE(map_sin, Math::sin(a))
ELEMENTWISE(map_cos, Math::cos(a))
ELEMENTWISE(map_exp, Math::exp(a))
ELEMENTWISE(map_log, Math::log(a))
ELEMENTWISE(map_tanh, Math::tanh(a))
ELEMENTWISE(map_atan2, Math::atan2(a, b))
ELEMENTWISE(map_wrap, Math::wrap(a, b))
ELEMENTWISE(map_clip, Math::clip(a, -1.0f, 1.0f))
ELEMENTWISE(map_to_int, static_cast<float>(Math::to_int(a)))

void round_to_bfloat16(const float* x, unsigned short* result, long size) {
  for (long i = 0; i < size; ++i) result[i] = to_bfloat16(x[i]);
}

void round_to_float16(const float* x, unsigned short* result, long size) {
  for (long i = 0; i < size; ++i) result[i] = to_float16(x[i]);
}

void philox_block(const unsigned* counter, unsigned long long key, unsigned* words) {
  const PhiloxBlock block = philox({{counter[0], counter[1], counter[2], counter[3]}}, key);
  for (int k = 0; k < 4; ++k) words[k] = block.word[k];
}

void draw(unsigned long long key, int agent, float* uniforms, float* normals, int* integers, int count, int size) {
  Random sequence(key, 3, 5, agent);
  for (int i = 0; i < size; ++i) uniforms[i] = sequence.uniform();
  for (int i = 0; i < size; ++i) normals[i] = sequence.normal();
  for (int i = 0; i < size; ++i) integers[i] = sequence.integer(count);
}
}
