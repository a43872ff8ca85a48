#include <stdlib.h>
#include <string.h>

#include "base/exit_code.h"
#include "cmd/command.h"
#include "cmd/plan_print.h"
#include "plan/automatic.h"
#include "schedule/schedule.h"

enum { BEST = 10, OVERRIDES_MOST = 256 };

/* Failures of a node: 419 unexpected interruptions in 54 days of 2048 nodes of eight H100 (Llama Team, arXiv 2407.21783, section 3.3.4)
 * are one in 6300 hours a node. Writing: their storage sustains 2 TB/s, about 1 GB/s a node. */
static const double mtbf_hours_usual = 6300, write_gb_s_usual = 1;

struct arguments {
    long nodes, gpus_per_node;
    const char *gpu, *network, *software, *hardware, *layout, *precision;
    double mtbf_hours, write_gb_s;
    bool json;
};

/* The config FILE with the overrides after it. A plan reads no data, so that none need be named. */
static cairn_err load(struct config *config, int argc, char **argv)
{
    char *overrides[OVERRIDES_MOST], none[] = "data.path=none";
    if (argc < 2)
        return FAIL(CAIRN_ECONFIG, "plan needs a CONFIG; see cairn plan --help");
    if (argc - 2 >= OVERRIDES_MOST)
        return FAIL(CAIRN_ECONFIG, "more than %d settings", OVERRIDES_MOST - 1);
    overrides[0] = none;
    for (int i = 2; i < argc; i++)
        overrides[i - 1] = argv[i];
    return config_load(config, argv[1], NULL, argc - 1, overrides);
}

static cairn_err choose_type(const struct arguments *a, const struct config *config, enum plan_type *type)
{
    if (!a->precision)
        return plan_type_of(config, type);
    for (int t = 0; t < PLAN_TYPES; t++)
        if (strcmp(a->precision, plan_type_names[t]) == 0) {
            *type = (enum plan_type)t;
            return CAIRN_OK;
        }
    return FAIL(CAIRN_ECONFIG, "--precision takes float32, float16 or bfloat16, not '%s'", a->precision);
}

static cairn_err choose_machine(const struct arguments *a, const struct hardware *hardware, struct machine *m)
{
    if (!a->gpu || a->nodes < 1 || a->gpus_per_node < 1)
        return FAIL(CAIRN_ECONFIG, "plan needs --gpu, --nodes and --gpus-per-node, of one at least; see cairn plan --help");
    if (a->nodes > 1 << 20 || a->gpus_per_node > 1 << 10)
        return FAIL(CAIRN_ECONFIG, "%ld nodes of %ld GPUs are more than a plan is for", a->nodes, a->gpus_per_node);
    m->nodes = (int)a->nodes;
    m->gpus_per_node = (int)a->gpus_per_node;
    TRY(hardware_find_gpu(hardware, a->gpu, &m->gpu));
    TRY(hardware_find_network(hardware, a->network ? a->network : m->gpu->network, &m->network));
    TRY(hardware_find_software(hardware, a->software, &m->software));
    return plan_check_machine(m);
}

/* ---- one layout ---- */

static int choice(const char *text, const char *const *names, int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    return -1;
}

/* NAME=VALUE into LAYOUT. */
static cairn_err set_axis(struct plan_layout *l, const char *name, const char *value)
{
    static const char *const schedules[] = {"gpipe", "1f1b", "interleaved", "zero-bubble"};
    static const char *const recomputes[] = {"none", "attention", "block"}, *const truths[] = {"false", "true"};
    const struct {
        const char *name;
        int *field;
    } axes[] = {{"data", &l->axes.data}, {"tensor", &l->axes.tensor}, {"context", &l->axes.context}, {"pipeline", &l->axes.pipeline},
                {"chunks", &l->axes.chunks}, {"expert", &l->axes.expert}};
    char *end;
    long number = strtol(value, &end, 10);
    bool whole = end != value && !*end && number >= 0 && number <= 1 << 20;
    for (size_t i = 0; i < sizeof axes / sizeof axes[0]; i++)
        if (strcmp(name, axes[i].name) == 0 && whole && number > 0) {
            *axes[i].field = (int)number;
            return CAIRN_OK;
        }
    int found = -1;
    if (strcmp(name, "microbatch") == 0 && whole && number > 0)
        l->samples = found = (int)number;
    else if (strcmp(name, "zero") == 0 && whole && number <= 3)
        l->zero = found = (int)number;
    else if (strcmp(name, "schedule") == 0 && (found = choice(value, schedules, 4)) >= 0)
        l->schedule = (enum config_schedule)found;
    else if (strcmp(name, "recompute") == 0 && (found = choice(value, recomputes, 3)) >= 0)
        l->recompute = (enum config_recompute)found;
    else if (strcmp(name, "sequence") == 0 && (found = choice(value, truths, 2)) >= 0)
        l->sequence = found;
    return found >= 0 ? CAIRN_OK : FAIL(CAIRN_ECONFIG, "--layout: cannot take %s=%s; see cairn plan --help", name, value);
}

/* "tensor=8,pipeline=4": what it does not tell is the config's, data what is left. */
static cairn_err parse_layout(const char *text, const struct config *config, const struct plan_request *r, struct plan_layout *l)
{
    *l = (struct plan_layout){.axes = layout_asked(config), .schedule = (enum config_schedule)config->parallel.schedule,
                              .zero = (int)config->parallel.zero, .sequence = config->parallel.sequence,
                              .recompute = (enum config_recompute)config->parallel.recompute, .samples = config->batch.samples,
                              .modes = plan_modes_of(config)};
    char *copy = strdup(text), *rest = copy;
    cairn_err err = copy ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for a layout");
    for (char *part; err == CAIRN_OK && (part = strsep(&rest, ","));) {
        char *equals = strchr(part, '=');
        if (!equals) {
            err = FAIL(CAIRN_ECONFIG, "--layout: expected NAME=VALUE, found '%s'", part);
            break;
        }
        *equals = 0;
        err = set_axis(l, part, equals + 1);
    }
    free(copy);
    TRY(err);
    if (l->axes.chunks > 1 && l->schedule == CONFIG_1F1B) /* which is that with one chunk, and what is meant if none is named */
        l->schedule = CONFIG_INTERLEAVED;
    if (r->batch % l->samples != 0)
        return FAIL(CAIRN_ECONFIG, "--layout: microbatch %lld does not divide the batch of %lld samples", (long long)l->samples, (long long)r->batch);
    l->microbatches = r->batch / l->samples;
    const struct layout_limits limits = {.layers = r->model.layers, .heads = r->model.heads, .vocabulary = r->model.vocabulary,
                                         .context = r->model.context, .microbatches = l->microbatches,
                                         .experts = r->model.experts};
    if (l->axes.expert > 1 && r->model.experts == 0)
        return FAIL(CAIRN_ECONFIG, "--layout: expert is %d, but model.experts is 0: there are none to share", l->axes.expert);
    TRY(layout_fit(&l->axes, machine_gpus(&r->machine), &limits));
    const struct schedule_desc desc = {(enum schedule_kind)l->schedule, l->axes.pipeline, l->axes.chunks,
                                       (l->microbatches + l->axes.data - 1) / l->axes.data};
    return schedule_check(&desc);
}

/* ---- the command ---- */

static cairn_err plan_one(const struct arguments *a, const struct config *config, const struct plan_request *r, json_t **json)
{
    struct plan_layout layout;
    TRY(parse_layout(a->layout, config, r, &layout));
    struct plan plan;
    TRY(plan_of(&r->model, &layout, &r->machine, &plan));
    if (a->json) {
        *json = plan_json_one(r, &plan);
        return CAIRN_OK;
    }
    plan_print_request(r);
    plan_print_one(r, &plan);
    plan_print_checkpoints(r, &plan);
    return CAIRN_OK;
}

static cairn_err plan_all(const struct arguments *a, const struct config *config, const struct plan_request *r, json_t **json)
{
    struct plan_result result;
    struct plan_constraints wanted = config_chooses(config, NULL) ? plan_constraints_of(config) : plan_unconstrained;
    plan_keep_to_modes(config, &wanted);
    TRY(plan_best(&r->model, r->batch, &r->machine, &wanted, BEST, &result));
    if (a->json) {
        *json = plan_json(r, &result);
    } else {
        plan_print_request(r);
        plan_print_best(r, &result);
        plan_print_reasons(r, &result);
        if (result.count)
            plan_print_checkpoints(r, &result.best[0]);
    }
    plan_result_free(&result);
    return CAIRN_OK;
}

static cairn_err plan_config(const struct arguments *a, const struct hardware *hardware, const struct config *config, json_t **json)
{
    struct plan_request r = {.batch = config->batch.microbatches * config->batch.samples, .mtbf_hours = a->mtbf_hours, .write_gb_s = a->write_gb_s};
    TRY(plan_model_of(config, &r.model));
    TRY(choose_type(a, config, &r.machine.type));
    TRY(choose_machine(a, hardware, &r.machine));
    r.software = plan_software_of(config, r.machine.software);
    r.machine.software = &r.software;
    if (a->mtbf_hours <= 0 || a->write_gb_s <= 0)
        return FAIL(CAIRN_ECONFIG, "--mtbf-hours and --write-gb-s must be above zero");
    return a->layout ? plan_one(a, config, &r, json) : plan_all(a, config, &r, json);
}

static cairn_err run(const struct arguments *a, int argc, char **argv, json_t **json)
{
    struct config config;
    struct hardware *hardware;
    const char *extra = a->hardware ? a->hardware : getenv("CAIRN_HARDWARE");
    TRY(load(&config, argc, argv));
    cairn_err err = hardware_open(extra && *extra ? extra : NULL, &hardware);
    if (err == CAIRN_OK) {
        err = plan_config(a, hardware, &config, json);
        hardware_close(hardware);
    }
    config_free(&config);
    return err;
}

int cmd_plan(int argc, char **argv)
{
    struct arguments a = {.gpus_per_node = 8, .software = "cairn", .mtbf_hours = mtbf_hours_usual, .write_gb_s = write_gb_s_usual};
    const struct option_spec options[] = {
        {'n', "nodes", OPTION_INT, &a.nodes, "N", "nodes"},
        {'g', "gpus-per-node", OPTION_INT, &a.gpus_per_node, "G", "GPUs of a node; 8"},
        {0, "gpu", OPTION_STRING, &a.gpu, "NAME", "kind of GPU in the hardware table: V100-32, A100-80, H100, H200, ..."},
        {0, "network", OPTION_STRING, &a.network, "NAME", "network in the hardware table; the GPU's usual one"},
        {0, "software", OPTION_STRING, &a.software, "NAME", "whose conventions: cairn, megatron-2021, megatron-2022, megatron-core, fsdp, fsdp-2023"},
        {0, "hardware", OPTION_STRING, &a.hardware, "FILE", "a table that adds to the installed one; $CAIRN_HARDWARE"},
        {0, "layout", OPTION_STRING, &a.layout, "LIST",
         "judge this layout alone: data=,tensor=,context=,pipeline=,chunks=,expert=,schedule=,microbatch=,zero=,sequence=,recompute="},
        {0, "precision", OPTION_STRING, &a.precision, "TYPE", "float32, float16 or bfloat16 instead of the config's"},
        {0, "mtbf-hours", OPTION_REAL, &a.mtbf_hours, "H", "hours between failures of one node; 6300"},
        {0, "write-gb-s", OPTION_REAL, &a.write_gb_s, "X", "GB/s that the file system takes from each node; 1"},
        {0, "json", OPTION_FLAG, &a.json, NULL, "print JSON"},
        {0},
    };
    const struct command_spec spec = {
        "cairn plan CONFIG --nodes N --gpu NAME [--gpus-per-node G] [--layout LIST] [--json] [KEY=VALUE ...]",
        "Prints how the model of CONFIG can be laid out over the GPUs: the ten layouts with the shortest steps, with the memory of a rank, the\n"
        "step's time, the operations a second and the interval of checkpoints, and why the others lost. It starts nothing.",
        options, NULL};
    int exit_code;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    json_t *json = NULL;
    cairn_err err = run(&a, argc, argv, &json);
    if (err != CAIRN_OK)
        return command_failed(err);
    return a.json ? command_print_json(json) : EXIT_CODE_DONE;
}
