/* GELU, SwiGLU and dropout. */
#include "kernels/cuda/map.h"

extern "C" {
#include "kernels/dropout.h"
}

/* x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) is the tanh form, without the loss of digits of 1 + tanh near -1. */
#define GELU_SCALE (2 * 0.797884560802865356f)
#define GELU_CUBIC 0.044715f
#define LOG2_E 1.44269504088896341f

/* exp of what sigmoid takes, negated; no more than 2^120, so that its inverse and their product are numbers. */
static __device__ __forceinline__ float gelu_exponential(float x)
{
    return exp2f(fminf(-GELU_SCALE * LOG2_E * x * (1.0f + GELU_CUBIC * x * x), 120.0f));
}

struct gelu_value {
    static constexpr bool two = false;
    static __device__ __forceinline__ float of(float x, float) { return __fdividef(x, 1.0f + gelu_exponential(x)); }
};

struct gelu_gradient {
    static constexpr bool two = true;
    static __device__ __forceinline__ float of(float dy, float x)
    {
        float e = gelu_exponential(x), sigmoid = __fdividef(1.0f, 1.0f + e);
        /* 1 - sigmoid = e sigmoid, without its loss of digits */
        float slope = GELU_SCALE * (1.0f + 3 * GELU_CUBIC * x * x);
        return dy * sigmoid * (1.0f + x * slope * (e * sigmoid));
    }
};

template <typename T, typename F>
static void map_act(struct backend *b, const char *what, void *y, const void *first, const void *second, int64_t n)
{
    map(cuda_of(b), what,
        map_values<T, F>{static_cast<T *>(y), static_cast<const T *>(first), static_cast<const T *>(second)}, n);
}

template <typename F>
static void map_either(struct backend *b, const char *what, void *y, const void *first, const void *second, int64_t n)
{
    if (b->act == DTYPE_BF16)
        map_act<bf16, F>(b, what, y, first, second, n);
    else
        map_act<float, F>(b, what, y, first, second, n);
}

static void gelu_forward(struct backend *b, void *y, const void *x, int64_t n)
{
    map_either<gelu_value>(b, "GELU", y, x, nullptr, n);
}

static void gelu_backward(struct backend *b, void *dx, const void *dy, const void *x, int64_t n)
{
    map_either<gelu_gradient>(b, "GELU's gradient", dx, dy, x, n);
}

static void add_act(struct backend *b, void *sum, const void *first, const void *second, int64_t n)
{
    map_either<sum_of_two>(b, "a sum", sum, first, second, n);
}

/* ---- SwiGLU: packs are of y's elements, and do not cross the end of a row ---- */

/* exp(-x), no more than gelu_exponential's most. */
static __device__ __forceinline__ float silu_exponential(float x)
{
    return exp2f(fminf(-LOG2_E * x, 120.0f));
}

/* Where in x the gate of y's element AT lies. Division of 64 bits is long beside what else is computed. */
static __device__ __forceinline__ int64_t gate_place(int64_t at, int width)
{
    int64_t row = at <= UINT32_MAX ? static_cast<uint32_t>(at) / static_cast<uint32_t>(width) : at / width;
    return at + row * width;
}

template <typename T> struct swiglu_value {
    T *y;
    const T *x;
    int width;

    static constexpr int count = PACK<T>, each = 2;
    template <int N> struct inputs {
        pack<T, N> gate, up;
    };

    bool aligned(int64_t at) const { return at % count == 0 && rows_aligned(y, width) && rows_aligned(x, width); }

    template <int N> __device__ __forceinline__ inputs<N> load(int64_t at) const
    {
        const T *gate = x + gate_place(at, width);
        return {load_pack<N>(gate), load_pack<N>(gate + width)};
    }

    template <int N> __device__ __forceinline__ void store(int64_t at, const inputs<N> &in) const
    {
        float out[N];
#pragma unroll
        for (int i = 0; i < N; i++)
            out[i] = __fdividef(in.gate.at(i), 1.0f + silu_exponential(in.gate.at(i))) * in.up.at(i);
        store_pack<N>(y + at, out);
    }
};

template <typename T> struct swiglu_gradient {
    T *dx;
    const T *dy, *x;
    int width;

    static constexpr int count = PACK<T>, each = 2;
    template <int N> struct inputs {
        int64_t place;
        pack<T, N> dy, gate, up;
    };

    bool aligned(int64_t at) const
    {
        return at % count == 0 && rows_aligned(dx, width) && rows_aligned(dy, width) && rows_aligned(x, width);
    }

    template <int N> __device__ __forceinline__ inputs<N> load(int64_t at) const
    {
        int64_t place = gate_place(at, width);
        return {place, load_pack<N>(dy + at), load_pack<N>(x + place), load_pack<N>(x + place + width)};
    }

    template <int N> __device__ __forceinline__ void store(int64_t, const inputs<N> &in) const
    {
        float d_gate[N], d_up[N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            float v = in.gate.at(i), d = in.dy.at(i), e = silu_exponential(v), sigmoid = __fdividef(1.0f, 1.0f + e);
            d_up[i] = d * (v * sigmoid);
            d_gate[i] = d * in.up.at(i) * sigmoid * (1.0f + v * (e * sigmoid)); /* 1 - sigmoid = e sigmoid */
        }
        store_pack<N>(dx + in.place, d_gate);
        store_pack<N>(dx + in.place + width, d_up);
    }
};

template <typename T> static void swiglu(struct cuda *cuda, void *y, const void *x, int64_t rows, int64_t width)
{
    const swiglu_value<T> op = {static_cast<T *>(y), static_cast<const T *>(x), static_cast<int>(width)};
    map(cuda, "SwiGLU", op, rows * width);
}

template <typename T> static void d_swiglu(struct cuda *cuda, void *dx, const void *dy, const void *x, int64_t rows, int64_t width)
{
    const swiglu_gradient<T> op = {static_cast<T *>(dx), static_cast<const T *>(dy), static_cast<const T *>(x), static_cast<int>(width)};
    map(cuda, "SwiGLU's gradient", op, rows * width);
}

static void swiglu_forward(struct backend *b, void *y, const void *x, int64_t rows, int64_t width)
{
    if (b->act == DTYPE_BF16)
        swiglu<bf16>(cuda_of(b), y, x, rows, width);
    else
        swiglu<float>(cuda_of(b), y, x, rows, width);
}

static void swiglu_backward(struct backend *b, void *dx, const void *dy, const void *x, int64_t rows, int64_t width)
{
    if (b->act == DTYPE_BF16)
        d_swiglu<bf16>(cuda_of(b), dx, dy, x, rows, width);
    else
        d_swiglu<float>(cuda_of(b), dx, dy, x, rows, width);
}

/* Four elements have one draw of random words, so packs begin at multiples of four. */
template <typename T> struct dropped_sum {
    T *y;
    const T *x, *h; /* x NULL: none */
    struct dropout dropout;
    uint32_t threshold;
    float scale;

    static constexpr int count = PACK<T>, each = 2;
    template <int N> struct inputs {
        pack<T, N> x, h;
    };

    bool aligned(int64_t at) const
    {
        return at % 4 == 0 && pack_aligned<count>(y + at) && pack_aligned<count>(h + at) &&
               (x == nullptr || pack_aligned<count>(x + at));
    }

    __device__ __forceinline__ void begin() { dropout_at_moment(&dropout); }

    template <int N> __device__ __forceinline__ inputs<N> load(int64_t at) const
    {
        inputs<N> in;
        in.h = load_pack<N>(h + at);
        if (x != nullptr)
            in.x = load_pack<N>(x + at);
        return in;
    }

    template <int N> __device__ __forceinline__ void store(int64_t at, const inputs<N> &in) const
    {
        constexpr int DRAWN = N < 4 ? N : 4;
        float out[N];
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            uint64_t element = dropout.first + static_cast<uint64_t>(at + i);
            uint32_t words[4];
            philox4x32(dropout.key, dropout.step, element / 4, words);
#pragma unroll
            for (int j = 0; j < DRAWN; j++) {
                uint32_t word = words[N < 4 ? element % 4 : j];
                float v = word >= threshold ? in.h.at(i + j) * scale : 0.0f;
                out[i + j] = x != nullptr ? v + in.x.at(i + j) : v;
            }
        }
        store_pack<N>(y + at, out);
    }
};

template <typename T>
static void add_dropped(struct backend *b, void *y, const void *x, const void *h, int64_t n, const struct dropout *d)
{
    dropped_sum<T> op = {};
    op.y = static_cast<T *>(y);
    op.x = static_cast<const T *>(x);
    op.h = static_cast<const T *>(h);
    op.dropout = *d;
    op.threshold = dropout_threshold(d->rate);
    op.scale = static_cast<float>(dropout_scale(d->rate));
    map(cuda_of(b), "dropout", op, n);
}

static void add_dropout_forward(struct backend *b, void *y, const void *x, const void *h, int64_t n, const struct dropout *d)
{
    if (d->rate == 0 && x != nullptr)
        add_act(b, y, x, h, n);
    else if (d->rate == 0 && y != h)
        b->table->copy(b, y, h, static_cast<size_t>(n) * dtype_size(b->act));
    else if (d->rate != 0 && b->act == DTYPE_BF16)
        add_dropped<bf16>(b, y, x, h, n, d);
    else if (d->rate != 0)
        add_dropped<float>(b, y, x, h, n, d);
}

static void dropout_backward(struct backend *b, void *dh, const void *dy, int64_t n, const struct dropout *d)
{
    add_dropout_forward(b, dh, nullptr, dy, n, d);
}

/* Slices [count][n] are added in their order; the sum begins with the first itself: 0 + x would lose the sign of -0. */
template <typename T> struct slices_sum {
    T *sum;
    const T *slices;
    int64_t n;
    int slice_count;

    static constexpr int count = PACK<T>, each = 1;
    template <int N> struct inputs {
        float v[N];
    };

    bool aligned(int64_t at) const
    {
        bool together = n * sizeof(T) % 16 == 0 || slice_count == 1;
        return together && pack_aligned<count>(sum + at) && pack_aligned<count>(slices + at);
    }

    template <int N> __device__ __forceinline__ inputs<N> load(int64_t at) const
    {
        inputs<N> in;
        pack<T, N> x = load_pack<N>(slices + at);
#pragma unroll
        for (int i = 0; i < N; i++)
            in.v[i] = x.at(i);
        for (int s = 1; s < slice_count; s++) {
            x = load_pack<N>(slices + s * n + at);
#pragma unroll
            for (int i = 0; i < N; i++)
                in.v[i] += x.at(i);
        }
        return in;
    }

    template <int N> __device__ __forceinline__ void store(int64_t at, const inputs<N> &in) const { store_pack<N>(sum + at, in.v); }
};

template <typename T> static void add_slices(struct backend *b, void *sum, const void *slices, int count, int64_t n)
{
    map(cuda_of(b), "a sum over ranks", slices_sum<T>{static_cast<T *>(sum), static_cast<const T *>(slices), n, count}, n);
}

static void sum_slices(struct backend *b, enum dtype type, void *sum, const void *slices, int count, int64_t n)
{
    if (type == DTYPE_BF16)
        add_slices<bf16>(b, sum, slices, count, n);
    else
        add_slices<float>(b, sum, slices, count, n);
}

void elementwise_fill(struct backend_table *t)
{
    t->gelu_forward = gelu_forward;
    t->gelu_backward = gelu_backward;
    t->swiglu_forward = swiglu_forward;
    t->swiglu_backward = swiglu_backward;
    t->add_act = add_act;
    t->add_dropout_forward = add_dropout_forward;
    t->dropout_backward = dropout_backward;
    t->sum_slices = sum_slices;
}
