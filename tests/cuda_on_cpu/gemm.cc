#include "gemm.h"

#include "intrinsics.h"

#include <vector>

extern "C" {
#include "kernels/float8.h"
}

namespace cuda_on_cpu {

/* A tile of the result. */
static constexpr int64_t PANEL_M = 16, PANEL_N = 4;

typedef float lanes16 __attribute__((vector_size(PANEL_M * sizeof(float))));

struct float8_values {
    float of[2][256];
    float8_values()
    {
        for (int bits = 0; bits < 256; bits++) {
            of[0][bits] = static_cast<float>(float8_to(FLOAT8_E4M3, static_cast<uint8_t>(bits)));
            of[1][bits] = static_cast<float>(float8_to(FLOAT8_E5M2, static_cast<uint8_t>(bits)));
        }
    }
};
static const float8_values decoded;

static float value(const operand &o, int64_t i, int64_t j)
{
    int64_t at = i * o.row + j * o.column;
    switch (o.type) {
    case element::BFLOAT16: return __uint_as_float(static_cast<unsigned>(static_cast<const unsigned short *>(o.at)[at]) << 16);
    case element::E4M3: return decoded.of[0][static_cast<const unsigned char *>(o.at)[at]];
    case element::E5M2: return decoded.of[1][static_cast<const unsigned char *>(o.at)[at]];
    case element::TF32: return __uint_as_float((__float_as_uint(static_cast<const float *>(o.at)[at]) + 0x1000) & 0xffffe000u);
    case element::FLOAT32: break;
    }
    return static_cast<const float *>(o.at)[at];
}

/* Rows [0, M) of columns [FIRST, FIRST + K) in panels of PANEL_M rows, each column by column; zeros beyond M. */
static void pack_left(float *to, const operand &a, int64_t m, int64_t first, int64_t k)
{
    for (int64_t i = 0; i < m; i += PANEL_M, to += PANEL_M * k)
        for (int lane = 0; lane < PANEL_M; lane++)
            for (int64_t j = 0; j < k; j++)
                to[j * PANEL_M + lane] = i + lane < m ? value(a, i + lane, first + j) : 0.0f;
}

static void pack_right(float *to, const operand &b, int64_t n, int64_t first, int64_t k)
{
    for (int64_t j = 0; j < n; j += PANEL_N, to += PANEL_N * k)
        for (int lane = 0; lane < PANEL_N; lane++)
            for (int64_t i = 0; i < k; i++)
                to[i * PANEL_N + lane] = j + lane < n ? value(b, first + i, j + lane) : 0.0f;
}

/* sums[PANEL_N][PANEL_M] = the product of two panels */
__attribute__((target_clones("default", "arch=haswell", "arch=skylake-avx512"), optimize("O3")))
void multiply_panels(float *sums, const float *a, const float *b, int64_t k)
{
    lanes16 sum[PANEL_N] = {};
    for (int64_t i = 0; i < k; i++) {
        lanes16 left;
        __builtin_memcpy(&left, a + i * PANEL_M, sizeof left);
        for (int j = 0; j < PANEL_N; j++)
            sum[j] += left * b[i * PANEL_N + j];
    }
    __builtin_memcpy(sums, sum, sizeof sum);
}

static void add_block(float *r, const float *a, const float *b, int64_t m, int64_t n, int64_t k)
{
    for (int64_t j = 0; j < n; j += PANEL_N, b += PANEL_N * k) {
        const float *panel = a;
        int columns = static_cast<int>(n - j < PANEL_N ? n - j : PANEL_N);
        for (int64_t i = 0; i < m; i += PANEL_M, panel += PANEL_M * k) {
            alignas(64) float sums[PANEL_N][PANEL_M];
            int rows = static_cast<int>(m - i < PANEL_M ? m - i : PANEL_M);
            multiply_panels(sums[0], panel, b, k);
            for (int c = 0; c < columns; c++)
                for (int l = 0; l < rows; l++)
                    r[(j + c) * m + i + l] += sums[c][l];
        }
    }
}

void multiply(float *r, const operand &a, const operand &b, int64_t m, int64_t n, int64_t k, int64_t step)
{
    memset(r, 0, static_cast<size_t>(m * n) * sizeof *r);
    std::vector<float> left(static_cast<size_t>((m + PANEL_M - 1) / PANEL_M * PANEL_M * step));
    std::vector<float> right(static_cast<size_t>((n + PANEL_N - 1) / PANEL_N * PANEL_N * step));
    for (int64_t first = 0; first < k; first += step) {
        int64_t count = k - first < step ? k - first : step;
        pack_left(left.data(), a, m, first, count);
        pack_right(right.data(), b, n, first, count);
        add_block(r, left.data(), right.data(), m, n, count);
    }
}

} // namespace cuda_on_cpu
