// A state field that is sorted with the agents who look for their nearest.
#pragma once

#include "portable.cuh"

// An agent whose state has been sorted with it. Dynamics may take it for its number; where they index a field by it,
// and not by an int, all its fields are found side by side.
struct SortedAgent {
  static constexpr int pieces = 2;                    // of a record, of four words
  static constexpr int number_at = 2, fields_at = 3;  // words of it; the position comes first
  static constexpr int numbers = (1 << 29) - 1;       // bits of that word; marks are above

  const uint4* records;  // [agents, pieces]
  int place;             // of the agent

  METHOD std::uint32_t word(int k) const {
    const uint4 piece = load(records + pieces * place + k / 4);
    return k % 4 == 0 ? piece.x : k % 4 == 1 ? piece.y : k % 4 == 2 ? piece.z : piece.w;
  }
  METHOD operator int() const { return static_cast<int>(word(number_at)) & numbers; }

 private:
  // All words at once, and once for all that are asked for, since a compiler takes them for a function of the address:
  // that is known only behind the barrier from which on nobody writes to records.
  METHOD static uint4 load(const uint4* address) {
#ifdef __CUDA_ARCH__
    uint4 piece;
    asm("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(piece.x), "=r"(piece.y), "=r"(piece.z), "=r"(piece.w)
        : "l"(address));
    return piece;
#else
    return *address;
#endif
  }
};

template <class T, int nth>
struct Field {
  T* array;  // [num_agents]

  METHOD operator T*() const { return array; }

  template <class Agent>
  METHOD T& operator[](Agent i) const {
    return array[i];
  }
  METHOD T operator[](SortedAgent agent) const {
    return portable::bit_cast<T>(agent.word(SortedAgent::fields_at + nth));
  }
};
