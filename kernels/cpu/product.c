#include "kernels/cpu/product.h"

#include <stdlib.h>

/* What all plans of a backend share, as large as the largest needs: products run one after the other. */
struct product_workspace {
    float *wide;      /* operands and results converted to float32 */
    size_t wide_bytes;
    void *scratch;    /* oneDNN's */
    size_t scratch_bytes;
};

enum { ARGUMENTS_MAX = 5 };

struct matmul {
    struct cpu *cpu;
    struct product_desc given, desc; /* as the caller has it, as oneDNN gets it */
    bool by_sgemm; /* float32 without bias: oneDNN's BLAS call instead of its primitive */
    bool widened;  /* bfloat16 by float32 products */
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c, bias, scratch;
    dnnl_exec_arg_t arguments[ARGUMENTS_MAX];
    int argument_count;
};

cairn_err product_workspace_create(struct cpu *cpu)
{
    cpu->workspace = calloc(1, sizeof *cpu->workspace);
    return cpu->workspace != NULL ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the products' workspace");
}

void product_workspace_destroy(struct cpu *cpu)
{
    if (cpu->workspace == NULL)
        return;
    memory_free(&cpu->base, cpu->workspace->wide, cpu->workspace->wide_bytes);
    memory_free(&cpu->base, cpu->workspace->scratch, cpu->workspace->scratch_bytes);
    free(cpu->workspace);
}

/* Makes *P at least BYTES large. */
static cairn_err grow(struct cpu *cpu, void **p, size_t *size, size_t bytes)
{
    if (bytes <= *size)
        return CAIRN_OK;
    void *larger = memory_alloc(&cpu->base, bytes);
    if (larger == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for a product's workspace of %zu bytes", bytes);
    memory_free(&cpu->base, *p, *size);
    *p = larger;
    *size = bytes;
    return CAIRN_OK;
}

/* Rows of a, b and c as they are stored, and how long they are. */
struct extent {
    int64_t rows, columns;
};

static struct extent extent_a(const struct matmul_desc *d)
{
    return d->transpose_a ? (struct extent){d->k, d->m} : (struct extent){d->m, d->k};
}

static struct extent extent_b(const struct matmul_desc *d)
{
    return d->transpose_b ? (struct extent){d->n, d->k} : (struct extent){d->k, d->n};
}

static dnnl_data_type_t act_type(const struct matmul *p)
{
    return p->cpu->half && !p->widened ? dnnl_bf16 : dnnl_f32;
}

/* A rows x columns matrix whose element (i, j) is at i * LD + j, or at j * LD + i if it is stored transposed. */
static cairn_err make_memory(struct matmul *p, dnnl_memory_t *memory, dnnl_memory_desc_t *desc, int64_t rows, int64_t columns,
                             int64_t ld, bool transposed, dnnl_data_type_t type, int argument)
{
    dnnl_dims_t dims = {rows, columns}, strides = {transposed ? 1 : ld, transposed ? ld : 1};
    TRY(cpu_check_dnnl(dnnl_memory_desc_init_by_strides(desc, 2, dims, type, strides), "describe a matrix"));
    TRY(cpu_check_dnnl(dnnl_memory_create(memory, desc, p->cpu->engine, DNNL_MEMORY_NONE), "hold a matrix"));
    p->arguments[p->argument_count++] = (dnnl_exec_arg_t){argument, *memory};
    return CAIRN_OK;
}

static cairn_err make_scratch(struct matmul *p, const_dnnl_primitive_desc_t primitive_desc)
{
    const dnnl_memory_desc_t *desc = dnnl_primitive_desc_query_md(primitive_desc, dnnl_query_scratchpad_md, 0);
    size_t bytes = dnnl_memory_desc_get_size(desc);
    struct product_workspace *w = p->cpu->workspace;
    TRY(grow(p->cpu, &w->scratch, &w->scratch_bytes, bytes));
    TRY(cpu_check_dnnl(dnnl_memory_create(&p->scratch, desc, p->cpu->engine, DNNL_MEMORY_NONE), "hold a product's workspace"));
    p->arguments[p->argument_count++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, p->scratch};
    return CAIRN_OK;
}

static cairn_err make_attributes(const struct matmul_desc *d, dnnl_primitive_attr_t *attributes)
{
    dnnl_post_ops_t post_ops = NULL;
    TRY(cpu_check_dnnl(dnnl_primitive_attr_create(attributes), "make attributes"));
    TRY(cpu_check_dnnl(dnnl_primitive_attr_set_scratchpad_mode(*attributes, dnnl_scratchpad_mode_user), "set a workspace's mode"));
    if (!d->accumulate)
        return CAIRN_OK;
    TRY(cpu_check_dnnl(dnnl_post_ops_create(&post_ops), "make post-operations"));
    dnnl_status_t status = dnnl_post_ops_append_sum(post_ops, 1.0f);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_post_ops(*attributes, post_ops);
    dnnl_post_ops_destroy(post_ops);
    return cpu_check_dnnl(status, "add to a product");
}

static cairn_err make_primitive(struct matmul *p)
{
    const struct matmul_desc *d = &p->desc.matmul;
    dnnl_memory_desc_t a, b, c, bias;
    dnnl_data_type_t c_type = d->c_is_acc ? dnnl_f32 : act_type(p);
    TRY(make_memory(p, &p->a, &a, d->m, d->k, p->desc.lda, d->transpose_a, act_type(p), DNNL_ARG_SRC));
    TRY(make_memory(p, &p->b, &b, d->k, d->n, p->desc.ldb, d->transpose_b, act_type(p), DNNL_ARG_WEIGHTS));
    TRY(make_memory(p, &p->c, &c, d->m, d->n, p->desc.ldc, false, c_type, DNNL_ARG_DST));
    if (d->bias)
        TRY(make_memory(p, &p->bias, &bias, 1, d->n, d->n, false, act_type(p), DNNL_ARG_BIAS));
    dnnl_matmul_desc_t matmul;
    TRY(cpu_check_dnnl(dnnl_matmul_desc_init(&matmul, &a, &b, d->bias ? &bias : NULL, &c), "describe a product"));
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_primitive_desc_t primitive_desc = NULL;
    cairn_err err;
    TRY_GOTO(err, make_attributes(d, &attributes), done);
    TRY_GOTO(err, cpu_check_dnnl(dnnl_primitive_desc_create(&primitive_desc, &matmul, attributes, p->cpu->engine, NULL),
                                 "plan a product"), done);
    TRY_GOTO(err, cpu_check_dnnl(dnnl_primitive_create(&p->primitive, primitive_desc), "make a product"), done);
    TRY_GOTO(err, make_scratch(p, primitive_desc), done);
done:
    if (primitive_desc != NULL)
        dnnl_primitive_desc_destroy(primitive_desc);
    if (attributes != NULL)
        dnnl_primitive_attr_destroy(attributes);
    return err;
}

/* Converted matrices are dense: their rows lie close together in the workspace, a, b, c, then bias. */
static cairn_err make_widened(struct matmul *p)
{
    const struct matmul_desc *d = &p->desc.matmul;
    p->desc.lda = extent_a(d).columns;
    p->desc.ldb = extent_b(d).columns;
    if (!d->c_is_acc)
        p->desc.ldc = d->n;
    struct product_workspace *w = p->cpu->workspace;
    int64_t elements = d->m * d->k + d->k * d->n + d->m * d->n + d->n;
    return grow(p->cpu, (void **)&w->wide, &w->wide_bytes, (size_t)elements * sizeof(float));
}

cairn_err product_create(struct cpu *cpu, const struct product_desc *desc, struct matmul **matmul)
{
    *matmul = NULL;
    struct matmul *p = calloc(1, sizeof *p);
    if (p == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for a product's plan");
    p->cpu = cpu;
    p->given = p->desc = *desc;
    /* With AMX oneDNN 2.6 meets an illegal instruction in some products of odd depth (130 x 31 of depth 63 is one). */
    p->widened = cpu->half && (cpu->widen || (cpu->tiles && desc->matmul.k % 2 != 0));
    p->by_sgemm = !desc->matmul.bias && (!cpu->half || p->widened);
    cairn_err err = CAIRN_OK;
    if (p->widened)
        TRY_GOTO(err, make_widened(p), failed);
    if (!p->by_sgemm)
        TRY_GOTO(err, make_primitive(p), failed);
    *matmul = p;
    return CAIRN_OK;
failed:
    product_destroy(p);
    return error_context(err, "product [%lld, %lld, %lld]", (long long)desc->matmul.m, (long long)desc->matmul.n,
                         (long long)desc->matmul.k);
}

void product_destroy(struct matmul *p)
{
    if (p == NULL)
        return;
    dnnl_memory_t memories[] = {p->a, p->b, p->c, p->bias, p->scratch};
    for (size_t i = 0; i < sizeof memories / sizeof *memories; i++)
        if (memories[i] != NULL)
            dnnl_memory_destroy(memories[i]);
    if (p->primitive != NULL)
        dnnl_primitive_destroy(p->primitive);
    free(p);
}

/* Plans were checked when they were made: execution has no way to fail that a caller could mend. */
static void run_plain(struct matmul *p, void *c, const void *a, const void *b, const void *bias)
{
    const struct matmul_desc *d = &p->desc.matmul;
    if (p->by_sgemm) {
        dnnl_sgemm(d->transpose_a ? 'T' : 'N', d->transpose_b ? 'T' : 'N', d->m, d->n, d->k, 1.0f, a, p->desc.lda, b, p->desc.ldb,
                   d->accumulate ? 1.0f : 0.0f, c, p->desc.ldc);
        return;
    }
    dnnl_memory_set_data_handle(p->a, (void *)a);
    dnnl_memory_set_data_handle(p->b, (void *)b);
    dnnl_memory_set_data_handle(p->c, c);
    if (p->bias != NULL)
        dnnl_memory_set_data_handle(p->bias, (void *)bias);
    dnnl_memory_set_data_handle(p->scratch, p->cpu->workspace->scratch);
    dnnl_primitive_execute(p->primitive, p->cpu->stream, p->argument_count, p->arguments);
}

/* Rows of COLUMNS elements, LD apart, to rows close together. */
static void widen(struct cpu *cpu, float *to, const void *from, struct extent e, int64_t ld)
{
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t r = 0; r < e.rows; r++)
        cpu->act->to_float(to + r * e.columns, cpu_at(cpu, from, r * ld), e.columns);
}

static void run_widened(struct matmul *p, void *c, const void *a, const void *b, const void *bias)
{
    struct cpu *cpu = p->cpu;
    const struct product_desc *given = &p->given;
    const struct matmul_desc *d = &p->desc.matmul;
    float *wide_a = cpu->workspace->wide, *wide_b = wide_a + d->m * d->k, *wide_c = wide_b + d->k * d->n;
    float *wide_bias = wide_c + d->m * d->n;
    widen(cpu, wide_a, a, extent_a(d), given->lda);
    widen(cpu, wide_b, b, extent_b(d), given->ldb);
    if (d->bias)
        cpu->act->to_float(wide_bias, bias, d->n);
    if (d->c_is_acc) {
        run_plain(p, c, wide_a, wide_b, wide_bias);
        return;
    }
    if (d->accumulate)
        widen(cpu, wide_c, c, (struct extent){d->m, d->n}, given->ldc);
    run_plain(p, wide_c, wide_a, wide_b, wide_bias);
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t r = 0; r < d->m; r++)
        cpu->act->from_float(cpu_at_mutable(cpu, c, r * given->ldc), wide_c + r * d->n, d->n);
}

void product_run(struct matmul *p, void *c, const void *a, const void *b, const void *bias)
{
    if (p->widened)
        run_widened(p, c, a, b, bias);
    else
        run_plain(p, c, a, b, bias);
}

static cairn_err matmul_create(struct backend *b, const struct matmul_desc *d, struct matmul **matmul)
{
    *matmul = NULL;
    if (d->float8_a != FLOAT8_NONE)
        return FAIL(CAIRN_EUNSUPPORTED, "the cpu backend multiplies nothing in float8");
    struct product_desc desc = {.matmul = *d, .lda = extent_a(d).columns, .ldb = extent_b(d).columns, .ldc = d->n};
    return product_create(cpu_of(b), &desc, matmul);
}

static void matmul_run_gelu(struct matmul *p, void *c, void *inner, const void *a, const void *b, const void *bias)
{
    const struct matmul_desc *d = &p->given.matmul;
    struct backend *backend = &p->cpu->base;
    bool forward = d->gelu == MATMUL_GELU;
    product_run(p, forward ? inner : c, a, b, bias);
    if (forward)
        backend->table->gelu_forward(backend, c, inner, d->m * d->n);
    else
        backend->table->gelu_backward(backend, c, c, inner, d->m * d->n);
}

void product_fill(struct backend_table *table)
{
    table->matmul_create = matmul_create;
    table->matmul_run_gelu = matmul_run_gelu;
    table->matmul_run = product_run;
    table->matmul_destroy = product_destroy;
}
