#include "kernels/cpu/loops/lanes.h"
#include "kernels/cpu/loops/parts.h"

INLINE void pack(float *packed, int64_t padded, const void *x, int64_t stride, int64_t rows, int64_t size, bool half)
{
    for (int64_t r = 0; r < rows; r++) {
        const void *row = act_at(x, r * stride, half);
        for (int64_t i = 0; i < padded; i += LANES)
            lanes_store(packed + r * padded, i, i < size ? lanes_load_to(row, i, size, half, 0) : lanes_of(0), false);
    }
}

/* Sixteen rows at once, so that each cache line is written once. */
INLINE void pack_transposed(float *packed, int64_t padded, const void *x, int64_t stride, int64_t rows, int64_t size, bool half)
{
    for (int64_t r = 0; r < padded; r += LANES) {
        for (int64_t i = 0; i < size; i += LANES) {
            float block[LANES][LANES];
            for (int64_t s = 0; s < LANES; s++) {
                lanes v = {0};
                if (r + s < rows)
                    v = lanes_load_to(act_at(x, (r + s) * stride, half), i, size, half, 0);
                memcpy(block[s], &v, sizeof v);
            }
            for (int64_t l = 0; l < LANES && i + l < size; l++)
                for (int64_t s = 0; s < LANES; s++)
                    packed[(i + l) * padded + r + s] = block[s][l];
        }
    }
}

INLINE void unpack(void *x, int64_t stride, const float *packed, int64_t padded, int64_t rows, int64_t size, bool half)
{
    for (int64_t r = 0; r < rows; r++) {
        void *row = act_at_mutable(x, r * stride, half);
        for (int64_t i = 0; i < size; i += LANES)
            lanes_store_to(row, i, size, lanes_load(packed + r * padded, i, false), half);
    }
}

/* The loops for one type of act. */
#define FOR_ACT(type, half) \
    static void pack_##type(float *packed, int64_t padded, const void *x, int64_t stride, int64_t rows, int64_t size) \
    { \
        pack(packed, padded, x, stride, rows, size, half); \
    } \
    static void pack_transposed_##type(float *packed, int64_t padded, const void *x, int64_t stride, int64_t rows, int64_t size) \
    { \
        pack_transposed(packed, padded, x, stride, rows, size, half); \
    } \
    static void unpack_##type(void *x, int64_t stride, const float *packed, int64_t padded, int64_t rows, int64_t size) \
    { \
        unpack(x, stride, packed, padded, rows, size, half); \
    } \
    static void fill_##type(struct act_loops *act) \
    { \
        act->pack = pack_##type; \
        act->pack_transposed = pack_transposed_##type; \
        act->unpack = unpack_##type; \
    }

FOR_ACT(f32, false)
FOR_ACT(bf16, true)

void PART(pack)(struct cpu_loops *loops)
{
    fill_f32(&loops->act[0]);
    fill_bf16(&loops->act[1]);
}
