/* Threads of a block as fibers of the host thread that runs the kernel. One block runs at a time, one thread of it at a time,
 * until it waits for others or ends; which goes on then is drawn by chance (CUDA_ON_CPU_SEED). */
#ifndef CUDA_ON_CPU_FIBERS_H
#define CUDA_ON_CPU_FIBERS_H

#include "vector_types.h"

#include <cstddef>
#include <cstdint>

#pragma GCC visibility push(hidden)
extern uint3 threadIdx, blockIdx; /* threadIdx: of the thread that runs now */
extern dim3 blockDim, gridDim;
enum { warpSize = 32 };

namespace cuda_on_cpu {

/* A copy to shared memory behind the thread's back, not yet done. */
struct late_copy {
    void *to;
    const void *from;
    int bytes;
    unsigned group; /* the number of commits before it */
};

struct thread {
    uint3 index;
    unsigned number, lane, warp;
    void *stack_pointer; /* of a thread that waits; NULL: not begun */
    bool ended;
    unsigned groups; /* committed so far */
    size_t copies, copies_room;
    late_copy *copy; /* [copies], in the order of the calls */
};

extern thread *self;
extern unsigned char *dynamic_shared;

/* Where in the source a function of the whole block or warp was called: all have to meet at the same place. */
struct place {
    const char *file;
    int line;
};

/* All threads of the block that have not ended. */
void meet_block(place);

/* The lanes of MASK; the last that comes calls JOIN with what each gave, indexed by lane.
 * JOIN NULL: __syncwarp, which does not wait for lanes that have ended. WHAT names the function. */
typedef void (*join_lanes)(void *const *given, unsigned mask);
void meet_warp(unsigned mask, join_lanes join, void *given, const char *what, place);

void copy_late(void *to, const void *from, int bytes);
void copies_commit();
void copies_wait(unsigned pending);

/* Runs BODY(ARGUMENTS) once for each thread of each block. KERNEL: its address, for messages and its shared memory. */
void run_grid(dim3 grid, dim3 block, size_t shared, void (*body)(void *), void *arguments, const void *kernel);

[[noreturn]] void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* shared_memory.cc: fills KERNEL's static __shared__ arrays with 0xff. */
void poison_static_shared(const void *kernel);

} // namespace cuda_on_cpu
#pragma GCC visibility pop


#endif
