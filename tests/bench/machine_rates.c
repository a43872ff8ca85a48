#include "machine_rates.h"

#include <dnnl.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "expert_rows.h"

/* Products as large as these are at oneDNN's best rate; which of them is the fastest differs by machine. */
static const int64_t product_sizes[] = {1024, 2048};
enum { SIZES = 2, SIZE_MAX_OF_PRODUCT = 2048, SIZE_MAX_OF_DEVICE_PRODUCT = 8192, DEVICE_CALLS = 5, ROUNDS_MAX = 1000 };

/* COPY, READ, the sgemms by size, and the backend's own product where it computes in bfloat16. Of a device, whose memory the
 * processor does not reach: its copies, which stand for reads too, and the backend's own product. */
enum { COPY, READ, SGEMM, OWN_PRODUCT = SGEMM + SIZES, KINDS };
/* Floats that are copied within a device: many times its cache. */
#define DEVICE_COPIED ((int64_t)1 << 28)

struct machine_rates {
    struct backend *b;
    const struct backend_table *table; /* b's own: by now a clock may be around it */
    int64_t elements; /* of TO */
    int64_t copied;   /* of FROM, and from there to TO */
    float *from, *to;
    int64_t product_size;
    struct matmul *product;
    struct backend_mark *begin, *end; /* of a device */
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

static cairn_err open_vectors(struct machine_rates *r)
{
    const struct backend_table *t = r->table;
    bool device = !t->host_memory;
    /* Numbers as they are in products: what they are changes a GPU's clock. */
    if (device)
        r->from = bench_values(r->b, r->b->act, r->copied * (int64_t)(sizeof *r->from / dtype_size(r->b->act)));
    else
        r->from = t->alloc(r->b, (size_t)r->copied * sizeof *r->from);
    r->to = t->alloc(r->b, (size_t)r->elements * sizeof *r->to);
    if (!r->from || !r->to)
        return FAIL(CAIRN_ENOMEM, "no memory to copy between two vectors of %lld floats", (long long)r->elements);
    for (int64_t i = 0; !device && i < r->copied; i++)
        r->from[i] = (float)(i % 7) - 3;
    return CAIRN_OK;
}

static cairn_err open_device(struct machine_rates *r)
{
    r->begin = r->table->mark_create(r->b);
    r->end = r->table->mark_create(r->b);
    return r->begin && r->end ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the machine's rates");
}

cairn_err machine_rates_open(struct backend *b, int64_t elements, struct machine_rates **out)
{
    struct machine_rates *r = calloc(1, sizeof *r);
    if (!r)
        return FAIL(CAIRN_ENOMEM, "no memory for the machine's rates");
    bool device = !b->table->host_memory;
    r->b = b;
    r->table = b->table;
    r->product_size = SIZE_MAX_OF_PRODUCT;
    if (device) /* a small model means that this is tried out without a GPU */
        for (r->product_size = SIZE_MAX_OF_DEVICE_PRODUCT; r->product_size > 1 && 2 * r->product_size * r->product_size > elements;)
            r->product_size /= 2;
    int64_t least = 2 * r->product_size * r->product_size;
    r->elements = elements > least ? elements : least;
    r->copied = device && r->elements > DEVICE_COPIED ? DEVICE_COPIED : r->elements;
    const struct matmul_desc desc = {.m = r->product_size, .n = r->product_size, .k = r->product_size};
    cairn_err err = open_vectors(r);
    if (!err && device)
        err = open_device(r);
    if (!err && (device || b->act == DTYPE_BF16))
        err = b->table->matmul_create(b, &desc, &r->product);
    if (err) {
        machine_rates_close(r);
        return err;
    }
    *out = r;
    return CAIRN_OK;
}

void machine_rates_close(struct machine_rates *r)
{
    if (!r)
        return;
    if (r->from)
        r->table->free(r->b, r->from, (size_t)r->copied * sizeof *r->from);
    if (r->to)
        r->table->free(r->b, r->to, (size_t)r->elements * sizeof *r->to);
    if (r->product)
        r->table->matmul_destroy(r->product);
    if (r->begin)
        r->table->mark_destroy(r->begin);
    if (r->end)
        r->table->mark_destroy(r->end);
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

static void run_product(struct machine_rates *r)
{
    int64_t size = r->product_size;
    r->table->matmul_run(r->product, r->to, r->from, r->from + size * size, NULL);
}

static double own_product(struct machine_rates *r)
{
    double begin = clock_seconds();
    run_product(r);
    return operations(r->product_size) / (clock_seconds() - begin);
}

/* Several calls in a row: the first may wait for the processor. */
static void measure_device(struct machine_rates *r)
{
    const struct backend_table *t = r->table;
    size_t bytes = (size_t)r->copied * sizeof *r->from;
    t->mark_set(r->begin);
    for (int i = 0; i < DEVICE_CALLS; i++)
        t->copy(r->b, r->to, r->from, bytes);
    t->mark_set(r->end);
    double rate = DEVICE_CALLS * 2 * (double)bytes / t->mark_seconds(r->begin, r->end);
    r->samples[COPY][r->rounds] = r->samples[READ][r->rounds] = rate;
    t->mark_set(r->begin);
    for (int i = 0; i < DEVICE_CALLS; i++)
        run_product(r);
    t->mark_set(r->end);
    r->samples[OWN_PRODUCT][r->rounds] = DEVICE_CALLS * operations(r->product_size) / t->mark_seconds(r->begin, r->end);
    r->rounds++;
}

cairn_err machine_rates_measure(struct machine_rates *r)
{
    if (r->rounds == ROUNDS_MAX)
        return FAIL(CAIRN_EINVAL, "the machine's rates are measured %d times at most", ROUNDS_MAX);
    if (!r->table->host_memory) {
        measure_device(r);
        return CAIRN_OK;
    }
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
        speed.products_by = kind == OWN_PRODUCT ? "the backend's own product" : "oneDNN's sgemm";
    }
    return speed;
}

float *machine_rates_vector(struct machine_rates *r)
{
    return r->to;
}
