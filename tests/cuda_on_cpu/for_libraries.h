/* What the emulation gives to a library that is loaded at run time: a symbol that is seen outside of whatever the emulation is part of. */
#ifndef CUDA_ON_CPU_FOR_LIBRARIES_H
#define CUDA_ON_CPU_FOR_LIBRARIES_H

#include "cuda_runtime.h"

#include <dlfcn.h>
#include <functional>

struct cuda_on_cpu_for_libraries {
    cudaError_t (*current_device)(int *);
    cudaError_t (*bus_id)(char *, int bytes, int device);
    const char *(*error_name)(cudaError_t);
    int (*device_of_memory)(const void *p, size_t bytes); /* -1: not all of it is of one allocation */
    int (*device_of_stream)(cudaStream_t);                /* -1: it is no stream */
    /* OPERATION may access device memory and is carried out in the order of the stream; IMMEDIATELY: before this returns. */
    cudaError_t (*enqueue)(cudaStream_t, std::function<void()> operation, bool immediately);
    /* The same for what runs on the device: counts as a launch of CUDA_ON_CPU_FAILS_AT. */
    cudaError_t (*launch)(cudaStream_t, std::function<void()> operation);
};

extern "C" __attribute__((visibility("default"))) const struct cuda_on_cpu_for_libraries cuda_on_cpu_for_libraries;

/* For such a library: the emulation is part of the plug-in, or of a program; NULL: there is none. */
inline const struct cuda_on_cpu_for_libraries *cuda_on_cpu_find()
{
    const char *name = "cuda_on_cpu_for_libraries";
    void *plugin = dlopen("cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    void *found = plugin ? dlsym(plugin, name) : nullptr;
    if (!found)
        found = dlsym(RTLD_DEFAULT, name);
    return static_cast<const struct cuda_on_cpu_for_libraries *>(found);
}

#endif
