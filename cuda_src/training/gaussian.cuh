// Draws from normal distributions with independent components, with the logarithm of their joint density.
#pragma once

#include "draw.cuh"

// A row holds the means of one draw. It is worked on in fast memory.
struct SampleGaussian {
  Draw draw;
  const float* input;    // [N, components] means
  const float* log_std;  // [components] logarithms of the standard deviations
  float* output;         // [N, components] what was drawn
  float* log_density;    // [N]
  std::int64_t rows;
  std::int32_t components;

  METHOD std::size_t size() const { return static_cast<std::size_t>(rows); }
  METHOD int width() const { return components; }
  METHOD int results() const { return components; }
  METHOD bool loads_unchanged() const { return true; }
  METHOD float entry(std::size_t k) const { return input[k]; }

  // Replaces the means of a row by what is drawn.
  METHOD void run(std::size_t row, float* entries) const {
    constexpr float half_log_two_pi = 0.918938533204672742f;
    float sum = 0.0f;
    PhiloxBlock block{};
    for (int c = 0; c < components; ++c) {
      if (c % 2 == 0) block = draw.block(row, c / 2);
      const std::uint32_t first = c % 2 == 0 ? block.word[0] : block.word[2];
      const std::uint32_t second = c % 2 == 0 ? block.word[1] : block.word[3];
      const float noise = normal_of(uniform_of(first), uniform_of(second));
      entries[c] += Math::exp(log_std[c]) * noise;
      sum += -0.5f * (noise * noise) - log_std[c] - half_log_two_pi;
    }
    log_density[row] = sum;
  }
};
