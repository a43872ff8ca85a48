#include "kernels_support.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "base/philox.h"
#include "kernels/plugin.h"

static const double POISON = -7; /* of integers */

struct backend *open_backend(const char *name, enum dtype act, int threads, const char *instruction_set)
{
    struct backend_options options = {.act = act, .threads = threads, .instruction_set = instruction_set};
    struct backend *b = NULL;
    cairn_err err = backend_open(name, &options, &b);
    cr_assert_eq(err, CAIRN_OK, "%s", cairn_err_message());
    return b;
}

struct backend *open_cuda(enum dtype act)
{
    if (!plugin_is_there("cuda"))
        cr_skip_test("no cuda backend, nor one for the processor in its place: %s", getenv("CAIRN_SKIP_CUDA") ? getenv("CAIRN_SKIP_CUDA") : "CAIRN_PLUGIN_DIR names none");
    return open_backend("cuda", act, 1, NULL);
}

double *random_values(int64_t n, uint64_t seed, double scale)
{
    double *x = malloc((size_t)n * sizeof *x);
    struct philox_key key = philox_key_make(seed, STREAM_WEIGHTS, 0);
    for (int64_t i = 0; i < n; i++) {
        uint32_t words[4];
        philox4x32(key, 0, (uint64_t)i, words);
        double sum = 0; /* of four uniform numbers: near enough to a normal one */
        for (int w = 0; w < 4; w++)
            sum += (double)philox_uniform(words[w]) - 0.5;
        x[i] = (double)bf16_to_float(bf16_from_float((float)(sum * 1.7 * scale)));
    }
    return x;
}

size_t array_bytes(enum dtype type, int64_t n)
{
    return dtype_size(type) * (size_t)n;
}

double array_value(enum dtype type, const void *p, int64_t i)
{
    switch (type) {
    case DTYPE_F64: return ((const double *)p)[i];
    case DTYPE_BF16: return (double)bf16_to_float(((const uint16_t *)p)[i]);
    case DTYPE_F32: break;
    case DTYPE_I32: return (double)((const int32_t *)p)[i];
    }
    return (double)((const float *)p)[i];
}

void set_array_value(enum dtype type, void *p, int64_t i, double value)
{
    switch (type) {
    case DTYPE_F64: ((double *)p)[i] = value; break;
    case DTYPE_BF16: ((uint16_t *)p)[i] = bf16_from_float((float)value); break;
    case DTYPE_F32: ((float *)p)[i] = (float)value; break;
    case DTYPE_I32: ((int32_t *)p)[i] = (int32_t)value; break;
    }
}

void *make_array(struct backend *b, enum dtype type, const double *values, int64_t n)
{
    size_t bytes = array_bytes(type, n);
    void *p = b->table->alloc(b, bytes), *there = malloc(bytes + 1);
    cr_assert_not_null(p);
    b->table->download(b, there, p, bytes);
    for (int64_t i = 0; i < n; i++) {
        cr_assert_eq(array_value(type, there, i), 0, "memory of alloc is not zero");
        set_array_value(type, there, i, values != NULL ? values[i] : type == DTYPE_I32 ? POISON : (double)NAN);
    }
    b->table->upload(b, p, there, bytes);
    free(there);
    return p;
}

int32_t *make_integers(struct backend *b, const int32_t *values, int64_t n)
{
    int32_t *p = b->table->alloc(b, array_bytes(DTYPE_I32, n));
    cr_assert_not_null(p);
    b->table->upload(b, p, values, array_bytes(DTYPE_I32, n));
    return p;
}

void free_array(struct backend *b, enum dtype type, void *p, int64_t n)
{
    b->table->free(b, p, array_bytes(type, n));
}

double *array_values(struct backend *b, enum dtype type, const void *p, int64_t n)
{
    void *there = malloc(array_bytes(type, n) + 1);
    double *values = malloc((size_t)n * sizeof *values);
    b->table->download(b, there, p, array_bytes(type, n));
    for (int64_t i = 0; i < n; i++)
        values[i] = array_value(type, there, i);
    free(there);
    return values;
}

double relative_error(const double *a, const double *b, int64_t n)
{
    double difference = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        size += b[i] * b[i];
    }
    if (isnan(difference) || isnan(size))
        return (double)INFINITY;
    return size > 0 ? sqrt(difference / size) : sqrt(difference);
}
