/* The part of NVTX that marks ranges: "push NAME" and "pop", a line each, behind what the file $CUDA_ON_CPU_NVTX has. */
#ifndef CUDA_ON_CPU_NVTX_H
#define CUDA_ON_CPU_NVTX_H

#include <cstdio>
#include <cstdlib>

namespace cuda_on_cpu {
inline FILE *nvtx_open()
{
    const char *path = getenv("CUDA_ON_CPU_NVTX");
    FILE *file = path != nullptr ? fopen(path, "a") : nullptr;
    if (file != nullptr)
        setvbuf(file, nullptr, _IOLBF, 0); /* a rank may leave without closing it */
    return file;
}

inline FILE *nvtx_file()
{
    static FILE *file = nvtx_open();
    return file;
}

inline int &nvtx_depth()
{
    static thread_local int depth;
    return depth;
}
}

/* Both return the depth, counted from 0, of the range, or a negative number. */
inline int nvtxRangePushA(const char *name)
{
    if (FILE *file = cuda_on_cpu::nvtx_file())
        fprintf(file, "push %s\n", name);
    return cuda_on_cpu::nvtx_depth()++;
}

inline int nvtxRangePop()
{
    if (FILE *file = cuda_on_cpu::nvtx_file())
        fputs("pop\n", file);
    int &depth = cuda_on_cpu::nvtx_depth();
    return depth > 0 ? --depth : -1;
}

#endif
