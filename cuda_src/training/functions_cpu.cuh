// The functions of training on a CPU: pieces of the work over a pool of threads.
#pragma once

#include <stdlib.h>

#include "engine/parallel.hpp"
#include "engine/portable.cuh"

template <class Function>
static void over_indexes(const Function& function, int threads) {
  parallel_for(function.size(), 1, threads, [&](std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i) function.run(i);
  });
}

template <class Function>
static void over_rows(const Function& function, int threads) {
  const std::size_t width = static_cast<std::size_t>(function.width());
  const std::size_t results = static_cast<std::size_t>(function.results());
  parallel_for(function.size(), 1, threads, [&](std::size_t first, std::size_t last) {
    auto* entries = static_cast<float*>(malloc(width * sizeof(float)));
    if (entries == nullptr) abort();
    for (std::size_t row = first; row < last; ++row) {
      if (function.loads_unchanged())
        memcpy(entries, function.input + row * width, width * sizeof(float));
      else
        for (std::size_t k = 0; k < width; ++k) entries[k] = function.entry(row * width + k);
      function.run(row, entries);
      memcpy(function.output + row * results, entries, results * sizeof(float));
    }
    free(entries);
  });
}

template <class Function>
static void over_copies(const Function& function, int threads) {
  parallel_for(static_cast<std::size_t>(function.copies), 1, threads, [&](std::size_t first, std::size_t last) {
    for (std::size_t copy = first; copy < last; ++copy) {
      function.add_statistics(copy);
      if (!function.is_truncated(copy)) continue;
      const int slot = function.truncations(copy, 0, 1);
      for (int k = 0; k < function.rows; ++k)
        memcpy(function.destination(k, copy, slot), function.source(k, copy),
               static_cast<std::size_t>(function.bytes[k]));
    }
  });
}

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define FUNCTION(name, over)                                                                     \
  EXPORTED void gpu_marl_##name(const name* function, int threads) { over(*function, threads); } \
  EXPORTED int gpu_marl_##name##_bytes() { return sizeof(name); }
#define OVER_INDEXES(name) FUNCTION(name, over_indexes)
#define OVER_ROWS(name) FUNCTION(name, over_rows)
#define OVER_COPIES(name) FUNCTION(name, over_copies)

#include "functions.cuh"
