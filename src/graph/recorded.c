/* Runs of steps that a device is given at once. The first time a run's kernels are started one by one; then they are recorded and replayed,
 * whenever all that they are told is the same: where a microbatch's activations, tokens, parameters and gradients are. */
#include "graph/graph_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* A run that keeps being told other things is started one by one. */
enum { RECORDINGS_OF_A_RUN = 64 };

/* TOLD: all that may differ between two runs of the same steps. */
struct recorded {
    struct recorded *next;
    struct backend_recording *recording;
    size_t words;
    uint64_t told[];
};

static bool is_heard(const struct graph *g, enum event_kind kind)
{
    switch (kind) {
    case EVENT_ACQUIRE: return g->hooks.parameters_acquire;
    case EVENT_BEGIN: return false; /* it need not wait for the steps before */
    case EVENT_RELEASE: return g->hooks.parameters_release;
    case EVENT_READY: return g->hooks.gradient_ready && !g->hooks.ready_may_wait;
    }
    return true;
}

/* Whether nothing has to happen between step S and the one before. */
static bool follows_at_once(const struct graph *g, int s)
{
    for (int e = g->steps[s - 1].after; e < g->steps[s].after; e++)
        if (is_heard(g, g->events[e].kind))
            return false;
    return true;
}

int graph_recorded_end(const struct graph *g, int first, int end)
{
    int s = first;
    if (!g->told || g->idle || graph_tensor_size(g) > 1)
        return first;
    while (s < end && !g->ops[g->steps[s].op].class->exchanges && (s == first || follows_at_once(g, s)))
        s++;
    return s;
}

enum { WORDS_OF_A_RUN = 5, WORDS_OF_A_STEP = 2 * OP_PARAMETERS };

cairn_err graph_prepare_recording(struct graph *g)
{
    if (!g->backend->table->record_begin)
        return CAIRN_OK;
    g->told = calloc(WORDS_OF_A_RUN + (size_t)g->step_count * WORDS_OF_A_STEP, sizeof *g->told);
    return g->told ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the graph");
}

static uint64_t word(const void *p)
{
    return (uint64_t)(uintptr_t)p;
}

/* Fills g->told; returns how many words. */
static size_t describe(struct graph *g, int first, int end)
{
    uint64_t *to = g->told, scale;
    memcpy(&scale, &g->loss_scale, sizeof scale);
    *to++ = word(g->slot);
    *to++ = word(g->inputs);
    *to++ = word(g->targets);
    *to++ = scale;
    *to++ = (uint64_t)(2 * end + g->dropping);
    for (int s = first; s < end; s++) {
        const struct op *op = &g->ops[g->steps[s].op];
        for (int k = 0; k < OP_PARAMETERS; k++) {
            tensor_id id = op_parameter(op, k);
            if (id < 0)
                continue;
            *to++ = word(parameter_data(g, id));
            if (op_writes_weights(op, g->steps[s].kind))
                *to++ = word(parameter_gradient(g, id, k == 0 && op->is_lookup));
        }
    }
    return (size_t)(to - g->told);
}

static struct recorded *find(const struct graph *g, struct recorded *list, size_t words)
{
    while (list && (list->words != words || memcmp(list->told, g->told, words * sizeof *g->told) != 0))
        list = list->next;
    return list;
}

/* Training and evaluation start other kernels where there is dropout. */
static unsigned kernels_of(const struct graph *g)
{
    return 1u << g->dropping;
}

/* NULL: RUN was not carried out. */
static struct recorded *record(struct graph *g, int first, int end, graph_steps_fn *run, size_t words)
{
    const struct backend_table *table = g->backend->table;
    struct step *step = &g->steps[first];
    if (!(step->warm & kernels_of(g)) || step->recordings == RECORDINGS_OF_A_RUN || !table->record_begin(g->backend))
        return NULL;
    run(g, first, end);
    struct backend_recording *recording = table->record_end(g->backend);
    struct recorded *r = recording ? calloc(1, sizeof *r + words * sizeof *r->told) : NULL;
    if (!recording)
        log_warning("kernels are started one by one: the GPU could not record them");
    if (!r) {
        table->recording_destroy(recording);
        return NULL;
    }
    *r = (struct recorded){.next = step->recorded, .recording = recording, .words = words};
    memcpy(r->told, g->told, words * sizeof *g->told);
    step->recorded = r;
    step->recordings++;
    return r;
}

void graph_run_recorded(struct graph *g, int first, int end, graph_steps_fn *run)
{
    struct step *step = &g->steps[first];
    size_t words = describe(g, first, end);
    const struct recorded *r = find(g, step->recorded, words);
    if (!r)
        r = record(g, first, end, run, words);
    if (r)
        g->backend->table->replay(r->recording);
    else
        run(g, first, end);
    step->warm |= kernels_of(g);
}

void graph_forget_recorded(struct graph *g)
{
    for (int s = 0; s < g->step_count; s++) {
        struct step *step = &g->steps[s];
        while (step->recorded) {
            struct recorded *r = step->recorded;
            step->recorded = r->next;
            g->backend->table->recording_destroy(r->recording);
            free(r);
        }
        step->recordings = 0;
        step->warm = 0;
    }
}
