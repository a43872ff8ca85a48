/* Small products in registers, for attention, whose products are too small for a library and run many at once. */
#include "kernels/cpu/loops/lanes.h"
#include "kernels/cpu/loops/parts.h"

/* The tile is in registers only if the loops over it are gone, at any level of optimisation. */
#define UNROLL _Pragma("GCC unroll 8")

/* The tile of c that is kept in registers: 24 of AVX-512's 32, or 8 of the 16 that there are of half that width. */
#ifdef __AVX512F__
enum { TILE_ROWS = 6, TILE_COLUMNS = 4 };
#else
enum { TILE_ROWS = 4, TILE_COLUMNS = 1 };
#endif

/* ROWS x 16 COLUMNS elements of c at (i, j). Constants, so that the loops over them unroll. */
INLINE void tile(const struct small_product *p, int64_t i, int64_t j, int rows, int columns, bool transposed)
{
    lanes sum[TILE_ROWS][TILE_COLUMNS];
    const float *a = p->a + (transposed ? i : i * p->a_row), *b = p->b + j;
    float *c = p->c + i * p->ldc + j;
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
        for (int v = 0; v < columns; v++)
            sum[r][v] = p->accumulate ? lanes_load(c + r * p->ldc, v * LANES, false) : lanes_of(0);
    for (int64_t l = 0; l < p->k; l++) {
        lanes row[TILE_COLUMNS];
        UNROLL
        for (int v = 0; v < columns; v++)
            row[v] = lanes_load(b + l * p->ldb, v * LANES, false);
        UNROLL
        for (int r = 0; r < rows; r++) {
            float x = transposed ? a[l * p->a_column + r] : a[r * p->a_row + l];
            UNROLL
            for (int v = 0; v < columns; v++)
                sum[r][v] += x * row[v];
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
        for (int v = 0; v < columns; v++)
            lanes_store(c + r * p->ldc, v * LANES, sum[r][v], false);
}

/* All rows of TILE_COLUMNS or of one column of lanes. */
INLINE void tiles_of_column(const struct small_product *p, int64_t j, int columns, bool transposed)
{
    int64_t i = 0;
    for (; i + TILE_ROWS <= p->m; i += TILE_ROWS)
        tile(p, i, j, TILE_ROWS, columns, transposed);
    for (; i + 2 <= p->m; i += 2)
        tile(p, i, j, 2, columns, transposed);
    for (; i < p->m; i++)
        tile(p, i, j, 1, columns, transposed);
}

INLINE void all_tiles(const struct small_product *p, bool transposed)
{
    int64_t j = 0;
    for (; j + TILE_COLUMNS * LANES <= p->n; j += TILE_COLUMNS * LANES)
        tiles_of_column(p, j, TILE_COLUMNS, transposed);
    for (; j < p->n; j += LANES)
        tiles_of_column(p, j, 1, transposed);
}

static void product(const struct small_product *p)
{
    if (p->a_column == 1)
        all_tiles(p, false);
    else
        all_tiles(p, true);
}

void PART(product)(struct cpu_loops *loops)
{
    loops->product = product;
}
