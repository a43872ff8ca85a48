#include "kernels/cpu/loops/lanes.h"
#include "kernels/cpu/loops/parts.h"

INLINE void weighted_sum(void *y, const struct weighted_row *rows, int64_t count, int64_t n, bool half)
{
    for (int64_t i = 0; i < n; i += LANES) {
        lanes sum = {0};
        for (int64_t c = 0; c < count; c++)
            sum += rows[c].weight * lanes_load_to(rows[c].x, i, n, half, 0);
        lanes_store_to(y, i, n, sum, half);
    }
}

INLINE float row_product(const void *a, const void *b, int64_t n, bool half)
{
    lanes sum = {0};
    for (int64_t i = 0; i < n; i += LANES)
        sum += lanes_load_to(a, i, n, half, 0) * lanes_load_to(b, i, n, half, 0);
    return lanes_sum(sum);
}

/* The loops for one type of act. */
#define FOR_ACT(type, half) \
    static void weighted_sum_##type(void *y, const struct weighted_row *rows, int64_t count, int64_t n) \
    { \
        weighted_sum(y, rows, count, n, half); \
    } \
    static float row_product_##type(const void *a, const void *b, int64_t n) \
    { \
        return row_product(a, b, n, half); \
    } \
    static void fill_##type(struct act_loops *act) \
    { \
        act->weighted_sum = weighted_sum_##type; \
        act->row_product = row_product_##type; \
    }

FOR_ACT(f32, false)
FOR_ACT(bf16, true)

void PART(experts)(struct cpu_loops *loops)
{
    fill_f32(&loops->act[0]);
    fill_bf16(&loops->act[1]);
}
