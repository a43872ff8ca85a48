/* The cpu backend against the reference in float64, for every type and instruction set, at odd sizes. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels_ops.h"
#include "kernels_support.h"

static const int64_t all_rows[] = {1, 3, 130}, all_widths[] = {1, 7, 63, 65, 768};
enum { ROWS = 3, WIDTHS = 5 };

static bool fits(const struct op *op, struct shape s)
{
    return s.rows <= op->most.rows && s.width <= op->most.width;
}

static void compare(const struct op *op, struct shape s, const struct results *got, const struct results *expected, double tolerance,
                    const char *signature)
{
    cr_assert_eq(got->count, expected->count);
    for (int i = 0; i < got->count; i++) {
        double error = relative_error(got->values[i], expected->values[i], got->sizes[i]);
        cr_expect_lt(error, tolerance, "%s, rows %d, width %d, result %d: relative error %g (%s)", op->name, (int)s.rows,
                     (int)s.width, i, error, signature);
    }
}

/* All ops at all sizes on CPU against the reference. */
static void compare_all(struct backend *cpu, double tolerance)
{
    struct backend *reference = open_backend("reference", DTYPE_F64, 1, NULL);
    for (int i = 0; i < op_count * ROWS * WIDTHS; i++) {
        const struct op *op = &ops[i / (ROWS * WIDTHS)];
        struct shape s = {all_rows[i / WIDTHS % ROWS], all_widths[i % WIDTHS]};
        if (!fits(op, s))
            continue;
        struct results got = {.count = 0}, expected = {.count = 0};
        op->run(cpu, s, &got);
        op->run(reference, s, &expected);
        compare(op, s, &got, &expected, tolerance, cpu->table->signature(cpu));
        results_free(&got);
        results_free(&expected);
    }
    reference->table->close(reference);
    cpu->table->close(cpu);
}

static void compare_set(const char *set, enum dtype type, double tolerance)
{
    struct backend *cpu = open_backend("cpu", type, 2, set);
    fprintf(stderr, "# %s\n", cpu->table->signature(cpu));
    compare_all(cpu, tolerance);
}

Test(cpu, float32_baseline) { compare_set("baseline", DTYPE_F32, 1e-5); }
Test(cpu, float32_v3) { compare_set("v3", DTYPE_F32, 1e-5); }
Test(cpu, float32_auto) { compare_set("auto", DTYPE_F32, 1e-5); }
Test(cpu, bfloat16_baseline) { compare_set("baseline", DTYPE_BF16, 1e-2); }
Test(cpu, bfloat16_v3) { compare_set("v3", DTYPE_BF16, 1e-2); }
Test(cpu, bfloat16_auto) { compare_set("auto", DTYPE_BF16, 1e-2); }

/* oneDNN's own products of bfloat16, which it also has, slowly, for a processor without such instructions. */
Test(cpu, bfloat16_not_widened)
{
    struct backend *cpu = open_backend("cpu", DTYPE_BF16, 2, "auto");
    if (!(dnnl_get_effective_cpu_isa() & (dnnl_cpu_isa_avx512_core & ~dnnl_cpu_isa_avx512_mic)))
        cr_skip_test("no AVX-512: oneDNN has no products of bfloat16 here");
    cpu_of(cpu)->widen = false;
    compare_all(cpu, 1e-2);
}

Test(cpu, instruction_set_holds_for_products)
{
    struct backend *cpu = open_backend("cpu", DTYPE_F32, 1, "v3"), *second;
    cr_expect(dnnl_get_effective_cpu_isa() <= dnnl_cpu_isa_avx2);
    cr_expect(strstr(cpu->table->signature(cpu), "avx512") == NULL, "%s", cpu->table->signature(cpu));
    cr_expect_eq(backend_open("cpu", &(struct backend_options){.act = DTYPE_F32, .instruction_set = "baseline"}, &second),
                 CAIRN_EUNSUPPORTED);
}

Test(reference, float32_is_near_float64)
{
    compare_all(open_backend("reference", DTYPE_F32, 1, NULL), 1e-6);
}

/* Bits, not values: but for products they may not depend on the number of threads. */
static void compare_threads(enum dtype type)
{
    struct backend *one = open_backend("cpu", type, 1, NULL), *two = open_backend("cpu", type, 2, NULL);
    struct shape s = {130, 65};
    for (int i = 0; i < op_count; i++) {
        if (ops[i].product)
            continue;
        struct results a = {.count = 0}, b = {.count = 0};
        ops[i].run(one, s, &a);
        ops[i].run(two, s, &b);
        for (int r = 0; r < a.count; r++)
            cr_expect(memcmp(a.values[r], b.values[r], (size_t)a.sizes[r] * sizeof(double)) == 0,
                      "%s, result %d: bits differ between 1 and 2 threads", ops[i].name, r);
        results_free(&a);
        results_free(&b);
    }
    one->table->close(one);
    two->table->close(two);
}

Test(cpu, bits_do_not_depend_on_threads)
{
    compare_threads(DTYPE_F32);
    compare_threads(DTYPE_BF16);
}

Test(cpu, refuses_what_it_has_not)
{
    struct backend *b = NULL;
    cr_assert_eq(backend_open("gpu", &(struct backend_options){.act = DTYPE_F32}, &b), CAIRN_EUNSUPPORTED);
    cr_assert_eq(backend_open("cpu", &(struct backend_options){.act = DTYPE_F64}, &b), CAIRN_EUNSUPPORTED);
    cr_assert_eq(backend_open("reference", &(struct backend_options){.act = DTYPE_BF16}, &b), CAIRN_EUNSUPPORTED);
    cr_assert_eq(backend_open("cpu", &(struct backend_options){.act = DTYPE_F32, .instruction_set = "v9"}, &b), CAIRN_EUNSUPPORTED);
    cr_assert_null(b);
}
