// Draws from categorical distributions, with the logarithm of the probability of what was drawn.
#pragma once

#include "draw.cuh"

// e^x for -86 <= x <= 0, within 1.5e-7 of it: 2^n 2^f with x log2(e) = n + f and |f| <= 1/2.
METHOD float softmax_weight(float x) {
  constexpr float log2_of_e = 1.44269504088896341f;
  constexpr float shift = 12582912.0f;  // 1.5 * 2^23: a sum with it has its integer part in the lowest bits
  const float shifted = portable::multiply_add(x, log2_of_e, shift);
  const float f = portable::multiply_add(x, log2_of_e, shift - shifted);
  float p = 1.3264727e-3f;  // the polynomial with p(0) = 1 whose largest relative error is least, 9e-8
  p = portable::multiply_add(p, f, 9.671513e-3f);
  p = portable::multiply_add(p, f, 5.5507336e-2f);
  p = portable::multiply_add(p, f, 2.4022242e-1f);
  p = portable::multiply_add(p, f, 6.93147e-1f);
  p = portable::multiply_add(p, f, 1.0f);
  return portable::bit_cast<float>(portable::bit_cast<std::uint32_t>(p) +
                                   (portable::bit_cast<std::uint32_t>(shifted) << 23));
}

// A row holds the logits of several independent components. It is worked on in fast memory.
struct SampleCategorical {
  Draw draw;
  const float* input;           // [N, components, choices] logits
  const bool* mask;             // [N, components, choices] the allowed choices; null allows all
  const std::int32_t* choices;  // [components] that exist
  std::int32_t* output;         // [N, components] what was drawn
  float* log_probability;       // [N] of all components together
  std::int64_t rows;
  std::int32_t components;
  std::int32_t most_choices;

  METHOD std::size_t size() const { return static_cast<std::size_t>(rows); }
  METHOD int width() const { return components * most_choices; }
  METHOD int results() const { return components; }
  METHOD bool loads_unchanged() const { return mask == nullptr; }

  // An impossible logit is less than any that the network may have given.
  METHOD float entry(std::size_t k) const {
    return mask == nullptr || mask[k] ? portable::at_least(input[k], -largest) : -Math::infinity;
  }

  // Replaces the first entries of a row by the bits of what is drawn.
  METHOD void run(std::size_t row, float* entries) const {
    float sum = 0.0f;
    PhiloxBlock block{};
    for (int c = 0; c < components; ++c) {
      if (c % 4 == 0) block = draw.block(row, c / 4);
      float probability;
      const int chosen = choose(entries + c * most_choices, choices[c], word_of(block, c % 4), probability);
      sum += Math::log(probability);
      entries[c] = portable::bit_cast<float>(chosen);
    }
    log_probability[row] = sum;
  }

 private:
  static constexpr float largest = 3.402823466e38f;
  static constexpr float least_weight_log = -86.0f;  // e^-86 changes no sum that a drawn choice is in

  // Inverts the cumulative distribution. The random number lies in the middle of one of 2^23 equal parts of (0, 1), so
  // its product with the total is above 0 and below the total: choices that add nothing to the sum are never drawn.
  METHOD static int choose(float* row, int count, std::uint32_t bits, float& probability) {
    float greatest = -largest;
#pragma unroll 4
    for (int k = 0; k < count; ++k) greatest = portable::at_least(row[k], greatest);
    greatest = portable::at_most(greatest, largest);

#pragma unroll 4
    for (int k = 0; k < count; ++k)
      row[k] = softmax_weight(portable::at_most(portable::at_least(row[k] - greatest, least_weight_log), 0.0f));

    float total = 0.0f;
#pragma unroll 4
    for (int k = 0; k < count; ++k) total += row[k];

    const float uniform = (static_cast<float>(bits >> 9) + 0.5f) * 1.1920928955078125e-7f;
    const float target = uniform * total;
    float below = 0.0f;
    int chosen = 0;
#pragma unroll 4
    for (int k = 0; k < count; ++k) {
      below += row[k];
      chosen += below <= target ? 1 : 0;
    }
    chosen = portable::clip(chosen, 0, count - 1);
    probability = row[chosen] / total;
    return chosen;
  }
};
