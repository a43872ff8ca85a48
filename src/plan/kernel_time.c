#include "plan/kernel_time.h"

#include <math.h>

/* Tiles that libraries choose among, and their rate beside the largest's: smaller tiles read operands more often from the cache.
 * 256 x 128 is the most that fits a processor's registers; cuBLAS's guide names these sizes (NVIDIA, Matrix Multiplication Background
 * User's Guide, "Dimension Quantization Effects"). */
static const struct {
    double rows, columns, rate;
} tiles[] = {{256, 128, 1}, {128, 256, 1}, {128, 128, 0.95}, {128, 64, 0.8}, {64, 128, 0.8}, {64, 64, 0.65}};

enum { TILE_COUNT = sizeof tiles / sizeof tiles[0] };

/* A tile's first loads from memory and its last stores, during which its processor multiplies nothing: two trips to memory at
 * some 600 ns each (latencies of this order in Jia et al., arXiv 1804.06826). */
static const double tile_fill_seconds = 1.2e-6;

/* Fused attention over short contexts computes whole squares on the diagonal and starts and ends each row of tiles: half the
 * plateau at this many keys. From FlashAttention-2's curves (Dao, arXiv 2307.08691, figures 4 to 6: causal, 512 to 16 k). */
static const double attention_half_context = 500;
static const double attention_half_head = 24; /* the same curves at head sizes 64 and 128 */

static double peak(const struct hardware_gpu *gpu, enum plan_type type)
{
    return gpu->tflops[type] * 1e12;
}

/* The computing side with tiles of kind T and k divided among SPLIT tiles. */
static double waves_seconds(const struct hardware_gpu *gpu, enum plan_type type, const struct product_shape *s, int t, double split)
{
    double rate = peak(gpu, type) * gpu->matmul_efficiency / gpu->processors;
    double count = ceil(s->m / tiles[t].rows) * ceil(s->n / tiles[t].columns) * s->count * split;
    double one = 2 * tiles[t].rows * tiles[t].columns * s->k / split / (rate * tiles[t].rate);
    return ceil(count / gpu->processors) * (one + tile_fill_seconds);
}

double kernel_product_seconds(const struct hardware_gpu *gpu, enum plan_type type, const struct product_shape *s)
{
    double best = INFINITY;
    for (int t = 0; t < TILE_COUNT; t++)
        for (double split = 1; split <= 8 && s->k / split >= 256; split *= 2) {
            /* parts of a divided k are added up in memory in float32 */
            double join = split > 1 ? kernel_stream_seconds(gpu, 8 * s->m * s->n * s->count, 1) : 0;
            best = fmin(best, waves_seconds(gpu, type, s, t, split) + join);
        }
    if (s->k < 256) /* too short to divide */
        for (int t = 0; t < TILE_COUNT; t++)
            best = fmin(best, waves_seconds(gpu, type, s, t, 1));
    double operands = (s->m * s->k + s->k * s->n) * plan_type_size(type), results = s->m * s->n * s->result_bytes * (s->adds ? 2 : 1);
    return fmax(best + gpu->kernel_us * 1e-6, kernel_stream_seconds(gpu, s->count * (operands + results), 1));
}

double kernel_stream_seconds(const struct hardware_gpu *gpu, double bytes, double launches)
{
    return bytes / (gpu->memory_gb_s * 1e9 * gpu->memory_efficiency) + launches * gpu->kernel_us * 1e-6;
}

static double flash_efficiency(const struct hardware_gpu *gpu, int generation)
{
    while (generation > 1 && gpu->flash_efficiency[generation - 1] <= 0)
        generation--;
    return gpu->flash_efficiency[generation - 1];
}

/* The PRODUCTS products of attention, 2 * rows * context * width operations each, of which causality leaves half. */
static double attention_seconds(const struct hardware_gpu *gpu, enum plan_type type, const struct attention_shape *s, double products,
                                double vectors)
{
    double operations = products * s->rows * s->context * s->width;
    double head = s->head_size / (s->head_size + attention_half_head) * (128 + attention_half_head) / 128;
    double rate = peak(gpu, type) * flash_efficiency(gpu, s->flash) * fmin(head, 1) * s->context / (s->context + attention_half_context);
    return fmax(operations / rate + gpu->kernel_us * 1e-6, kernel_stream_seconds(gpu, vectors * s->rows * s->width * plan_type_size(type), 1));
}

double kernel_attention_forward(const struct hardware_gpu *gpu, enum plan_type type, const struct attention_shape *s)
{
    return attention_seconds(gpu, type, s, 2, 4); /* q k^T, p v; reads q, k, v, writes the output */
}

double kernel_attention_backward(const struct hardware_gpu *gpu, enum plan_type type, const struct attention_shape *s)
{
    return attention_seconds(gpu, type, s, 5, 8); /* the scores again, then the gradients of p, q, k and v */
}
