#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/cpu.h"

/* A huge page; what is larger than one gets pages of its own, aligned so that the kernel can make them huge, but for the last ones that fill
 * none: a rank has a dozen such pieces, and a layout is to take what was planned. A page's first touch costs 2 to 9 us, so a step
 * must meet none: they are touched here, by all threads. */
#define HUGE_PAGE ((size_t)2 << 20)
#define SMALL_PAGE ((size_t)4 << 10)
#define CACHE_LINE ((size_t)64)

static size_t round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static void *map_aligned(size_t bytes)
{
    size_t mapped = bytes + HUGE_PAGE;
    char *start = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    char *aligned = (char *)round_up((size_t)start, HUGE_PAGE);
    if (aligned > start)
        munmap(start, (size_t)(aligned - start));
    size_t behind = (size_t)(start + mapped - (aligned + bytes));
    if (behind > 0)
        munmap(aligned + bytes, behind);
    return aligned;
}

void *memory_alloc(struct backend *b, size_t bytes)
{
    if (bytes < HUGE_PAGE) {
        size_t size = round_up(bytes != 0 ? bytes : 1, CACHE_LINE);
        void *p = aligned_alloc(CACHE_LINE, size);
        return p != NULL ? memset(p, 0, size) : NULL;
    }
    size_t size = round_up(bytes, SMALL_PAGE);
    char *p = map_aligned(size);
    if (p == NULL)
        return NULL;
    madvise(p, size, MADV_HUGEPAGE);
#pragma omp parallel for num_threads(b->threads) schedule(static)
    for (size_t i = 0; i < size; i += SMALL_PAGE)
        ((volatile char *)p)[i] = 0;
    return p;
}

void memory_free(struct backend *b, void *p, size_t bytes)
{
    (void)b;
    if (p == NULL)
        return;
    if (bytes < HUGE_PAGE)
        free(p);
    else
        munmap(p, round_up(bytes, SMALL_PAGE));
}
