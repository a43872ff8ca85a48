/* From layout to layout: a training of a few steps writes a checkpoint; each other layout reads it, and writes it again, to the
 * bit; then it goes on, with the bits of one rank where they are promised and near it elsewhere. Three layouts after each, or with
 * CAIRN_TEST_ALL=1 all of its model after each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/make_folders.h"
#include "ckpt/checkpoint.h"
#include "ckpt/inspect.h"
#include "job/job.h"
#include "mesh/mesh.h"
#include "tests/ranks/tap.h"
#include "train/trainer.h"

enum { RANKS = 8, KEYS = 6, PATH = 512, STEPS = 3 };

/* Models, whose checkpoints go on under layouts of the same one. */
enum model { TIED, UNTIED, EXPERTS };
static const char *const model_keys[][KEYS] = {{NULL}, {"model.tied=false", NULL}, {"model.experts=4", "model.capacity_factor=1", NULL}};

/* All with 8 microbatches, the first of each model on one rank. EXACT: the sums of one rank. */
static const struct {
    enum model model;
    int ranks;
    bool exact;
    const char *keys[KEYS];
} layouts[] = {
    {TIED, 1, true, {NULL}},
    {TIED, 3, true, {NULL}},
    {TIED, 8, true, {"parallel.zero=1", NULL}},
    {TIED, 5, true, {"parallel.zero=3", NULL}},
    {TIED, 3, true, {"parallel.pipeline=3", "parallel.schedule=zero-bubble", NULL}},
    {TIED, 4, true, {"parallel.pipeline=2", "parallel.zero=2", "parallel.schedule=interleaved", "parallel.chunks=2", NULL}},
    {TIED, 8, true, {"parallel.pipeline=4", "parallel.zero=3", "parallel.recompute=block", NULL}},
    {TIED, 2, false, {"parallel.tensor=2", NULL}},
    {TIED, 6, false, {"parallel.tensor=3", "parallel.sequence=true", "parallel.zero=1", NULL}},
    {TIED, 8, false, {"parallel.tensor=2", "parallel.pipeline=2", "parallel.zero=2", NULL}},
    {TIED, 4, false, {"parallel.context=2", "parallel.zero=3", NULL}},
    {TIED, 3, false, {"parallel.reduce=fast", NULL}},

    {UNTIED, 1, true, {NULL}},
    {UNTIED, 6, true, {"parallel.pipeline=2", "parallel.zero=3", NULL}},
    {UNTIED, 6, false, {"parallel.tensor=3", "parallel.pipeline=2", "parallel.zero=2", "parallel.schedule=zero-bubble", NULL}},

    {EXPERTS, 1, true, {NULL}},
    {EXPERTS, 5, true, {"parallel.zero=2", NULL}},
    {EXPERTS, 4, false, {"parallel.expert=4", NULL}},
    {EXPERTS, 6, false, {"parallel.expert=2", "parallel.zero=1", NULL}},
    {EXPERTS, 8, false, {"parallel.expert=2", "parallel.tensor=2", "parallel.pipeline=2", "parallel.zero=2", NULL}},
    {EXPERTS, 6, false, {"parallel.expert=2", "parallel.context=3", "parallel.zero=3", NULL}},
    {EXPERTS, 3, false, {"parallel.tensor=3", "parallel.sequence=true", NULL}},
};
enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

static const char common[] = "data: {path: DATASET}\n"
                             "batch: {microbatches: 8, samples: 1}\n"
                             "model: {layers: 4, width: 12, heads: 3, context: 8, dropout: 0.1}\n"
                             "optimizer: {warmup_steps: 0, decay_steps: 100, epsilon: 1.0e-6}\n"
                             "device: cpu\n"
                             "threads: 1\n"
                             "validation: {every: 0}\n"
                             "log: {every: 1000}\n"
                             "checkpoint: {every: 0, keep: 0}\n";

static struct job *job;
static char folder[128];
static struct mesh meshes[LAYOUTS]; /* of the layouts' first ranks */
static MPI_Comm comms[LAYOUTS];
static int nodes[RANKS];

/* The config of LAYOUT in run folder RUN, for STEPS steps. */
static cairn_err load(struct config *c, int layout, const char *run, int steps)
{
    char text[2048], path[PATH], *overrides[2 * KEYS + 2];
    const char *source = getenv("CAIRN_SOURCE"), *at = strstr(common, "DATASET");
    int count = 0;
    snprintf(text, sizeof text, "%.*s%s/tests/golden/dataset/contiguous.h5%s", (int)(at - common), common, source ? source : ".",
             at + strlen("DATASET"));
    snprintf(path, sizeof path, "run_dir=%s/%s", folder, run);
    overrides[count++] = path;
    char number[64];
    snprintf(number, sizeof number, "steps=%d", steps);
    overrides[count++] = number;
    for (int i = 0; i < KEYS && layouts[layout].keys[i]; i++)
        overrides[count++] = (char *)layouts[layout].keys[i];
    for (int i = 0; i < KEYS && model_keys[layouts[layout].model][i]; i++)
        overrides[count++] = (char *)model_keys[layouts[layout].model][i];
    return config_load(c, "restarts.yaml", text, count, overrides);
}

static void set_folder(struct trainer *t, const char *name)
{
    char *path;
    free(t->checkpoints);
    t->checkpoints = asprintf(&path, "%s/%s/checkpoints", folder, name) < 0 ? NULL : path;
    if (t->mesh->rank == 0 && t->checkpoints)
        make_folders(t->checkpoints);
    mesh_barrier(t->mesh);
}

static cairn_err train(struct trainer *t)
{
    bool stopped;
    return trainer_run(t, &stopped);
}

/* LAYOUT's ranks train from the newest checkpoint of FROM up to STEPS. With COPY they write there: first what they have read. */
static cairn_err run(int layout, const char *from, const char *copy, int steps)
{
    struct trainer t;
    struct config c;
    struct mesh *mesh = &meshes[layout];
    TRY(mesh_agree(mesh, load(&c, layout, from, steps)));
    cairn_err err = trainer_open(&t, job, mesh, &c);
    if (!err && copy) {
        set_folder(&t, copy);
        err = trainer_save(&t);
    }
    if (!err)
        err = train(&t);
    trainer_close(&t);
    mesh_disband(mesh);
    config_free(&c);
    return err;
}

/* Rank 0: how far apart two checkpoints are; -1 if not at all. */
static double distance(const char *a, const char *b, int step)
{
    char x[PATH], y[PATH];
    struct checkpoint_difference *found;
    int count;
    double worst = -1;
    snprintf(x, sizeof x, "%s/%s/checkpoints/step-%08d", folder, a, step);
    snprintf(y, sizeof y, "%s/%s/checkpoints/step-%08d", folder, b, step);
    if (checkpoint_diff(x, y, &found, &count) != CAIRN_OK) {
        printf("# %s\n", cairn_err_message());
        return 1;
    }
    for (int i = 0; i < count; i++) {
        double d = found[i].kind == DIFFERENCE_VALUES ? found[i].relative : 1;
        worst = d > worst ? d : worst;
    }
    free(found);
    return worst;
}

/* The one of A's model on one rank. */
static int first_of(int a)
{
    while (a > 0 && layouts[a - 1].model == layouts[a].model)
        a--;
    return a;
}

static int last_of(int a)
{
    while (a + 1 < LAYOUTS && layouts[a + 1].model == layouts[a].model)
        a++;
    return a;
}

/* What goes on from A's checkpoint under B. */
static void test_pair(int a, int b)
{
    int rank = tap_rank();
    char from[16], copy[32], one[32];
    snprintf(from, sizeof from, "from-%d", a);
    snprintf(copy, sizeof copy, "copy-%d-%d", a, b);
    snprintf(one, sizeof one, "copy-%d-%d", a, first_of(a));
    cairn_err err = rank < layouts[b].ranks ? run(b, from, copy, STEPS + 1) : CAIRN_OK;
    double read = rank == 0 && !err ? distance(from, copy, STEPS) : -1, after = rank == 0 && !err ? distance(one, copy, STEPS + 1) : -1;
    bool good = !err && read < 0 && after <= (layouts[b].exact ? -1 : 1e-5);
    if (!good && rank == 0)
        printf("# read %.3g apart, a step later %.3g\n", read, after);
    tap_ok(good, "layout %d after %d: %d ranks %s %s %s", b, a, layouts[b].ranks, layouts[b].keys[0] ? layouts[b].keys[0] : "",
           layouts[b].keys[0] && layouts[b].keys[1] ? layouts[b].keys[1] : "", layouts[b].exact ? "(to the bit)" : "(nearly)");
}

static void open_meshes(void)
{
    for (int i = 0; i < LAYOUTS; i++) {
        MPI_Comm_split(MPI_COMM_WORLD, tap_rank() < layouts[i].ranks, tap_rank(), &comms[i]);
        MPI_Comm_set_errhandler(comms[i], MPI_ERRORS_RETURN);
        meshes[i] = (struct mesh){.world = comms[i], .rank = tap_rank(), .size = layouts[i].ranks, .nodes = 1, .node_of = nodes, .host = "here"};
    }
}

int main(int argc, char **argv)
{
    if (tap_asked_for_ranks(argc, argv, RANKS))
        return 0;
    if (job_open(&job)) {
        fprintf(stderr, "%s\n", cairn_err_message());
        return 1;
    }
    tap_folder("restarts", folder, sizeof folder);
    open_meshes();
    const char *wanted = getenv("CAIRN_TEST_ALL");
    bool all = wanted && *wanted == '1';
    for (int a = 0; a < LAYOUTS; a++) {
        char from[16];
        snprintf(from, sizeof from, "from-%d", a);
        cairn_err err = tap_rank() < layouts[a].ranks ? run(a, from, NULL, STEPS) : CAIRN_OK;
        if (tap_ok(!err, "layout %d trains on %d ranks", a, layouts[a].ranks))
            for (int first = first_of(a), count = last_of(a) + 1 - first, b = first; b < first + count; b++)
                if (all || b == first || b == first + (a - first + 1) % count || b == first + (a - first + 5) % count)
                    test_pair(a, b);
    }
    tap_shell("rm -rf %s", folder);
    job_leave(job, tap_done());
}
