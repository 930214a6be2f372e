// The functions that training calls. The file that includes this one defines for each kind of them how a device runs
// it: over independent indexes, over rows that are worked on in fast memory, or over copies of which few have ended.
#pragma once

#include "advantages.cuh"
#include "categorical.cuh"
#include "gaussian.cuh"
#include "outcomes.cuh"
#include "permutation.cuh"

OVER_INDEXES(Advantages)
OVER_INDEXES(Permutation)
OVER_INDEXES(Uniform)
OVER_ROWS(SampleCategorical)
OVER_ROWS(SampleGaussian)
OVER_COPIES(Outcomes)
