/* The cpu backend: float32 and bfloat16 on x86-64. Products by oneDNN, all else by own loops (loops.h) that are split
 * over OpenMP's threads in pieces which do not depend on how many threads there are. */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include <dnnl.h>

#include "kernels/backend.h"
#include "kernels/cpu/loops.h"

struct cpu {
    struct backend base; /* first: a struct backend * is a struct cpu * */
    struct cpu_loops loops;
    const struct act_loops *act; /* loops.act of the backend's act */
    bool half;                   /* act is bfloat16 */
    bool widen;                  /* bfloat16 products run faster on operands converted to float32 */
    bool tiles;                  /* oneDNN has AMX */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    struct product_workspace *workspace;
    char signature[128];
};

static inline struct cpu *cpu_of(struct backend *b)
{
    return (struct cpu *)b;
}

/* Element I of an array of act. */
static inline const void *cpu_at(const struct cpu *cpu, const void *p, int64_t i)
{
    return (const char *)p + i * (cpu->half ? 2 : 4);
}

static inline void *cpu_at_mutable(const struct cpu *cpu, void *p, int64_t i)
{
    return (char *)p + i * (cpu->half ? 2 : 4);
}

/* N rounded up to whole lanes, as rows of floats are padded that small products read or write. */
static inline int64_t cpu_pad(int64_t n)
{
    enum { PADDING = 16 };
    return (n + PADDING - 1) / PADDING * PADDING;
}

/* Fails with CAIRN_ELIBRARY unless STATUS is success; WHAT names what was tried. */
cairn_err cpu_check_dnnl(dnnl_status_t status, const char *what);

void *memory_alloc(struct backend *, size_t bytes);
void memory_free(struct backend *, void *, size_t bytes);

/* Each fills its entries of the table. */
void elementwise_fill(struct backend_table *);
void norm_fill(struct backend_table *);
void embedding_fill(struct backend_table *);
void product_fill(struct backend_table *);
void attention_fill(struct backend_table *);
void attention_pieces_fill(struct backend_table *);
void classifier_fill(struct backend_table *);
void experts_fill(struct backend_table *);

#endif
