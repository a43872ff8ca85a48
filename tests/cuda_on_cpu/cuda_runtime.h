/* CUDA's runtime for the processor: found in place of NVIDIA's when tests compile kernels/cuda for it. See README.md. */
#ifndef CUDA_ON_CPU_CUDA_RUNTIME_H
#define CUDA_ON_CPU_CUDA_RUNTIME_H

#include "vector_types.h"

#include "intrinsics.h"
#include "runtime_api.h"

#include "fibers.h"
#include "warp.h"

#endif
