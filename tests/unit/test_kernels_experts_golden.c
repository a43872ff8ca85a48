/* A mixture of experts against values that PyTorch computed in float64 (tests/golden/README.md). */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "experts_block.h"
#include "golden_file.h"
#include "kernels_support.h"

static struct block read_block(hid_t group)
{
    struct block k = block_make((int64_t)golden_attribute(group, "rows"), (int64_t)golden_attribute(group, "width"), (int64_t)golden_attribute(group, "experts"),
                                (int64_t)golden_attribute(group, "choices"), golden_attribute(group, "capacity_factor"),
                                (int64_t)golden_attribute(group, "hidden"));
    k.scales = (struct router_scales){.balance = golden_attribute(group, "balance"), .z = golden_attribute(group, "z")};
    cr_assert_eq(k.router.capacity, (int64_t)golden_attribute(group, "capacity"));
    return k;
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
        inputs[i] = golden_array(group, names[i], block_input_size(&k, (enum block_input)i));
    block_run(b, &k, inputs, &r);
    double *experts = golden_array(group, "expert", block_result_size(&k, RESULT_EXPERT));
    for (int64_t i = 0; i < block_result_size(&k, RESULT_EXPERT); i++)
        cr_expect_eq((int)r.values[RESULT_EXPERT][i], (int)experts[i], "%s: choice %d", label, (int)i);
    for (size_t i = 0; i < sizeof compared / sizeof *compared; i++) {
        int64_t n = block_result_size(&k, compared[i].result);
        double *golden = golden_array(group, compared[i].name, n);
        double worst = golden_worst(r.values[compared[i].result], golden, n);
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
    char label[128];
    hid_t file = golden_open("experts.h5");
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
