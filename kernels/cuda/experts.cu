/* The rows that go to the experts and come back, a warp for each; the mixture of experts' part of the table. */
#include "kernels/cuda/experts.h"

#include <cstdlib>

/* Zeros in packed row NUMBER, unless a choice has it. */
template <typename T, int COUNT>
static __device__ void clear_unless_taken(const struct router_view &v, T *packed, int64_t number)
{
    const float zeros[COUNT] = {};
    if (number >= v.experts * v.capacity || number % v.capacity < v.taken[number / v.capacity])
        return;
    for (int64_t i = lane_number() * COUNT; i < v.width; i += WARP * COUNT)
        store_floats(packed + number * v.width + i, zeros);
}

/* Rows first, then packed rows that may have to be cleared. */
template <typename T, int COUNT>
static __global__ void __launch_bounds__(WARPS_THREADS) dispatch_rows(struct router_view v, T *packed, const T *x)
{
    int64_t row = warp_number();
    if (row >= v.rows) {
        clear_unless_taken<T, COUNT>(v, packed, row - v.rows);
        return;
    }
    for (int64_t i = lane_number() * COUNT; i < v.width; i += WARP * COUNT) {
        float value[COUNT];
        load_floats(value, x + row * v.width + i);
        for (int c = 0; c < v.choices; c++) {
            int64_t place = v.place[row * v.choices + c];
            if (place >= 0)
                store_floats(packed + place * v.width + i, value);
        }
    }
}

/* y (+)= sum over a row's choices of gate * packed row; GATES NULL: of the packed rows. */
template <typename T, int COUNT>
static __global__ void __launch_bounds__(WARPS_THREADS) sum_choices(struct router_view v, T *y, const T *packed, const float *gates,
                                                                    bool add_to_y)
{
    int64_t row = warp_number();
    if (row >= v.rows)
        return;
    for (int64_t i = lane_number() * COUNT; i < v.width; i += WARP * COUNT) {
        float sum[COUNT] = {}, value[COUNT];
        if (add_to_y)
            load_floats(sum, y + row * v.width + i);
#pragma unroll 2
        for (int64_t c = row * v.choices; c < (row + 1) * v.choices; c++) {
            int64_t place = v.place[c];
            float gate = gates != NULL ? gates[c] : 1;
            if (place < 0)
                continue;
            load_floats(value, packed + place * v.width + i);
#pragma unroll
            for (int j = 0; j < COUNT; j++)
                sum[j] = fmaf(gate, value[j], sum[j]);
        }
        store_floats(y + row * v.width + i, sum);
    }
}

/* One choice: its packed row's gradient, the product of DY and the packed row for its gate. */
template <typename T, int COUNT>
static __device__ float choice_backward(const struct router_view &v, T *d_packed, const T *dy, const T *packed, float gate)
{
    float sum = 0;
    for (int64_t i = lane_number() * COUNT; i < v.width; i += WARP * COUNT) {
        float d[COUNT], value[COUNT];
        load_floats(d, dy + i);
        load_floats(value, packed + i);
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            sum = fmaf(d[j], value[j], sum);
            d[j] *= gate;
        }
        store_floats(d_packed + i, d);
    }
    return warp_reduce<sum_of>(sum);
}

template <typename T, int COUNT>
static __global__ void __launch_bounds__(WARPS_THREADS) combine_rows_backward(struct router_view v, T *d_packed, float *d_gate, const T *dy,
                                                                              const T *packed)
{
    int64_t row = warp_number();
    if (row >= v.rows) {
        clear_unless_taken<T, COUNT>(v, d_packed, row - v.rows);
        return;
    }
    for (int64_t c = row * v.choices; c < (row + 1) * v.choices; c++) {
        int64_t at = v.place[c] * v.width;
        float product = 0;
        if (v.place[c] >= 0)
            product = choice_backward<T, COUNT>(v, d_packed + at, dy + row * v.width, packed + at, v.gate[c]);
        if (lane_number() == 0)
            d_gate[c] = product;
    }
}

/* ---- the table ---- */

struct router_view view_of(const struct router *router, const struct routing *r)
{
    const struct router_desc *d = &router->desc;
    return {d->rows, d->width, d->capacity, static_cast<int>(d->experts), static_cast<int>(d->choices),
            r->expert, r->place, r->load, r->taken, static_cast<float *>(r->gate), static_cast<float *>(r->probability),
            static_cast<float *>(r->log_sum), static_cast<float *>(r->losses)};
}

static void router_destroy(struct router *router)
{
    free(router);
}

static cairn_err router_create(struct backend *b, const struct router_desc *desc, struct router **out)
{
    *out = NULL;
    TRY(router_check(desc));
    TRY(router_check_backward(desc));
    struct router *router = static_cast<struct router *>(calloc(1, sizeof *router));
    if (router == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for a router's plan");
    router->cuda = cuda_of(b);
    router->desc = *desc;
    *out = router;
    return CAIRN_OK;
}

static int64_t rows_and_packed(const struct router *router)
{
    return router->desc.rows + router->desc.experts * router->desc.capacity;
}

static void dispatch(struct router *router, void *packed, const void *x, const struct routing *routing)
{
    struct router_view v = view_of(router, routing);
    with_type(router, packed, x, NULL, [&]<typename T, int COUNT>() {
        launch_warps(router->cuda, rows_and_packed(router), "rows sent to experts", dispatch_rows<T, COUNT>, v, static_cast<T *>(packed),
                     static_cast<const T *>(x));
    });
}

static void start_sum(struct router *router, void *y, const void *packed, const struct routing *routing, const void *gates, bool add_to_y)
{
    struct router_view v = view_of(router, routing);
    with_type(router, y, packed, NULL, [&]<typename T, int COUNT>() {
        launch_warps(router->cuda, v.rows, "rows of experts joined", sum_choices<T, COUNT>, v, static_cast<T *>(y),
                     static_cast<const T *>(packed), static_cast<const float *>(gates), add_to_y);
    });
}

static void dispatch_backward(struct router *router, void *dx, const void *d_packed, const struct routing *routing, bool add_to_dx)
{
    start_sum(router, dx, d_packed, routing, NULL, add_to_dx);
}

static void combine(struct router *router, void *y, const void *packed, const struct routing *routing)
{
    start_sum(router, y, packed, routing, routing->gate, false);
}

static void combine_backward(struct router *router, void *d_packed, void *d_gate, const void *dy, const void *packed,
                             const struct routing *routing)
{
    struct router_view v = view_of(router, routing);
    with_type(router, d_packed, dy, packed, [&]<typename T, int COUNT>() {
        launch_warps(router->cuda, rows_and_packed(router), "rows of experts backward", combine_rows_backward<T, COUNT>, v,
                     static_cast<T *>(d_packed), static_cast<float *>(d_gate), static_cast<const T *>(dy), static_cast<const T *>(packed));
    });
}

void experts_fill(struct backend_table *table)
{
    table->router_create = router_create;
    table->router_forward = router_forward;
    table->router_place = router_place;
    table->router_backward_input = router_backward_input;
    table->router_backward_weight = router_backward_weight;
    table->router_destroy = router_destroy;
    table->dispatch = dispatch;
    table->dispatch_backward = dispatch_backward;
    table->combine = combine;
    table->combine_backward = combine_backward;
}
