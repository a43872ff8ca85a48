/* Marks a function that CUDA kernels call too; nothing for any other compiler. */
#ifndef BASE_DEVICE_CODE_H
#define BASE_DEVICE_CODE_H

#ifdef __CUDACC__
#define DEVICE_CODE __host__ __device__
#else
#define DEVICE_CODE
#endif

#endif
