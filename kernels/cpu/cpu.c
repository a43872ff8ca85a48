#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backends.h"
#include "kernels/cpu/product.h"
#include "kernels/host_memory.h"

static const struct instruction_set {
    const char *name;
    void (*fill)(struct cpu_loops *);
    dnnl_cpu_isa_t products; /* the highest that oneDNN may use with it */
} instruction_sets[] = {
    {"baseline", loops_baseline_fill, dnnl_cpu_isa_sse41},
#ifdef HAVE_ISA_V3
    {"v3", loops_v3_fill, dnnl_cpu_isa_avx2},
#endif
#ifdef HAVE_ISA_V4
    {"v4", loops_v4_fill, dnnl_cpu_isa_avx512_core},
#endif
};

static const struct {
    dnnl_cpu_isa_t isa;
    const char *name;
} product_sets[] = {
    {dnnl_cpu_isa_sse41, "sse4.1"},           {dnnl_cpu_isa_avx, "avx"},
    {dnnl_cpu_isa_avx2, "avx2"},              {dnnl_cpu_isa_avx2_vnni, "avx2-vnni"},
    {dnnl_cpu_isa_avx512_core, "avx512"},     {dnnl_cpu_isa_avx512_core_vnni, "avx512-vnni"},
    {dnnl_cpu_isa_avx512_core_bf16, "avx512-bf16"}, {dnnl_cpu_isa_avx512_core_amx, "amx"},
};

static bool automatic(const char *limit)
{
    return limit == NULL || strcmp(limit, "auto") == 0;
}

static bool machine_has(const char *name)
{
    /* The levels of the x86-64 psABI; __builtin_cpu_supports knows their names only in later compilers. */
    bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    if (strcmp(name, "v3") == 0)
        return v3;
    if (strcmp(name, "v4") == 0)
        return v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return true;
}

/* The highest instruction set that the machine has, up to the one called LIMIT. */
static cairn_err choose_instruction_set(const char *limit, const struct instruction_set **chosen)
{
    size_t count = sizeof instruction_sets / sizeof *instruction_sets, last = count;
    if (automatic(limit))
        last = count - 1;
    for (size_t i = 0; i < count && last == count; i++)
        if (strcmp(limit, instruction_sets[i].name) == 0)
            last = i;
    if (last == count)
        return FAIL(CAIRN_EUNSUPPORTED, "this build has no instruction set \"%s\"; its highest is \"%s\"", limit,
                    instruction_sets[count - 1].name);
    while (last > 0 && !machine_has(instruction_sets[last].name))
        last--;
    *chosen = &instruction_sets[last];
    return CAIRN_OK;
}

static const char *product_set_name(dnnl_cpu_isa_t isa)
{
    for (size_t i = 0; i < sizeof product_sets / sizeof *product_sets; i++)
        if (product_sets[i].isa == isa)
            return product_sets[i].name;
    return "unknown";
}

/* oneDNN takes a limit once a process, before its first use. */
static cairn_err limit_products(const struct instruction_set *set)
{
    dnnl_set_max_cpu_isa(set->products);
    dnnl_cpu_isa_t got = dnnl_get_effective_cpu_isa();
    if (got & ~set->products)
        return FAIL(CAIRN_EUNSUPPORTED, "instruction set \"%s\": oneDNN has begun with %s in this process already", set->name,
                    product_set_name(got));
    return CAIRN_OK;
}

static int usable_threads(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

cairn_err cpu_check_dnnl(dnnl_status_t status, const char *what)
{
    if (status == dnnl_success)
        return CAIRN_OK;
    return FAIL(CAIRN_ELIBRARY, "oneDNN cannot %s: status %d", what, (int)status);
}

static const char *cpu_signature(struct backend *b)
{
    return cpu_of(b)->signature;
}

static void cpu_close(struct backend *b)
{
    struct cpu *cpu = cpu_of(b);
    product_workspace_destroy(cpu);
    if (cpu->stream != NULL)
        dnnl_stream_destroy(cpu->stream);
    if (cpu->engine != NULL)
        dnnl_engine_destroy(cpu->engine);
    free(cpu);
}

/* Filled at the first opening; the same each time, so that it does not matter who writes it. */
static struct backend_table cpu_table;

static void fill_table(void)
{
    cpu_table = (struct backend_table){HOST_MEMORY_TABLE, .name = "cpu", .close = cpu_close, .alloc = memory_alloc,
                                       .free = memory_free, .signature = cpu_signature};
    elementwise_fill(&cpu_table);
    norm_fill(&cpu_table);
    embedding_fill(&cpu_table);
    product_fill(&cpu_table);
    attention_fill(&cpu_table);
    attention_pieces_fill(&cpu_table);
    classifier_fill(&cpu_table);
    experts_fill(&cpu_table);
}

static void write_signature(struct cpu *cpu, const char *instruction_set)
{
    const dnnl_version_t *v = dnnl_version();
    snprintf(cpu->signature, sizeof cpu->signature, "cpu %s %s oneDNN %d.%d.%d %s%s threads %d", dtype_name(cpu->base.act),
             instruction_set, v->major, v->minor, v->patch, product_set_name(dnnl_get_effective_cpu_isa()),
             cpu->widen ? " widened" : "", cpu->base.threads);
}

cairn_err cpu_open(const struct backend_options *options, struct backend **backend)
{
    if (options->act != DTYPE_F32 && options->act != DTYPE_BF16)
        return FAIL(CAIRN_EUNSUPPORTED, "the cpu backend computes in float32 and bfloat16, not in %s", dtype_name(options->act));
    if (options->float8)
        return FAIL(CAIRN_EUNSUPPORTED, "the cpu backend computes no linear layers in float8");
    const struct instruction_set *set = NULL;
    TRY(choose_instruction_set(options->instruction_set, &set));
    if (!automatic(options->instruction_set))
        TRY(limit_products(set));
    struct cpu *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for the cpu backend");
    fill_table();
    set->fill(&cpu->loops);
    cpu->base = (struct backend){
        .table = &cpu_table,
        .act = options->act,
        .acc = DTYPE_F32,
        .threads = options->threads > 0 ? options->threads : usable_threads(),
    };
    cpu->half = options->act == DTYPE_BF16;
    cpu->act = &cpu->loops.act[cpu->half];
    cpu->tiles = (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx;
    cpu->widen = cpu->half && (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) != dnnl_cpu_isa_avx512_core_bf16;
    omp_set_dynamic(0); /* fewer threads than asked for would be other sums */
    omp_set_num_threads(cpu->base.threads); /* oneDNN plans for as many as OpenMP has */
    cairn_err err;
    TRY_GOTO(err, cpu_check_dnnl(dnnl_engine_create(&cpu->engine, dnnl_cpu, 0), "open its engine"), failed);
    TRY_GOTO(err, cpu_check_dnnl(dnnl_stream_create(&cpu->stream, cpu->engine, dnnl_stream_default_flags), "open a stream"), failed);
    TRY_GOTO(err, product_workspace_create(cpu), failed);
    write_signature(cpu, set->name);
    *backend = &cpu->base;
    return CAIRN_OK;
failed:
    cpu_close(&cpu->base);
    return err;
}
