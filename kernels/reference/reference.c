#include "kernels/reference/reference.h"

#include <stdlib.h>

#include "kernels/backends.h"

cairn_err reference_open(const struct backend_options *options, struct backend **backend)
{
    if (options->act != DTYPE_F32 && options->act != DTYPE_F64)
        return FAIL(CAIRN_EUNSUPPORTED, "the reference backend computes in float32 and float64, not in %s",
                    dtype_name(options->act));
    if (options->float8)
        return FAIL(CAIRN_EUNSUPPORTED, "the reference backend computes no linear layers in float8");
    struct backend *b = malloc(sizeof *b);
    if (b == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for the reference backend");
    *b = (struct backend){
        .table = options->act == DTYPE_F64 ? &reference_table_f64 : &reference_table_f32,
        .act = options->act,
        .acc = options->act,
        .threads = 1,
    };
    *backend = b;
    return CAIRN_OK;
}

void reference_close(struct backend *b)
{
    free(b);
}

void *reference_alloc(struct backend *b, size_t bytes)
{
    (void)b;
    return calloc(bytes != 0 ? bytes : 1, 1);
}

void reference_free(struct backend *b, void *p, size_t bytes)
{
    (void)b;
    (void)bytes;
    free(p);
}

const char *reference_signature(struct backend *b)
{
    return b->act == DTYPE_F64 ? "reference float64" : "reference float32";
}
