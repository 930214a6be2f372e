#pragma once

#include "portable.cuh"

// The same address of shared memory, as a compiler cannot work it out. Where it can, it does so again and again, and
// each time waits for a special register to learn which block of its cluster it runs in.
METHOD unsigned char* worked_out_once(unsigned char* shared) {
  auto offset = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm("" : "+r"(offset));
  return static_cast<unsigned char*>(__cvta_shared_to_generic(offset));
}
