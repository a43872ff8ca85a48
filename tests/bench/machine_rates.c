#include "machine_rates.h"

#include <dnnl.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

/* Products as large as these are at oneDNN's best rate; which of them is the fastest differs by machine. */
static const int64_t product_sizes[] = {1024, 2048};
enum { SIZES = 2, SIZE_MAX_OF_PRODUCT = 2048, ROUNDS_MAX = 1000 };

/* COPY, READ, the sgemms by size, and the backend's own product where it computes in bfloat16. */
enum { COPY, READ, SGEMM, OWN_PRODUCT = SGEMM + SIZES, KINDS };

struct machine_rates {
    struct backend *b;
    int64_t elements;
    float *from, *to;
    struct matmul *product;
    double samples[KINDS][ROUNDS_MAX]; /* bytes or operations a second */
    int rounds;
    uint64_t sum; /* so that the reads are not left out */
};

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median(double *values, int count)
{
    if (count == 0)
        return 0;
    qsort(values, (size_t)count, sizeof *values, compare);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

cairn_err machine_rates_open(struct backend *b, int64_t elements, struct machine_rates **out)
{
    struct machine_rates *r = calloc(1, sizeof *r);
    if (!r)
        return FAIL(CAIRN_ENOMEM, "no memory for the machine's rates");
    int64_t least = 2 * SIZE_MAX_OF_PRODUCT * SIZE_MAX_OF_PRODUCT;
    r->b = b;
    r->elements = elements > least ? elements : least;
    cairn_err err = CAIRN_OK;
    r->from = b->table->alloc(b, (size_t)r->elements * sizeof *r->from);
    r->to = b->table->alloc(b, (size_t)r->elements * sizeof *r->to);
    if (!r->from || !r->to)
        err = FAIL(CAIRN_ENOMEM, "no memory to copy between two vectors of %lld floats", (long long)r->elements);
    const struct matmul_desc desc = {.m = SIZE_MAX_OF_PRODUCT, .n = SIZE_MAX_OF_PRODUCT, .k = SIZE_MAX_OF_PRODUCT};
    if (!err && b->act == DTYPE_BF16)
        err = b->table->matmul_create(b, &desc, &r->product);
    if (err) {
        machine_rates_close(r);
        return err;
    }
    for (int64_t i = 0; i < r->elements; i++)
        r->from[i] = (float)(i % 7) - 3;
    *out = r;
    return CAIRN_OK;
}

void machine_rates_close(struct machine_rates *r)
{
    if (!r)
        return;
    size_t bytes = (size_t)r->elements * sizeof(float);
    if (r->from)
        r->b->table->free(r->b, r->from, bytes);
    if (r->to)
        r->b->table->free(r->b, r->to, bytes);
    if (r->product)
        r->b->table->matmul_destroy(r->product);
    free(r);
}

/* The part of thread T. */
static void share(const struct machine_rates *r, int t, int64_t *first, int64_t *count)
{
    int64_t threads = r->b->threads, end = r->elements * (t + 1) / threads / 16 * 16;
    *first = r->elements * t / threads / 16 * 16;
    *count = end - *first;
}

static double copy(struct machine_rates *r)
{
    double begin = clock_seconds();
#pragma omp parallel for num_threads(r->b->threads) schedule(static)
    for (int t = 0; t < r->b->threads; t++) {
        int64_t first, count;
        share(r, t, &first, &count);
        memcpy(r->to + first, r->from + first, (size_t)count * sizeof *r->to);
    }
    return 2 * (double)r->elements * sizeof *r->to / (clock_seconds() - begin);
}

typedef uint64_t lanes __attribute__((vector_size(64)));

static uint64_t sum_of(const float *from, int64_t count)
{
    const lanes *v = (const lanes *)from;
    lanes a = {0}, b = {0};
    for (int64_t i = 0; i + 1 < count / 16; i += 2) {
        a += v[i];
        b += v[i + 1];
    }
    a += b;
    return a[0] + a[1] + a[2] + a[3] + a[4] + a[5] + a[6] + a[7];
}

static double read_all(struct machine_rates *r)
{
    uint64_t sum = 0;
    double begin = clock_seconds();
#pragma omp parallel for num_threads(r->b->threads) schedule(static) reduction(+ : sum)
    for (int t = 0; t < r->b->threads; t++) {
        int64_t first, count;
        share(r, t, &first, &count);
        sum += sum_of(r->from + first, count);
    }
    r->sum += sum;
    return (double)r->elements * sizeof *r->from / (clock_seconds() - begin);
}

static double operations(int64_t size)
{
    return 2 * (double)size * (double)size * (double)size;
}

static cairn_err sgemm(struct machine_rates *r, int64_t size, double *rate)
{
    const float *a = r->from, *b = r->from + size * size;
    double begin = clock_seconds();
    if (dnnl_sgemm('N', 'N', size, size, size, 1, a, size, b, size, 0, r->to, size) != dnnl_success)
        return FAIL(CAIRN_ELIBRARY, "oneDNN's sgemm of %lld x %lld fails", (long long)size, (long long)size);
    *rate = operations(size) / (clock_seconds() - begin);
    return CAIRN_OK;
}

static double own_product(struct machine_rates *r)
{
    int64_t size = SIZE_MAX_OF_PRODUCT;
    double begin = clock_seconds();
    r->b->table->matmul_run(r->product, r->to, r->from, r->from + size * size, NULL);
    return operations(size) / (clock_seconds() - begin);
}

cairn_err machine_rates_measure(struct machine_rates *r)
{
    if (r->rounds == ROUNDS_MAX)
        return FAIL(CAIRN_EINVAL, "the machine's rates are measured %d times at most", ROUNDS_MAX);
    r->samples[COPY][r->rounds] = copy(r);
    r->samples[READ][r->rounds] = read_all(r);
    for (int i = 0; i < SIZES; i++)
        TRY(sgemm(r, product_sizes[i], &r->samples[SGEMM + i][r->rounds]));
    r->samples[OWN_PRODUCT][r->rounds] = r->product ? own_product(r) : 0;
    r->rounds++;
    return CAIRN_OK;
}

/* The medians' sorting left the best last. */
struct machine_speed machine_rates_speed(struct machine_rates *r)
{
    struct machine_speed speed = {.copy = median(r->samples[COPY], r->rounds), .read = median(r->samples[READ], r->rounds),
                                  .products_by = "none"};
    if (r->rounds == 0)
        return speed;
    speed.best_copy = r->samples[COPY][r->rounds - 1];
    speed.best_read = r->samples[READ][r->rounds - 1];
    for (int kind = SGEMM; kind < KINDS; kind++) {
        double rate = median(r->samples[kind], r->rounds);
        if (rate <= speed.products)
            continue;
        speed.products = rate;
        speed.best_products = r->samples[kind][r->rounds - 1];
        speed.products_by = kind == OWN_PRODUCT ? "the backend's bfloat16 product" : "oneDNN's sgemm";
    }
    return speed;
}

float *machine_rates_vector(struct machine_rates *r)
{
    return r->to;
}
