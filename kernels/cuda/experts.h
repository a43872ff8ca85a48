/* The parts of the mixture of experts on the GPU: the router forward (router.cu) and backward (router_backward.cu), and the rows that
 * go to the experts and come back (experts.cu). Rows, widths and experts may be any number; loads of 16 bytes are for widths and
 * pointers that allow them. */
#ifndef CUDA_EXPERTS_H
#define CUDA_EXPERTS_H

#include "base/least.h"
#include "kernels/cuda/device.h"

/* Kernels with a warp for each row have so many rows a block. */
static constexpr int WARPS = 8, WARPS_THREADS = WARPS * WARP;

struct router {
    struct cuda *cuda;
    struct router_desc desc;
};

/* What kernels know of the router and of what it decides: backend.h's routing. */
struct router_view {
    int64_t rows, width, capacity;
    int experts, choices;
    int32_t *expert, *place, *load, *taken;
    float *gate, *probability, *log_sum, *losses;
};

struct router_view view_of(const struct router *, const struct routing *);

/* Fails where the workspace is too small for the shape. */
cairn_err router_check(const struct router_desc *);
void router_forward(struct router *, const struct routing *, const void *x, const void *weight);
void router_place(struct router *, const struct routing *, const int32_t *most);

cairn_err router_check_backward(const struct router_desc *);
void router_backward_input(struct router *, void *d_logits, void *dx, const void *d_gate, const struct routing *, const void *weight,
                           const struct router_scales *, bool add_to_dx);
void router_backward_weight(struct router *, void *d_weight, const void *d_logits, const void *x);

static inline int64_t parts_of(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

static inline bool aligned_16(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

/* Calls START<T, COUNT>() for the type of act and the elements that a thread loads at once of the rows at A, B and C; C may be NULL. */
template <typename Start> static void with_type(const struct router *router, const void *a, const void *b, const void *c, Start start)
{
    bool half = router->cuda->base.act == DTYPE_BF16;
    bool wide = router->desc.width % (half ? 8 : 4) == 0 && aligned_16(a) && aligned_16(b) && aligned_16(c);
    if (half && wide)
        start.template operator()<bf16, 8>();
    else if (half)
        start.template operator()<bf16, 1>();
    else if (wide)
        start.template operator()<float, 4>();
    else
        start.template operator()<float, 1>();
}

/* A warp for each of N. */
template <typename... Parameters, typename... Arguments>
static void launch_warps(struct cuda *cuda, int64_t n, const char *what, void (*kernel)(Parameters...), Arguments... arguments)
{
    launch(cuda, what, kernel, dim3(blocks_of(n, WARPS)), dim3(WARPS_THREADS), 0, arguments...);
}

template <typename T, int COUNT> __device__ __forceinline__ void load_floats(float (&to)[COUNT], const T *from)
{
    if constexpr (COUNT == 1) {
        to[0] = to_float(*from);
    } else {
        vector16<T> v = load16(from);
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            to[i] = to_float(v.v[i]);
    }
}

template <typename T, int COUNT> __device__ __forceinline__ void store_floats(T *to, const float (&from)[COUNT])
{
    if constexpr (COUNT == 1) {
        *to = from_float<T>(from[0]);
    } else {
        vector16<T> v;
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            v.v[i] = from_float<T>(from[i]);
        store16(to, v);
    }
}

/* The number of this warp among all of the grid, and of this thread in it. */
__device__ __forceinline__ int64_t warp_number()
{
    return static_cast<int64_t>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
}

__device__ __forceinline__ int lane_number()
{
    return static_cast<int>(threadIdx.x) % WARP;
}

#endif
