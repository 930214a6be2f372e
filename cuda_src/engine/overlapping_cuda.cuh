// Launches that overlap with the ones before and behind them (gpu_marl_envs/backends/overlapping.py).
#pragma once

#include "portable.cuh"

// Lets the next launch start, and waits until what the last one wrote is there: what it takes to start is hidden behind
// the end of the one before.
METHOD void overlap_launches() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
#endif
}
