/* A GPT's forward pass, backward pass and ten AdamW steps against golden values made with PyTorch in float64
 * (tests/golden/README.md), by every backend and type, on one rank and on all. TAP from rank 0. */
#include <hdf5.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/plugin.h"
#include "mesh/tree.h"
#include "model/gpt.h"
#include "tests/ranks/tap.h"
#include "train/gradient.h"
#include "train/learning_rate.h"
#include "train/optimizer.h"

enum { RANKS = 3 };

struct golden {
    hid_t file;
    struct config config;
    int64_t batch, steps, vocabulary;
    int32_t *tokens, *targets; /* [steps, microbatches, batch, context] */
};

/* The larger error. NaN is the worst of all and stays, where fmax would pass it over. */
static double worse(double a, double b)
{
    return isnan(a) || a >= b ? a : b;
}

static void check(const char *what, double worst, double bound)
{
    tap_ok(worst <= bound, "%s: %.2e, bound %.0e", what, worst, bound);
}

static int64_t integer(hid_t file, const char *name)
{
    int value = 0;
    hid_t a = H5Aopen(file, name, H5P_DEFAULT);
    H5Aread(a, H5T_NATIVE_INT, &value);
    H5Aclose(a);
    return value;
}

static double real(hid_t file, const char *name)
{
    double value = NAN;
    hid_t a = H5Aopen(file, name, H5P_DEFAULT);
    H5Aread(a, H5T_NATIVE_DOUBLE, &value);
    H5Aclose(a);
    return value;
}

/* The dataset NAME as TYPE; *COUNT elements. */
static void *array(hid_t file, const char *name, hid_t type, int64_t *count)
{
    hid_t d = H5Dopen(file, name, H5P_DEFAULT), s = H5Dget_space(d);
    *count = H5Sget_simple_extent_npoints(s);
    void *data = malloc((size_t)*count * 8);
    H5Dread(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Sclose(s);
    H5Dclose(d);
    return data;
}

static void open_golden(const char *path, struct golden *g)
{
    int64_t n;
    memset(g, 0, sizeof *g);
    g->file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (g->file < 0) {
        printf("Bail out! cannot open %s\n", path);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    struct config *c = &g->config;
    c->model.layers = integer(g->file, "layers");
    c->model.width = integer(g->file, "width");
    c->model.heads = integer(g->file, "heads");
    c->model.context = integer(g->file, "context");
    g->vocabulary = integer(g->file, "vocabulary");
    c->model.tied = integer(g->file, "tied");
    c->batch.microbatches = integer(g->file, "microbatches");
    g->batch = integer(g->file, "batch");
    g->steps = integer(g->file, "steps");
    c->steps = c->optimizer.decay_steps = integer(g->file, "decay_steps");
    c->optimizer.warmup_steps = integer(g->file, "warmup_steps");
    c->optimizer.learning_rate = real(g->file, "learning_rate");
    c->optimizer.min_learning_rate = real(g->file, "min_learning_rate");
    c->optimizer.beta1 = real(g->file, "beta1");
    c->optimizer.beta2 = real(g->file, "beta2");
    c->optimizer.epsilon = real(g->file, "epsilon");
    c->optimizer.weight_decay = real(g->file, "weight_decay");
    c->optimizer.clip_norm = real(g->file, "clip");
    g->tokens = array(g->file, "tokens", H5T_NATIVE_INT32, &n);
    g->targets = array(g->file, "targets", H5T_NATIVE_INT32, &n);
}

/* N elements of acc at VECTOR, in the processor's memory; freed by free. */
static void *downloaded(struct backend *b, const void *vector, int64_t n)
{
    size_t bytes = (size_t)n * dtype_size(b->acc);
    void *there = malloc(bytes);
    b->table->download(b, there, vector, bytes);
    return there;
}

static double value_at(const struct backend *b, const void *vector, int64_t i)
{
    return b->acc == DTYPE_F64 ? ((const double *)vector)[i] : (double)((const float *)vector)[i];
}

static void set_weights(struct golden *g, struct weights *w)
{
    for (int i = 0; i < w->count; i++) {
        const struct parameter *p = &w->parameters[i];
        char name[160];
        int64_t n;
        snprintf(name, sizeof name, "initial/weights/%s", p->name);
        bool wide = w->backend->acc == DTYPE_F64;
        void *values = array(g->file, name, wide ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT, &n);
        size_t size = dtype_size(w->backend->acc);
        w->backend->table->upload(w->backend, (char *)w->master + (size_t)p->offset * size, values, (size_t)n * size);
        free(values);
    }
    weights_refresh(w, &(struct weights_rounding){.stochastic = false});
}

/* The worst relative Frobenius error over the arrays GROUP/NAME. Keys' biases are left out: their gradient is zero but for rounding
 * (a shift of all of a query's scores), and Adam divides rounding by rounding. */
static double worst_error(struct golden *g, const struct weights *w, const char *group, const void *there, char *worst_name)
{
    double worst = 0;
    void *vector = downloaded(w->backend, there, w->elements);
    int64_t width = g->config.model.width;
    for (int i = 0; i < w->count; i++) {
        const struct parameter *p = &w->parameters[i];
        bool qkv_bias = strstr(p->name, "qkv.bias") != NULL;
        char name[160];
        int64_t n;
        snprintf(name, sizeof name, "%s/%s", group, p->name);
        double *golden = array(g->file, name, H5T_NATIVE_DOUBLE, &n), difference = 0, total = 0;
        for (int64_t k = 0; k < n; k++) {
            if (qkv_bias && k >= width && k < 2 * width)
                continue;
            double d = value_at(w->backend, vector, p->offset + k) - golden[k];
            difference += d * d;
            total += golden[k] * golden[k];
        }
        double error = sqrt(difference / total);
        if (!isnan(worst) && !(error <= worst))
            strcpy(worst_name, p->name);
        worst = worse(worst, error);
        free(golden);
    }
    free(vector);
    return worst;
}

struct run {
    struct golden *golden;
    struct mesh *mesh;
    struct backend *backend;
    struct graph *graph;
    struct weights weights;
    struct gradient *gradient;
    const char *label;
    double bound;
};

static void compare(struct run *r, const char *group, const void *vector)
{
    char name[SHARD_NAME_SIZE] = "", text[512];
    double worst = worst_error(r->golden, &r->weights, group, vector, name);
    snprintf(text, sizeof text, "%s: %s (worst %s)", r->label, group, name);
    check(text, worst, r->bound);
}

static void train(struct run *r)
{
    struct golden *g = r->golden;
    struct config *c = &g->config;
    int64_t first, count, n, rows = g->batch * c->model.context, V = c->batch.microbatches;
    double *losses = array(g->file, "loss", H5T_NATIVE_DOUBLE, &n), *norms = array(g->file, "gradient_norm", H5T_NATIVE_DOUBLE, &n);
    double worst_loss = 0, worst_norm = 0;
    tree_share(V, r->mesh->size, r->mesh->rank, &first, &count);
    for (int64_t step = 0; step < g->steps; step++) {
        double loss = 0, norm;
        for (int64_t m = first; m < first + count; m++) {
            int64_t at = (step * V + m) * rows;
            const struct graph_pass pass = {.step = step, .microbatch = m, .inputs = g->tokens + at, .targets = g->targets + at,
                                            .loss_scale = 1.0 / (double)(rows * V)};
            if (graph_forward_backward(r->graph, &pass) != CAIRN_OK)
                printf("# %s\n", cairn_err_message());
            loss += graph_mean_loss(r->graph) / (double)V;
        }
        if (gradient_finish(r->gradient, &norm) != CAIRN_OK)
            printf("# %s\n", cairn_err_message());
        MPI_Allreduce(MPI_IN_PLACE, &loss, 1, MPI_DOUBLE, MPI_SUM, r->mesh->world);
        if (step == 0)
            compare(r, "gradient", gradient_own(r->gradient, 0, 0));
        worst_loss = worse(worst_loss, fabs(loss - losses[step]) / losses[step]);
        worst_norm = worse(worst_norm, fabs(norm - norms[step]) / norms[step]);
        optimizer_update(c, &r->weights, r->gradient, 0, &(struct optimizer_step){learning_rate_at(c, step), norm, step + 1});
    }
    char text[160];
    snprintf(text, sizeof text, "%s: losses of ten steps", r->label);
    check(text, worst_loss, r->bound);
    snprintf(text, sizeof text, "%s: gradient norms of ten steps", r->label);
    check(text, worst_norm, r->bound);
    compare(r, "final/weights", r->weights.master);
    compare(r, "final/moment1", r->weights.moment1);
    compare(r, "final/moment2", r->weights.moment2);
    free(losses);
    free(norms);
}

static void run(const char *folder, const char *file, const char *backend, enum dtype type, double bound, struct mesh *mesh)
{
    char path[4096], label[160];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    snprintf(label, sizeof label, "%s, %s %s, ranks %d", file, backend, dtype_name(type), mesh->size);
    struct golden g;
    open_golden(path, &g);
    struct run r = {.golden = &g, .mesh = mesh, .label = label, .bound = bound};
    const struct backend_options options = {.act = type, .threads = 1, .instruction_set = "auto"};
    const struct graph_options shape = {.samples = g.batch, .context = g.config.model.context, .training = true,
                                        .join_lookups = g.config.batch.microbatches == 1};
    const struct gpt gpt = {.layers = g.config.model.layers, .width = g.config.model.width, .heads = g.config.model.heads,
                            .vocabulary = g.vocabulary, .tied = g.config.model.tied};
    const struct gradient_options sums = {.microbatches = g.config.batch.microbatches, .overlap = true};
    cairn_err err = backend_open(backend, &options, &r.backend);
    if (!err) {
        r.graph = graph_new(r.backend, &shape);
        const struct gpt_piece whole = gpt_piece_of(&gpt, shape.context, 1, 0);
        gpt_declare(r.graph, &gpt, &whole, shape.context, true, NULL, NULL);
        err = graph_finish(r.graph);
        err = err ? err : graph_allocate(r.graph, 1, NULL);
    }
    if (!err)
        err = weights_open(r.backend, r.graph, true, NULL, &r.weights);
    if (!err)
        err = gradient_open(mesh, r.backend, &sums, 1, &r.graph, &r.weights, &r.gradient);
    if (err) {
        printf("Bail out! %s: %s\n", label, cairn_err_message());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    set_weights(&g, &r.weights);
    train(&r);
    gradient_close(r.gradient);
    weights_close(&r.weights);
    graph_free(r.graph);
    r.backend->table->close(r.backend);
    free(g.tokens);
    free(g.targets);
    H5Fclose(g.file);
}

static void run_on_gpu(const char *folder, const char *file, struct mesh *mesh)
{
    if (plugin_is_there("cuda"))
        run(folder, file, "cuda", DTYPE_F32, 1e-5, mesh);
    else
        tap_skip("there is no cuda backend");
}

int main(int argc, char **argv)
{
    static const char *const files[] = {"gpt_tied.h5", "gpt_untied.h5", "gpt_accumulate.h5"};
    if (tap_asked_for_ranks(argc, argv, RANKS))
        return 0;
    int nodes[RANKS] = {0}, rank = tap_begin(argc, argv, RANKS);
    struct mesh all = {.world = MPI_COMM_WORLD, .rank = rank, .size = RANKS, .nodes = 1, .node_of = nodes};
    struct mesh alone = {.world = MPI_COMM_SELF, .rank = 0, .size = 1, .nodes = 1, .node_of = nodes};
    const struct layout of_all = mesh_plain_layout(RANKS), of_one = mesh_plain_layout(1);
    if (mesh_arrange(&all, &of_all) || mesh_arrange(&alone, &of_one))
        printf("Bail out! %s\n", cairn_err_message());
    const char *source = getenv("CAIRN_SOURCE");
    char folder[4000];
    snprintf(folder, sizeof folder, "%s/tests/golden", source ? source : ".");
    for (int i = 0; i < 3; i++) {
        run(folder, files[i], "reference", DTYPE_F64, 1e-10, &alone);
        run(folder, files[i], "reference", DTYPE_F32, 1e-5, &alone);
        run(folder, files[i], "cpu", DTYPE_F32, 1e-5, &alone);
        run_on_gpu(folder, files[i], &alone);
    }
    run_on_gpu(folder, files[2], &all);
    run(folder, files[2], "cpu", DTYPE_F32, 1e-5, &all);
    run(folder, files[2], "reference", DTYPE_F64, 1e-10, &all);
    mesh_disband(&all);
    mesh_disband(&alone);
    return tap_end();
}
