// The kernels that a CUDA build exports. One launch does a whole step. The file that includes this one defines
// DeviceCopy, the part of one lane, and `launch`, which loads it, runs it and stores it.
#pragma once

extern "C" __global__ void CLUSTER __launch_bounds__(Geometry::threads, Geometry::resident_blocks)
    gpu_marl_step(const __grid_constant__ Arguments arguments) {
  launch(arguments, true, [](DeviceCopy& copy) { copy.step(); });
}

extern "C" __global__ void CLUSTER __launch_bounds__(Geometry::threads, Geometry::resident_blocks)
    gpu_marl_reset(const __grid_constant__ Arguments arguments) {
  launch(arguments, false, [](DeviceCopy& copy) { copy.reset(); });
}

extern "C" __global__ void CLUSTER __launch_bounds__(Geometry::threads, Geometry::resident_blocks)
    gpu_marl_observe(const __grid_constant__ Arguments arguments) {
  launch(arguments, false, [](DeviceCopy& copy) { copy.observe(); });
}
