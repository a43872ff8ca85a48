/* A matrix is read twice: for its greatest absolute value, then to be scaled by a power of two and rounded. cuBLASLt multiplies in float8
 * on sm_90 only what lies along k on both sides, so that half of a linear layer's operands are transposed on the way. A gradient, which both
 * products of the backward pass read, gets both copies in one pass. */
#include "kernels/cuda/float8.h"

#include <cstdlib>

#include "base/least.h"
#include "kernels/cuda/pack.h"

/* The least compute capability, and what code for older GPUs lacks (machine.h), which others run where there is none for them; times ten. */
enum { CAPABILITY_FLOAT8 = 90, CODE_FLOAT8 = 89 };

static constexpr size_t COPY_ALIGNMENT = 256;

/* Of the operands of the product that is next. */
struct scales {
    unsigned greatest[2]; /* the bits of the greatest absolute value, as a float: in the order of the values, then infinity, then NaN */
    float inverse[2];
};

struct float8_room {
    struct scales *scales;
    unsigned char *copies, *kept;
    size_t bytes, kept_bytes;
    struct float8_matrix kept_matrix; /* what the last product kept of its first operand, transposed, */
    const void *kept_from;            /* which lies there; NULL: nothing */
};

cairn_err float8_check(const struct cuda *cuda)
{
    if (cuda->base.act != DTYPE_BF16)
        return FAIL(CAIRN_EUNSUPPORTED, "float8 goes with bfloat16, not with %s", dtype_name(cuda->base.act));
    if (cuda->capability < CAPABILITY_FLOAT8)
        return FAIL(CAIRN_EUNSUPPORTED, "float8 needs a GPU of compute capability %d.%d or later, and %s has %d.%d", CAPABILITY_FLOAT8 / 10,
                    CAPABILITY_FLOAT8 % 10, cuda->name, cuda->capability / 10, cuda->capability % 10);
    if (cuda->code < CODE_FLOAT8)
        return FAIL(CAIRN_EUNSUPPORTED, "this build has no code for the GPU %s but that of older ones, without float8: configure it with --with-cuda-arch=%d",
                    cuda->name, cuda->capability);
    return CAIRN_OK;
}

/* ---- the greatest absolute value ---- */

static constexpr int GREATEST_THREADS = 256, GREATEST_EACH = 8, BLOCKS_OF_PROCESSOR = 8;

struct greatest_of_bits {
    static __device__ __forceinline__ unsigned join(unsigned a, unsigned b) { return a > b ? a : b; }
};

struct values {
    const bf16 *x;
    int64_t packs;
    unsigned blocks;
};

/* Of both operands: the first blocks are of A. */
static __global__ void __launch_bounds__(GREATEST_THREADS) find_greatest(struct values a, struct values b, struct scales *scales)
{
    __shared__ unsigned between[WARP];
    constexpr int N = PACK<bf16>;
    bool second = blockIdx.x >= a.blocks;
    const struct values of = second ? b : a;
    int64_t stride = static_cast<int64_t>(of.blocks) * (GREATEST_THREADS * GREATEST_EACH);
    int64_t first = static_cast<int64_t>(blockIdx.x - (second ? a.blocks : 0)) * (GREATEST_THREADS * GREATEST_EACH) + threadIdx.x;
    unsigned high = 0, low = 0; /* of a word's upper and lower element; what is below the upper one's bits breaks ties alone */
    for (int64_t at = first; at < of.packs; at += stride) {
        pack<bf16, N> x[GREATEST_EACH] = {};
#pragma unroll
        for (int i = 0; i < GREATEST_EACH; i++)
            if (at + i * GREATEST_THREADS < of.packs)
                x[i] = load_pack<N>(of.x + (at + i * GREATEST_THREADS) * N);
#pragma unroll
        for (int i = 0; i < GREATEST_EACH; i++)
#pragma unroll
            for (unsigned word : x[i].w) {
                high = greatest_of_bits::join(high, word & 0x7fffffffu);
                low = greatest_of_bits::join(low, word << 16 & 0x7fff0000u);
            }
    }
    unsigned most = block_reduce<greatest_of_bits>(greatest_of_bits::join(high & 0x7fff0000u, low), between, 0u);
    if (threadIdx.x == 0)
        atomicMax(&scales->greatest[second], most);
}

static struct values values_of(const struct cuda *cuda, const struct float8_matrix *m, const void *x)
{
    int64_t packs = m->rows * m->columns / PACK<bf16>, most = static_cast<int64_t>(cuda->processors) * BLOCKS_OF_PROCESSOR;
    return {static_cast<const bf16 *>(x), packs, static_cast<unsigned>(least(blocks_of(packs, GREATEST_THREADS * GREATEST_EACH), most))};
}

/* ---- copies ---- */

template <enum float8 TYPE> struct format; /* the largest finite number: 1.75 * 2^power */
template <> struct format<FLOAT8_E4M3> {
    static constexpr int power = 8;
    static __device__ __forceinline__ uint32_t pack_two(float first, float second) { return pack_e4m3(first, second); }
};
template <> struct format<FLOAT8_E5M2> {
    static constexpr int power = 15;
    static __device__ __forceinline__ uint32_t pack_two(float first, float second) { return pack_e5m2(first, second); }
};

/* float8_scale's power of two, by way of the bits of a float: 8 of exponent above 23 of fraction. */
template <enum float8 TYPE> __device__ __forceinline__ int scale_power(unsigned greatest)
{
    constexpr unsigned MOST_FRACTION = 0x600000, FRACTION = 0x7fffff; /* that of 1.75; all of it */
    int power = format<TYPE>::power - (static_cast<int>(greatest >> 23) - 127) - ((greatest & FRACTION) > MOST_FRACTION ? 1 : 0);
    return greatest == 0 ? 0 : power < FLOAT8_SCALE_MOST ? power : FLOAT8_SCALE_MOST;
}

/* By what the operand is multiplied; the grid's first thread tells the inverse. */
template <enum float8 TYPE> __device__ __forceinline__ float take_scale(struct scales *scales, int operand)
{
    constexpr unsigned INFINITE = 0x7f800000, NOT_A_NUMBER = 0x7fffffff;
    unsigned greatest = scales->greatest[operand];
    int power = scale_power<TYPE>(greatest);
    bool finite = greatest < INFINITE;
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0)
        scales->inverse[operand] = __uint_as_float(finite ? static_cast<unsigned>(127 - power) << 23 : NOT_A_NUMBER);
    return __uint_as_float(finite ? static_cast<unsigned>(127 + power) << 23 : NOT_A_NUMBER);
}

template <enum float8 TYPE> __device__ __forceinline__ uint32_t pack_four(float a, float b, float c, float d)
{
    return format<TYPE>::pack_two(a, b) | format<TYPE>::pack_two(c, d) << 16;
}

static constexpr int COPY_THREADS = 256, COPY_EACH = 2, STORE = 16; /* STORE: elements of a thread's store */

/* As the matrix lies. RUNS: how many times STORE elements. */
template <enum float8 TYPE>
static __global__ void __launch_bounds__(COPY_THREADS) convert_plain(uint4 *to, const bf16 *from, int64_t runs, struct scales *scales, int operand)
{
    constexpr int N = PACK<bf16>;
    int64_t first = static_cast<int64_t>(blockIdx.x) * (COPY_THREADS * COPY_EACH) + threadIdx.x;
    float scale = take_scale<TYPE>(scales, operand);
    pack<bf16, N> x[COPY_EACH][2] = {};
#pragma unroll
    for (int i = 0; i < COPY_EACH; i++)
        if (first + i * COPY_THREADS < runs)
#pragma unroll
            for (int half = 0; half < 2; half++)
                x[i][half] = load_pack<N>(from + (first + i * COPY_THREADS) * STORE + half * N);
#pragma unroll
    for (int i = 0; i < COPY_EACH; i++) {
        uint32_t w[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const pack<bf16, N> &of = x[i][j / 2];
            int at = j % 2 * 4;
            w[j] = pack_four<TYPE>(of.at(at) * scale, of.at(at + 1) * scale, of.at(at + 2) * scale, of.at(at + 3) * scale);
        }
        if (first + i * COPY_THREADS < runs)
            to[first + i * COPY_THREADS] = make_uint4(w[0], w[1], w[2], w[3]);
    }
}

/* A warp's part is 8 times STORE rows by 4 packs of columns: what its lanes load at once are runs of 64 bytes, what they store runs of 128.
 * TURN_BLOCKS of a processor leave a thread the registers that all its loads take. */
static constexpr int TURN_WARPS = 4, TURN_THREADS = TURN_WARPS * WARP, TURN_BLOCKS = 4;
static constexpr int LANES_DOWN = 8, LANES_ACROSS = WARP / LANES_DOWN, TURN_ROWS = LANES_DOWN * STORE;

/* Transposed, and BOTH: as the matrix lies too, in PLAIN. A thread takes STORE rows of one pack, and so has what it stores of each column:
 * nothing goes through shared memory. */
template <enum float8 TYPE, bool BOTH>
static __global__ void __launch_bounds__(TURN_THREADS, TURN_BLOCKS)
    convert_transposed(unsigned char *to, unsigned char *plain, const bf16 *from, int64_t rows, int64_t columns, struct scales *scales, int operand)
{
    constexpr int N = PACK<bf16>;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int64_t column = ((static_cast<int64_t>(blockIdx.x) * TURN_WARPS + warp) * LANES_ACROSS + lane % LANES_ACROSS) * N;
    int64_t row = static_cast<int64_t>(blockIdx.y) * TURN_ROWS + lane / LANES_ACROSS * STORE;
    float scale = take_scale<TYPE>(scales, operand);
    if (row >= rows || column >= columns)
        return;
    pack<bf16, N> x[STORE];
#pragma unroll
    for (int i = 0; i < STORE; i++)
        x[i] = load_pack<N>(from + (row + i) * columns + column);
#pragma unroll
    for (int j = 0; j < N; j++) {
        uint32_t w[STORE / 4];
#pragma unroll
        for (int i = 0; i < STORE / 4; i++)
            w[i] = pack_four<TYPE>(x[4 * i].at(j) * scale, x[4 * i + 1].at(j) * scale, x[4 * i + 2].at(j) * scale, x[4 * i + 3].at(j) * scale);
        *reinterpret_cast<uint4 *>(to + (column + j) * rows + row) = make_uint4(w[0], w[1], w[2], w[3]);
    }
#pragma unroll
    for (int i = 0; BOTH && i < STORE; i++) {
        const pack<bf16, N> &of = x[i];
        *reinterpret_cast<uint2 *>(plain + (row + i) * columns + column) =
            make_uint2(pack_four<TYPE>(of.at(0) * scale, of.at(1) * scale, of.at(2) * scale, of.at(3) * scale),
                       pack_four<TYPE>(of.at(4) * scale, of.at(5) * scale, of.at(6) * scale, of.at(7) * scale));
    }
}

/* TURNED: NULL, or where the transposed copy goes besides. */
template <enum float8 TYPE>
static void start_convert(struct cuda *cuda, const struct float8_matrix *m, unsigned char *to, unsigned char *turned, const void *from_, int operand)
{
    static const char what[] = "a copy in float8";
    const bf16 *from = static_cast<const bf16 *>(from_);
    struct scales *scales = cuda->float8->scales;
    int64_t runs = m->rows * m->columns / STORE;
    dim3 parts(blocks_of(m->columns, TURN_WARPS * LANES_ACROSS * PACK<bf16>), blocks_of(m->rows, TURN_ROWS));
    if (turned != nullptr)
        launch(cuda, "copies in float8", convert_transposed<TYPE, true>, parts, dim3(TURN_THREADS), 0, turned, to, from, m->rows, m->columns, scales,
               operand);
    else if (m->transpose)
        launch(cuda, what, convert_transposed<TYPE, false>, parts, dim3(TURN_THREADS), 0, to, nullptr, from, m->rows, m->columns, scales, operand);
    else
        launch(cuda, what, convert_plain<TYPE>, dim3(blocks_of(runs, COPY_THREADS * COPY_EACH)), dim3(COPY_THREADS), 0,
               reinterpret_cast<uint4 *>(to), from, runs, scales, operand);
}

/* ---- for products ---- */

static size_t copy_bytes(const struct float8_matrix *m)
{
    return (static_cast<size_t>(m->rows * m->columns) + COPY_ALIGNMENT - 1) / COPY_ALIGNMENT * COPY_ALIGNMENT;
}

/* P holds BYTES, or more already. */
static cairn_err grow(struct cuda *cuda, unsigned char **p, size_t *has, size_t bytes)
{
    if (bytes <= *has)
        return CAIRN_OK;
    void *larger = memory_alloc(&cuda->base, bytes);
    if (larger == nullptr)
        return FAIL(CAIRN_ENOMEM, "no memory for %zu bytes of operands in float8", bytes);
    memory_free(&cuda->base, *p, *has);
    *p = static_cast<unsigned char *>(larger);
    *has = bytes;
    return CAIRN_OK;
}

cairn_err float8_reserve(struct cuda *cuda, const struct float8_pair *pair)
{
    if (cuda->float8 == nullptr)
        cuda->float8 = static_cast<struct float8_room *>(calloc(1, sizeof *cuda->float8));
    struct float8_room *room = cuda->float8;
    if (room != nullptr && room->scales == nullptr)
        room->scales = static_cast<struct scales *>(memory_alloc(&cuda->base, sizeof *room->scales));
    if (room == nullptr || room->scales == nullptr)
        return FAIL(CAIRN_ENOMEM, "no memory for scales of float8");
    room->kept_from = nullptr;
    TRY(grow(cuda, &room->copies, &room->bytes, copy_bytes(&pair->of[0]) + copy_bytes(&pair->of[1])));
    return pair->keeps_a ? grow(cuda, &room->kept, &room->kept_bytes, copy_bytes(&pair->of[0])) : CAIRN_OK;
}

void float8_close(struct cuda *cuda)
{
    struct float8_room *room = cuda->float8;
    if (room == nullptr)
        return;
    memory_free(&cuda->base, room->copies, room->bytes);
    memory_free(&cuda->base, room->kept, room->kept_bytes);
    memory_free(&cuda->base, room->scales, sizeof *room->scales);
    free(room);
    cuda->float8 = nullptr;
}

const float *float8_inverse(const struct cuda *cuda, int operand)
{
    return &cuda->float8->scales->inverse[operand];
}

/* Whether the last product left the copy of A. */
static bool is_kept(const struct float8_room *room, const struct float8_pair *pair, const void *a)
{
    const struct float8_matrix *kept = &room->kept_matrix, *m = &pair->of[0];
    return pair->a_is_kept && room->kept_from == a && kept->type == m->type && kept->rows == m->rows && kept->columns == m->columns;
}

/* Of what is not kept. */
static void start_find_greatest(struct cuda *cuda, const struct float8_pair *pair, const void *a, const void *b, bool kept)
{
    struct scales *scales = cuda->float8->scales;
    const struct values of_a = kept ? (struct values){} : values_of(cuda, &pair->of[0], a), of_b = values_of(cuda, &pair->of[1], b);
    unsigned *first = &scales->greatest[kept ? 1 : 0];
    cuda->base.table->zero(&cuda->base, first, kept ? sizeof *first : sizeof scales->greatest);
    launch(cuda, "the greatest of operands", find_greatest, dim3(of_a.blocks + of_b.blocks), dim3(GREATEST_THREADS), 0, of_a, of_b, scales);
}

struct float8_copies float8_convert(struct cuda *cuda, const struct float8_pair *pair, const void *a, const void *b)
{
    struct float8_room *room = cuda->float8;
    bool kept = is_kept(room, pair, a);
    unsigned char *to[2] = {kept ? room->kept : room->copies, room->copies + copy_bytes(&pair->of[0])};
    const void *from[2] = {a, b};
    room->kept_from = pair->keeps_a ? a : nullptr;
    room->kept_matrix = pair->of[0];
    start_find_greatest(cuda, pair, a, b, kept);
    for (int i = kept; i < 2; i++) {
        unsigned char *turned = i == 0 && pair->keeps_a ? room->kept : nullptr;
        if (pair->of[i].type == FLOAT8_E4M3)
            start_convert<FLOAT8_E4M3>(cuda, &pair->of[i], to[i], turned, from[i], i);
        else
            start_convert<FLOAT8_E5M2>(cuda, &pair->of[i], to[i], turned, from[i], i);
    }
    return {{to[0], to[1]}};
}
