/* Products in plain memory, float32, columns one after the other. */
#ifndef CUDA_ON_CPU_GEMM_H
#define CUDA_ON_CPU_GEMM_H

#include <cstddef>
#include <cstdint>

#pragma GCC visibility push(hidden)
namespace cuda_on_cpu {

/* TF32: float32, rounded to 10 bits first. */
enum class element { FLOAT32, TF32, BFLOAT16, E4M3, E5M2 };

/* Element (i, j) is number i * row + j * column of AT. */
struct operand {
    const void *at;
    enum element type;
    int64_t row, column;
};

/* r[m,n] = a[m,k] b[k,n]; r's columns are m apart. Sums over each STEP of k are taken alone, then added up. */
void multiply(float *r, const operand &a, const operand &b, int64_t m, int64_t n, int64_t k, int64_t step);

} // namespace cuda_on_cpu
#pragma GCC visibility pop

#endif
