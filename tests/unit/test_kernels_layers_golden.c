/* RMS norm and SwiGLU against values that PyTorch computed in float64 (tests/golden/README.md). */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "golden_file.h"
#include "kernels_support.h"

/* A layer, and the group of its values. */
struct layer {
    struct backend *b;
    const char *name;
    hid_t group;
    int64_t rows, width;
    double tolerance;
};

static void *input(const struct layer *l, const char *name, int64_t n)
{
    double *values = golden_array(l->group, name, n);
    void *p = make_array(l->b, l->b->act, values, n);
    free(values);
    return p;
}

/* Compares a result with the dataset NAME, and frees it. */
static void compare(const struct layer *l, const char *name, enum dtype type, void *result, int64_t n)
{
    double *golden = golden_array(l->group, name, n), *got = array_values(l->b, type, result, n);
    double worst = golden_worst(got, golden, n);
    fprintf(stderr, "# %s, %s %s, %s: %.1e\n", l->name, l->b->table->name, dtype_name(l->b->act), name, worst);
    cr_expect_leq(worst, l->tolerance, "%s, %s %s: %s differs by %.2e, bound %.0e", l->name, l->b->table->name, dtype_name(l->b->act), name,
                  worst, l->tolerance);
    free(golden);
    free(got);
    free_array(l->b, type, result, n);
}

static void check_rms_norm(const struct layer *l)
{
    struct backend *b = l->b;
    int64_t n = l->rows * l->width;
    void *x = input(l, "x", n), *gain = input(l, "gain", l->width), *dy = input(l, "dy", n);
    void *y = make_array(b, b->act, NULL, n), *rstd = make_array(b, b->acc, NULL, l->rows), *dx = make_array(b, b->act, NULL, n);
    void *d_gain = make_array(b, b->acc, NULL, l->width);
    b->table->rms_norm_forward(b, y, rstd, x, gain, l->rows, l->width, golden_attribute(l->group, "epsilon"));
    b->table->rms_norm_backward_input(b, dx, dy, x, gain, rstd, l->rows, l->width, false);
    b->table->rms_norm_backward_weight(b, d_gain, dy, x, rstd, l->rows, l->width);
    compare(l, "y", b->act, y, n);
    compare(l, "gradient/x", b->act, dx, n);
    compare(l, "gradient/gain", b->acc, d_gain, l->width);
    free_array(b, b->act, x, n);
    free_array(b, b->act, gain, l->width);
    free_array(b, b->act, dy, n);
    free_array(b, b->acc, rstd, l->rows);
}

static void check_swiglu(const struct layer *l)
{
    struct backend *b = l->b;
    int64_t n = l->rows * l->width;
    void *x = input(l, "x", 2 * n), *dy = input(l, "dy", n), *y = make_array(b, b->act, NULL, n), *dx = make_array(b, b->act, NULL, 2 * n);
    b->table->swiglu_forward(b, y, x, l->rows, l->width);
    b->table->swiglu_backward(b, dx, dy, x, l->rows, l->width);
    compare(l, "y", b->act, y, n);
    compare(l, "gradient/x", b->act, dx, 2 * n);
    free_array(b, b->act, x, 2 * n);
    free_array(b, b->act, dy, n);
}

static void check_layers(struct backend *b, double tolerance)
{
    static const struct {
        const char *name;
        void (*check)(const struct layer *);
    } layers[] = {{"rms_norm", check_rms_norm}, {"swiglu", check_swiglu}};
    hid_t file = golden_open("layers.h5");
    for (int i = 0; i < 2; i++) {
        hid_t group = H5Gopen(file, layers[i].name, H5P_DEFAULT);
        cr_assert_geq(group, 0, "no group %s", layers[i].name);
        const struct layer l = {.b = b, .name = layers[i].name, .group = group, .rows = (int64_t)golden_attribute(group, "rows"),
                                .width = (int64_t)golden_attribute(group, "width"), .tolerance = tolerance};
        layers[i].check(&l);
        H5Gclose(group);
    }
    H5Fclose(file);
    cr_expect_eq(b->table->finish(b), CAIRN_OK, "%s", cairn_err_message());
    b->table->close(b);
}

Test(golden, reference_float64) { check_layers(open_backend("reference", DTYPE_F64, 1, NULL), 1e-10); }
Test(golden, reference_float32) { check_layers(open_backend("reference", DTYPE_F32, 1, NULL), 1e-5); }
Test(golden, cpu_float32) { check_layers(open_backend("cpu", DTYPE_F32, 2, NULL), 1e-5); }
Test(golden, cuda_float32) { check_layers(open_cuda(DTYPE_F32), 1e-5); }
