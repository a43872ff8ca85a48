#include "fibers.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <sys/mman.h>

/* void cuda_on_cpu_switch(void **leave, void *enter): saves what a call keeps on this stack and goes on on the other one. */
__asm__(R"(
    .text
    .p2align 4
    .hidden cuda_on_cpu_switch
    .globl cuda_on_cpu_switch
    .type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");
extern "C" void cuda_on_cpu_switch(void **leave, void *enter);

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_on_cpu {

enum { WARP = 32, THREADS_MOST = 1024, STACK_BYTES = 256 << 10, PAGE = 4096, SHARED_MOST = 228 << 10 };

thread *self;
unsigned char *dynamic_shared;

struct __attribute__((visibility("hidden"))) meeting {
    unsigned mask, arrived;
    join_lanes join;
    const char *what;
    place at;
    void *given[WARP];
};

struct __attribute__((visibility("hidden"))) lanes {
    unsigned ready, at_barrier;
    unsigned start; /* the lane that goes on first */
    unsigned ended; /* those that the block does not have, too */
    int meetings;
    meeting at[WARP];
};

static thread threads[THREADS_MOST];
static lanes warps[THREADS_MOST / WARP];
static unsigned ready_warps; /* which have lanes that are ready */
static unsigned warp_now;    /* whose lanes are preferred */
static unsigned thread_count, live, at_barrier;
static place barrier_at;
static uint64_t random_state;

static void *stacks_free[THREADS_MOST]; /* the highest address of each */
static unsigned stacks_free_count, stacks_made;
static void *main_stack_pointer, *starting_stack;

static void (*kernel_body)(void *);
static void *kernel_arguments;
static const void *kernel_address;

static uint32_t random_word()
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return static_cast<uint32_t>((random_state * 0x2545f4914f6cdd1du) >> 32);
}

static void seed_random()
{
    const char *seed = getenv("CUDA_ON_CPU_SEED");
    random_state = (seed ? strtoull(seed, nullptr, 0) : 1) * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
    random_state += random_state == 0;
}

void die(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fprintf(stderr, "cuda_on_cpu: ");
    vfprintf(stderr, format, list);
    va_end(list);
    Dl_info info;
    if (kernel_address && dladdr(kernel_address, &info) && info.dli_sname)
        fprintf(stderr, " [kernel %s]", info.dli_sname);
    if (self)
        fprintf(stderr, " [block %u,%u,%u thread %u,%u,%u]", blockIdx.x, blockIdx.y, blockIdx.z, self->index.x, self->index.y,
                self->index.z);
    fprintf(stderr, "\n");
    abort();
}

static void describe_waiting()
{
    fprintf(stderr, "cuda_on_cpu: %u threads of the block, %u ended, %u at __syncthreads", thread_count, thread_count - live, at_barrier);
    if (at_barrier)
        fprintf(stderr, " (%s:%d)", barrier_at.file, barrier_at.line);
    fprintf(stderr, "\n");
    for (unsigned w = 0; w * WARP < thread_count; w++)
        for (int m = 0; m < warps[w].meetings; m++) {
            const meeting *a = &warps[w].at[m];
            fprintf(stderr, "cuda_on_cpu: warp %u: lanes %08x wait at %s (%s:%d) for %08x\n", w, a->arrived, a->what, a->at.file,
                    a->at.line, a->mask);
        }
}

/* ---- which thread goes on ---- */

/* One of SET, the first from number START on; if START's bit 5 is set, the last. */
static unsigned one_of(unsigned set, unsigned start)
{
    unsigned turn = start % 32, turned = set >> turn | set << (32 - turn) % 32;
    unsigned found = start & 32 ? 31 - static_cast<unsigned>(__builtin_clz(turned)) : static_cast<unsigned>(__builtin_ctz(turned));
    return (found + turn) % 32;
}

/* The thread that runs next: of the same warp, whose stacks are in the cache, but where chance has it another way. */
static void pick_ready()
{
    if (ready_warps == 0) {
        describe_waiting();
        die("the threads of a block wait for each other at different places");
    }
    if (warps[warp_now].ready == 0)
        warp_now = one_of(ready_warps, random_word());
    unsigned w = warp_now, lane = one_of(warps[w].ready, warps[w].start);
    if ((warps[w].ready &= ~(1u << lane)) == 0)
        ready_warps &= ~(1u << w);
    self = &threads[w * WARP + lane];
    threadIdx = self->index;
}

/* Draws in which order they go on, and sometimes another warp that goes before. */
static void make_ready(unsigned w, unsigned lanes)
{
    if (!lanes)
        return;
    uint32_t random = random_word();
    warps[w].ready |= lanes;
    warps[w].start = random >> 8;
    ready_warps |= 1u << w;
    if (random % 8 == 0)
        warp_now = one_of(ready_warps, random >> 16);
}

static void release_barrier()
{
    for (unsigned w = 0; w * WARP < thread_count; w++) {
        make_ready(w, warps[w].at_barrier);
        warps[w].at_barrier = 0;
    }
    at_barrier = 0;
}

/* All lanes of it but the one that runs. */
static void release_meeting(lanes *w, int m)
{
    unsigned running = w == &warps[self->warp] ? 1u << self->lane : 0;
    make_ready(static_cast<unsigned>(w - warps), w->at[m].arrived & ~running);
    if (m != --w->meetings)
        w->at[m] = w->at[w->meetings];
}

static void thread_ends()
{
    thread *me = self;
    lanes *w = &warps[me->warp];
    me->ended = true;
    live--;
    w->ended |= 1u << me->lane;
    for (int m = w->meetings - 1; m >= 0; m--) {
        meeting *a = &w->at[m];
        if (!(a->mask & 1u << me->lane))
            continue;
        if (a->join)
            die("lane %u ends while others wait for it at %s (%s:%d)", me->lane, a->what, a->at.file, a->at.line);
        if (a->arrived == (a->mask & ~w->ended))
            release_meeting(w, m);
    }
    if (at_barrier > 0 && at_barrier == live)
        release_barrier();
}

/* ---- stacks ---- */

static void *stack_take()
{
    if (stacks_free_count > 0)
        return stacks_free[--stacks_free_count];
    if (stacks_made == THREADS_MOST)
        die("no stack left");
    char *p = static_cast<char *>(
        mmap(nullptr, STACK_BYTES + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (p == MAP_FAILED || mprotect(p, PAGE, PROT_NONE) != 0)
        die("no memory for a thread's stack");
    /* Not all at the same place of their pages, where they would push each other out of the cache. */
    return p + PAGE + STACK_BYTES - (stacks_made++ * 320) % PAGE;
}

static void stack_give(void *stack)
{
    stacks_free[stacks_free_count++] = stack;
}

/* Runs self and, as long as there is one, another thread that has not begun. */
static void work()
{
    void *stack = starting_stack;
    for (;;) {
        kernel_body(kernel_arguments);
        thread_ends();
        if (live > 0) {
            pick_ready();
            if (!self->stack_pointer)
                continue;
        }
        stack_give(stack);
        void *left;
        cuda_on_cpu_switch(&left, live > 0 ? self->stack_pointer : main_stack_pointer);
    }
}

static void *stack_begin()
{
    starting_stack = stack_take();
    void **top = static_cast<void **>(starting_stack);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(work);
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    return top;
}

static void wait_turn()
{
    thread *me = self;
    pick_ready();
    if (self != me)
        cuda_on_cpu_switch(&me->stack_pointer, self->stack_pointer ? self->stack_pointer : stack_begin());
}

/* ---- meeting ---- */

static bool same_place(place a, place b)
{
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

void meet_block(place at)
{
    if (at_barrier == 0)
        barrier_at = at;
    else if (!same_place(at, barrier_at))
        die("threads of a block meet at different __syncthreads: %s:%d and %s:%d", at.file, at.line, barrier_at.file, barrier_at.line);
    at_barrier++;
    warps[self->warp].at_barrier |= 1u << self->lane;
    if (at_barrier == live)
        release_barrier();
    wait_turn();
}

void meet_warp(unsigned mask, join_lanes join, void *given, const char *what, place at)
{
    lanes *w = &warps[self->warp];
    unsigned lane = self->lane;
    bool sync = !join;
    if (!(mask & 1u << lane))
        die("a lane is not in its own mask %08x at %s (%s:%d)", mask, what, at.file, at.line);
    if ((mask & w->ended) && !sync)
        die("%s (%s:%d) for lanes %08x, of which %08x have ended or never were", what, at.file, at.line, mask, mask & w->ended);
    int m = 0;
    while (m < w->meetings && w->at[m].mask != mask)
        m++;
    meeting *a = &w->at[m];
    if (m == w->meetings) {
        w->meetings++;
        *a = {mask, 0, join, what, at, {}};
    } else if (a->join != join || !same_place(a->at, at))
        die("lanes of a warp meet at different functions: %s (%s:%d) and %s (%s:%d)", what, at.file, at.line, a->what, a->at.file,
            a->at.line);
    a->given[lane] = given;
    a->arrived |= 1u << lane;
    if (a->arrived != (sync ? mask & ~w->ended : mask)) {
        wait_turn();
        return;
    }
    if (join)
        join(a->given, mask);
    release_meeting(w, m);
}

/* ---- copies behind the thread's back ---- */

void copy_late(void *to, const void *from, int bytes)
{
    thread *t = self;
    if (reinterpret_cast<uintptr_t>(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16)
        die("copy_async_16 from %p to %p: not aligned to 16 bytes", from, to);
    if (bytes != 0 && bytes != 16)
        die("copy_async_16 of %d bytes", bytes);
    if (t->copies == t->copies_room) {
        t->copies_room = t->copies_room ? 2 * t->copies_room : 64;
        t->copy = static_cast<late_copy *>(realloc(t->copy, t->copies_room * sizeof *t->copy));
    }
    memset(to, 0xff, 16); /* whoever reads it before the copy is there, or still read what was there, sees this */
    t->copy[t->copies++] = {to, from, bytes, t->groups};
}

void copies_commit()
{
    self->groups++;
}

void copies_wait(unsigned pending)
{
    thread *t = self;
    size_t done = 0;
    for (; done < t->copies; done++) {
        const late_copy *c = &t->copy[done];
        if (c->group + pending >= t->groups)
            break;
        if (c->bytes)
            memcpy(c->to, c->from, 16);
        else
            memset(c->to, 0, 16);
    }
    t->copies -= done;
    if (done)
        memmove(t->copy, t->copy + done, t->copies * sizeof *t->copy);
}

/* ---- grids ---- */

/* Its last byte lies before a closed page. */
static unsigned char *shared_end()
{
    static unsigned char *end = [] {
        void *p = mmap(nullptr, SHARED_MOST + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || mprotect(static_cast<char *>(p) + SHARED_MOST, PAGE, PROT_NONE) != 0)
            die("no memory for shared memory");
        return static_cast<unsigned char *>(p) + SHARED_MOST;
    }();
    return end;
}

static void number_threads(dim3 block)
{
    unsigned n = 0;
    for (unsigned z = 0; z < block.z; z++)
        for (unsigned y = 0; y < block.y; y++)
            for (unsigned x = 0; x < block.x; x++, n++) {
                threads[n].index = {x, y, z};
                threads[n].number = n;
                threads[n].lane = n % WARP;
                threads[n].warp = n / WARP;
            }
    thread_count = n;
}

static void run_block(size_t shared)
{
    memset(dynamic_shared, 0xff, shared);
    poison_static_shared(kernel_address);
    for (unsigned i = 0; i < thread_count; i++) {
        thread *t = &threads[i];
        t->stack_pointer = nullptr;
        t->ended = false;
        t->groups = 0;
        t->copies = 0;
    }
    ready_warps = 0;
    for (unsigned w = 0; w * WARP < thread_count; w++) {
        unsigned count = thread_count - w * WARP;
        warps[w].ended = count < WARP ? ~0u << count : 0;
        warps[w].meetings = 0;
        warps[w].ready = warps[w].at_barrier = 0;
        make_ready(w, ~warps[w].ended);
    }
    live = thread_count;
    at_barrier = 0;
    warp_now = one_of(ready_warps, random_word());
    pick_ready();
    cuda_on_cpu_switch(&main_stack_pointer, stack_begin());
    self = nullptr;
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

void run_grid(dim3 grid, dim3 block, size_t shared, void (*body)(void *), void *arguments, const void *kernel)
{
    if (random_state == 0)
        seed_random();
    kernel_body = body;
    kernel_arguments = arguments;
    kernel_address = kernel;
    blockDim = block;
    gridDim = grid;
    dynamic_shared = shared_end() - (shared + 15) / 16 * 16;
    number_threads(block);
    /* Block (start + i * step) % blocks is the i-th. */
    uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z, step, at = random_word() % blocks;
    do
        step = 1 + random_word() % blocks;
    while (common_divisor(step, blocks) != 1);
    for (uint64_t i = 0; i < blocks; i++, at = (at + step) % blocks) {
        blockIdx = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                       static_cast<unsigned>(at / grid.x / grid.y)};
        run_block(shared);
    }
    kernel_address = nullptr;
}

} // namespace cuda_on_cpu
