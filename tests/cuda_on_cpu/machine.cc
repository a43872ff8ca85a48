#include "kernels/cuda/machine.h"

namespace cuda_on_cpu {

static float low(uint32_t two) { return __uint_as_float(two << 16); }
static float high(uint32_t two) { return __uint_as_float(two & 0xffff0000u); }

void join_multiply_add(void *const *given, unsigned)
{
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const fragments *f = static_cast<fragments *>(given[lane]);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) {
            float *to = &a[g + i % 2 * 8][2 * t + i / 2 * 8];
            to[0] = low(f->a[i]);
            to[1] = high(f->a[i]);
            c[g + i / 2 * 8][2 * t + i % 2] = f->c[i];
        }
        for (int i = 0; i < 2; i++) {
            b[2 * t + i * 8][g] = low(f->b[i]);
            b[2 * t + i * 8 + 1][g] = high(f->b[i]);
        }
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++)
                c[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            static_cast<fragments *>(given[lane])->c[i] = c[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
}

} // namespace cuda_on_cpu
