/* A mixture of experts against values that PyTorch computed in float64 (tests/golden/README.md). */
#include <criterion/criterion.h>
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "experts_block.h"
#include "kernels_support.h"

static double attribute(hid_t group, const char *name)
{
    double value = 0;
    hid_t a = H5Aopen(group, name, H5P_DEFAULT);
    cr_assert(a >= 0 && H5Aread(a, H5T_NATIVE_DOUBLE, &value) >= 0, "no attribute %s", name);
    H5Aclose(a);
    return value;
}

/* The dataset's N values; freed by free. */
static double *array(hid_t group, const char *name, int64_t n)
{
    double *values = malloc((size_t)n * sizeof *values);
    hid_t d = H5Dopen(group, name, H5P_DEFAULT), space = H5Dget_space(d);
    cr_assert_eq(H5Sget_simple_extent_npoints(space), n, "%s", name);
    cr_assert_geq(H5Dread(d, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), 0, "%s", name);
    H5Sclose(space);
    H5Dclose(d);
    return values;
}

static struct block read_block(hid_t group)
{
    struct block k = block_make((int64_t)attribute(group, "rows"), (int64_t)attribute(group, "width"), (int64_t)attribute(group, "experts"),
                                (int64_t)attribute(group, "choices"), attribute(group, "capacity_factor"),
                                (int64_t)attribute(group, "hidden"));
    k.scales = (struct router_scales){.balance = attribute(group, "balance"), .z = attribute(group, "z")};
    cr_assert_eq(k.router.capacity, (int64_t)attribute(group, "capacity"));
    return k;
}

/* Single elements near 0 have no relative precision. A NaN is the worst of all. */
static double worst_of_greatest(const double *got, const double *golden, int64_t n)
{
    double worst = 0, greatest = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs(got[i] - golden[i]);
        worst = isnan(d) || d >= worst ? d : worst;
        if (isnan(worst))
            return (double)INFINITY;
        greatest = fmax(greatest, fabs(golden[i]));
    }
    return worst / greatest;
}

static const struct {
    enum block_result result;
    const char *name;
} compared[] = {
    {RESULT_Y, "y"},
    {RESULT_LOSSES, "losses"},
    {RESULT_D_X, "gradient/x"},
    {RESULT_D_ROUTER, "gradient/router.weight"},
    {RESULT_D_EXPAND, "gradient/expand.weight"},
    {RESULT_D_EXPAND_BIAS, "gradient/expand.bias"},
    {RESULT_D_CONTRACT, "gradient/contract.weight"},
    {RESULT_D_CONTRACT_BIAS, "gradient/contract.bias"},
};

static void compare_group(hid_t group, struct backend *b, double tolerance, const char *label)
{
    static const char *const names[INPUTS] = {"x", "dy", "router.weight", "expand.weight", "expand.bias", "contract.weight",
                                              "contract.bias"};
    struct block k = read_block(group);
    double *inputs[INPUTS];
    struct block_results r;
    for (int i = 0; i < INPUTS; i++)
        inputs[i] = array(group, names[i], block_input_size(&k, (enum block_input)i));
    block_run(b, &k, inputs, &r);
    double *experts = array(group, "expert", block_result_size(&k, RESULT_EXPERT));
    for (int64_t i = 0; i < block_result_size(&k, RESULT_EXPERT); i++)
        cr_expect_eq((int)r.values[RESULT_EXPERT][i], (int)experts[i], "%s: choice %d", label, (int)i);
    for (size_t i = 0; i < sizeof compared / sizeof *compared; i++) {
        int64_t n = block_result_size(&k, compared[i].result);
        double *golden = array(group, compared[i].name, n);
        double worst = worst_of_greatest(r.values[compared[i].result], golden, n);
        fprintf(stderr, "# %s, %s: %.1e\n", label, compared[i].name, worst);
        cr_expect_leq(worst, tolerance, "%s: %s differs by %.2e, bound %.0e", label, compared[i].name, worst, tolerance);
        free(golden);
    }
    free(experts);
    block_results_free(&r);
    block_inputs_free(inputs);
}

static void compare(const char *backend, enum dtype type, double tolerance)
{
    static const char *const groups[] = {"switch", "top2"};
    const char *source = getenv("CAIRN_SOURCE");
    char path[4096], label[128];
    snprintf(path, sizeof path, "%s/tests/golden/experts.h5", source ? source : ".");
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    cr_assert_geq(file, 0, "cannot open %s", path);
    struct backend *b = open_backend(backend, type, 2, NULL);
    for (int i = 0; i < 2; i++) {
        hid_t group = H5Gopen(file, groups[i], H5P_DEFAULT);
        snprintf(label, sizeof label, "%s, %s %s", groups[i], backend, dtype_name(type));
        compare_group(group, b, tolerance, label);
        H5Gclose(group);
    }
    b->table->close(b);
    H5Fclose(file);
}

Test(golden, reference_float64) { compare("reference", DTYPE_F64, 1e-10); }
Test(golden, reference_float32) { compare("reference", DTYPE_F32, 1e-5); }
Test(golden, cpu_float32) { compare("cpu", DTYPE_F32, 1e-5); }
