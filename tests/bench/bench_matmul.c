/* Which library multiplies fastest: oneDNN's matmul primitive, oneDNN's sgemm, OpenBLAS and BLIS, at the products of the
 * linear layers of two GPTs. Prints GFLOP/s, the best of some runs. The libraries of BLAS are opened where they are found.
 *
 *     usage: bench_matmul [THREADS [RUNS]]
 *
 * One thread's time is the processor time that it used, so that it can be measured on a busy machine too. */
#include <dlfcn.h>
#include <dnnl.h>
#include <omp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Of the CBLAS interface (www.netlib.org/blas/blast-forum/cblas.tgz). */
enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, TRANSPOSE = 112 };
typedef void cblas_sgemm_function(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int);

struct shape {
    const char *model, *layer;
    int rows, in, out;
};

/* 124M parameters at 4 x 64 tokens, and 6 layers of width 384 at 8 x 256; the last ones as the classifier takes them. */
static const struct shape shapes[] = {
    {"124M", "qkv", 256, 768, 2304},      {"124M", "attention out", 256, 768, 768}, {"124M", "mlp in", 256, 768, 3072},
    {"124M", "mlp out", 256, 3072, 768},  {"124M", "vocabulary", 256, 768, 50257},  {"124M", "its part", 256, 768, 2048},
    {"small", "qkv", 2048, 384, 1152},    {"small", "attention out", 2048, 384, 384}, {"small", "mlp in", 2048, 384, 1536},
    {"small", "mlp out", 2048, 1536, 384}, {"small", "its part", 512, 384, 2048},
};

/* c[m,n] = a'[m,k] b'[k,n] */
struct product {
    int m, n, k;
    bool transpose_a, transpose_b;
};

enum { FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, PRODUCTS };
static const char *const product_names[] = {"x w^T", "dy w", "dy^T x"};

static struct product product_of(const struct shape *s, int which)
{
    if (which == FORWARD)
        return (struct product){s->rows, s->out, s->in, false, true};
    if (which == INPUT_GRADIENT)
        return (struct product){s->rows, s->in, s->out, false, false};
    return (struct product){s->out, s->in, s->rows, true, false};
}

struct bench {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    cblas_sgemm_function *openblas, *blis;
    int runs;
    clockid_t clock;
    float *a, *b, *c;
};

static double now(const struct bench *bench)
{
    struct timespec t;
    clock_gettime(bench->clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static dnnl_memory_t matrix(struct bench *bench, dnnl_memory_desc_t *desc, int rows, int columns, bool transposed,
                            dnnl_data_type_t type, void *p)
{
    dnnl_dims_t dims = {rows, columns}, strides = {transposed ? 1 : columns, transposed ? rows : 1};
    dnnl_memory_t memory = NULL;
    dnnl_memory_desc_init_by_strides(desc, 2, dims, type, strides);
    dnnl_memory_create(&memory, desc, bench->engine, p);
    return memory;
}

static double best_primitive(struct bench *bench, const struct product *p, dnnl_data_type_t type, dnnl_data_type_t c_type)
{
    dnnl_memory_desc_t a, b, c;
    dnnl_exec_arg_t arguments[3] = {
        {DNNL_ARG_SRC, matrix(bench, &a, p->m, p->k, p->transpose_a, type, bench->a)},
        {DNNL_ARG_WEIGHTS, matrix(bench, &b, p->k, p->n, p->transpose_b, type, bench->b)},
        {DNNL_ARG_DST, matrix(bench, &c, p->m, p->n, false, c_type, bench->c)},
    };
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t primitive = NULL;
    double best = 0;
    dnnl_matmul_desc_init(&matmul, &a, &b, NULL, &c);
    if (dnnl_primitive_desc_create(&desc, &matmul, NULL, bench->engine, NULL) == dnnl_success &&
        dnnl_primitive_create(&primitive, desc) == dnnl_success) {
        best = 1e9;
        for (int i = 0; i < bench->runs + 2; i++) {
            double begin = now(bench);
            dnnl_primitive_execute(primitive, bench->stream, 3, arguments);
            double seconds = now(bench) - begin;
            best = i >= 2 && seconds < best ? seconds : best;
        }
    }
    if (primitive != NULL)
        dnnl_primitive_destroy(primitive);
    if (desc != NULL)
        dnnl_primitive_desc_destroy(desc);
    for (int i = 0; i < 3; i++)
        dnnl_memory_destroy(arguments[i].memory);
    return best;
}

/* By oneDNN's sgemm where FUNCTION is NULL. */
static double best_sgemm(struct bench *bench, const struct product *p, cblas_sgemm_function *function)
{
    int lda = p->transpose_a ? p->m : p->k, ldb = p->transpose_b ? p->k : p->n;
    double best = 1e9;
    for (int i = 0; i < bench->runs + 2; i++) {
        double begin = now(bench);
        if (function != NULL)
            function(ROW_MAJOR, p->transpose_a ? TRANSPOSE : NO_TRANSPOSE, p->transpose_b ? TRANSPOSE : NO_TRANSPOSE, p->m, p->n,
                     p->k, 1, bench->a, lda, bench->b, ldb, 0, bench->c, p->n);
        else
            dnnl_sgemm(p->transpose_a ? 'T' : 'N', p->transpose_b ? 'T' : 'N', p->m, p->n, p->k, 1, bench->a, lda, bench->b, ldb, 0,
                       bench->c, p->n);
        double seconds = now(bench) - begin;
        best = i >= 2 && seconds < best ? seconds : best;
    }
    return best;
}

static cblas_sgemm_function *find_blas(const char *library, const char *set_threads, int threads)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL)
        return NULL;
    void (*set)(int) = (void (*)(int))dlsym(handle, set_threads);
    if (set != NULL)
        set(threads);
    return (cblas_sgemm_function *)dlsym(handle, "cblas_sgemm");
}

static void print_rate(const struct product *p, double seconds)
{
    if (seconds > 0)
        printf(" %9.1f", 2e-9 * p->m * p->n * p->k / seconds);
    else
        printf(" %9s", "-");
}

static void bench_shape(struct bench *bench, const struct shape *s)
{
    for (int which = 0; which < PRODUCTS; which++) {
        struct product p = product_of(s, which);
        printf("%-6s %-14s %-7s %5d %5d %5d", s->model, s->layer, product_names[which], p.m, p.n, p.k);
        print_rate(&p, best_primitive(bench, &p, dnnl_f32, dnnl_f32));
        print_rate(&p, best_sgemm(bench, &p, NULL));
        print_rate(&p, bench->openblas != NULL ? best_sgemm(bench, &p, bench->openblas) : 0);
        print_rate(&p, bench->blis != NULL ? best_sgemm(bench, &p, bench->blis) : 0);
        print_rate(&p, best_primitive(bench, &p, dnnl_bf16, which == WEIGHT_GRADIENT ? dnnl_f32 : dnnl_bf16));
        printf("\n");
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : omp_get_max_threads();
    struct bench bench = {.runs = argc > 2 ? atoi(argv[2]) : 10};
    bench.clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    char text[16];
    snprintf(text, sizeof text, "%d", threads);
    setenv("OPENBLAS_NUM_THREADS", text, 1);
    omp_set_num_threads(threads);
    bench.openblas = find_blas("libopenblas.so.0", "openblas_set_num_threads", threads);
    bench.blis = find_blas("libblis.so.4", "bli_thread_set_num_threads", threads);
    size_t elements = (size_t)50257 * 768;
    bench.a = calloc(elements, sizeof(float));
    bench.b = calloc(elements, sizeof(float));
    bench.c = calloc(elements, sizeof(float));
    if (bench.a == NULL || bench.b == NULL || bench.c == NULL || dnnl_engine_create(&bench.engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&bench.stream, bench.engine, dnnl_stream_default_flags) != dnnl_success) {
        fprintf(stderr, "bench_matmul: cannot begin\n");
        return 1;
    }
    printf("# GFLOP/s, %d threads, best of %d\n", threads, bench.runs);
    printf("%-6s %-14s %-7s %5s %5s %5s %9s %9s %9s %9s %9s\n", "model", "layer", "product", "m", "n", "k", "primitive", "sgemm",
           "OpenBLAS", "BLIS", "bfloat16");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        bench_shape(&bench, &shapes[i]);
    return 0;
}
