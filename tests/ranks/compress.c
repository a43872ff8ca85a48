/* Compressed sums of gradients on 1 and 3 ranks: what is sent and what is kept add up to what was given; all ranks get the same
 * bits; the bytes sent are those of the formulas; and gradient descent finds the minimum that it would find without. */
#include <math.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "mesh/compress.h"
#include "mesh/tree.h"
#include "tests/ranks/tap.h"

/* A matrix that is worth its factors, a vector, a matrix that is not, a matrix with more columns than rows. */
enum { RANKS = 3, TENSORS = 4, ELEMENTS = 30 * 20 + 37 + 2 * 3 + 8 * 50, SHOWN = 2 /* powersgd's rank */ };

static const struct compress_tensor tensors[TENSORS] = {{30, 20}, {1, 37}, {2, 3}, {8, 50}};
static const char *const names[] = {"none", "bf16", "topk", "powersgd"};

struct test {
    struct group *group;
    struct compressor *compressor;
    struct compress_options options;
    int bucket;
    float sum[ELEMENTS];
    double given[ELEMENTS], kept[ELEMENTS]; /* over all ranks: what they had to send, what they keep */
};

static uint64_t hash(uint64_t x)
{
    x = (x + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 31) * 0xbf58476d1ce4e5b9u;
    return x ^ x >> 29;
}

/* Multiples of 2^-10 below 8: sums of some hundreds are exact in float32, not in bfloat16. */
static float value(int rank, int step, int64_t i)
{
    return ((float)(hash((uint64_t)(rank * 1000 + step) * ELEMENTS + (uint64_t)i) >> 50) - 8192) * 0x1p-10f;
}

static cairn_err open_test(struct test *t, struct group *g, enum compress_kind kind)
{
    *t = (struct test){.group = g, .options = {.kind = kind, .ratio = 0.05, .rank = SHOWN, .seed = 3}};
    TRY(compressor_create(g, &t->options, &t->compressor));
    return compressor_add_bucket(t->compressor, tensors, TENSORS, &t->bucket);
}

/* Adds to SUMS, over all ranks: this rank's residuals. */
static void add_kept(struct test *t, double *sums)
{
    double own[ELEMENTS] = {0};
    struct compress_state whole = compressor_state(t->compressor, t->bucket, 0), share = compressor_state(t->compressor, t->bucket, 1);
    int64_t first = 0, count;
    tree_share(ELEMENTS, t->group->size, t->group->rank, &first, &count);
    for (int64_t i = 0; i < whole.count; i++)
        own[i] += (double)whole.data[i];
    for (int64_t i = 0; i < share.count; i++)
        own[first + i] += (double)share.data[i];
    MPI_Allreduce(own, sums, ELEMENTS, MPI_DOUBLE, MPI_SUM, t->group->comm);
}

/* A step with these gradients; what was kept and given before it and what is kept after, for `lost`. */
static cairn_err step(struct test *t, int number)
{
    double own[ELEMENTS];
    add_kept(t, t->kept);
    for (int64_t i = 0; i < ELEMENTS; i++)
        own[i] = (double)(t->sum[i] = value(t->group->rank, number, i));
    MPI_Allreduce(own, t->given, ELEMENTS, MPI_DOUBLE, MPI_SUM, t->group->comm);
    for (int64_t i = 0; i < ELEMENTS; i++)
        t->given[i] += t->kept[i];
    TRY(compress_sum(t->compressor, t->bucket, t->sum));
    add_kept(t, t->kept);
    return CAIRN_OK;
}

/* Elements that rank RANK sends in a sum of N elements over R ranks (mesh/collective.h). */
static int64_t all_reduce_elements(int64_t n, int R, int rank)
{
    int64_t first, own;
    tree_share(n, R, rank, &first, &own);
    return n - own + (R - 1) * own;
}

static int64_t bytes(const struct test *t)
{
    int R = t->group->size, rank = t->group->rank;
    switch (t->options.kind) {
    case COMPRESS_NONE: return 4 * all_reduce_elements(ELEMENTS, R, rank);
    case COMPRESS_BF16: return 2 * all_reduce_elements(ELEMENTS, R, rank);
    case COMPRESS_TOPK: return 8 * (R - 1) * (int64_t)ceil(0.05 * ELEMENTS);
    case COMPRESS_POWERSGD: break;
    }
    return 4 * (all_reduce_elements(SHOWN * (30 + 8) + 37 + 2 * 3, R, rank) + all_reduce_elements(SHOWN * (20 + 50), R, rank));
}

/* Ten steps: each sum and what is kept after it are what was given and what was kept before. */
static cairn_err nothing_is_lost(struct test *t)
{
    double bound = t->options.kind == COMPRESS_POWERSGD ? 1e-4 : 0; /* products are rounded */
    for (int s = 0; s < 10; s++) {
        int64_t before = t->group->bytes_sent;
        float first[ELEMENTS];
        TRY(step(t, s));
        for (int64_t i = 0; i < ELEMENTS; i++)
            if (!(fabs(t->given[i] - t->kept[i] - (double)t->sum[i]) <= bound))
                return FAIL(CAIRN_EINVAL, "step %d: element %lld: %g given, %g kept, %g sent", s, (long long)i, t->given[i], t->kept[i],
                            (double)t->sum[i]);
        if (t->group->bytes_sent - before != bytes(t))
            return FAIL(CAIRN_EINVAL, "%lld bytes sent, not %lld", (long long)(t->group->bytes_sent - before), (long long)bytes(t));
        memcpy(first, t->sum, sizeof first);
        MPI_Bcast(first, ELEMENTS, MPI_FLOAT, 0, t->group->comm);
        if (memcmp(first, t->sum, sizeof first) != 0)
            return FAIL(CAIRN_EINVAL, "not the same bits on all ranks");
    }
    return CAIRN_OK;
}

/* After its state was put back, a compressor repeats itself. */
static cairn_err state_is_all(struct test *t)
{
    float *saved[COMPRESS_STATES], once[ELEMENTS];
    for (int n = 0; n < COMPRESS_STATES; n++) {
        struct compress_state s = compressor_state(t->compressor, t->bucket, n);
        saved[n] = malloc((size_t)s.count * sizeof(float) + 1);
        memcpy(saved[n], s.data, (size_t)s.count * sizeof(float));
    }
    TRY(step(t, 20));
    TRY(step(t, 21));
    memcpy(once, t->sum, sizeof once);
    for (int n = 0; n < COMPRESS_STATES; n++) {
        struct compress_state s = compressor_state(t->compressor, t->bucket, n);
        memcpy(s.data, saved[n], (size_t)s.count * sizeof(float));
        free(saved[n]);
    }
    TRY(step(t, 20));
    TRY(step(t, 21));
    return memcmp(once, t->sum, sizeof once) == 0 ? CAIRN_OK : FAIL(CAIRN_EINVAL, "another sum after the state was put back");
}

/* Rank r pulls towards its own point; the sum of all, towards their mean. Ranks' gradients never vanish, so what is kept matters. */
static cairn_err descends(struct test *t)
{
    static float x[ELEMENTS], gradient[ELEMENTS];
    int R = t->group->size;
    double worst = 0;
    memset(x, 0, sizeof x);
    for (int s = 0; s < 500; s++) {
        double rate = 0.05 / (1 + s / 100.0);
        for (int64_t i = 0; i < ELEMENTS; i++)
            gradient[i] = x[i] - value(t->group->rank, 77, i);
        TRY(compress_sum(t->compressor, t->bucket, gradient));
        for (int64_t i = 0; i < ELEMENTS; i++)
            x[i] -= (float)rate * gradient[i] / (float)R;
    }
    for (int64_t i = 0; i < ELEMENTS; i++) {
        double mean = 0;
        for (int r = 0; r < R; r++)
            mean += (double)value(r, 77, i) / R;
        worst = fmax(worst, fabs((double)x[i] - mean));
    }
    return worst < 0.5 ? CAIRN_OK : FAIL(CAIRN_EINVAL, "an element ends %g from the minimum", worst);
}

/* A matrix of rank 1, all ranks' alike but for a factor, needs no more than one step's factors, also after a step of zeros. */
static cairn_err low_rank_is_exact(struct test *t)
{
    for (int s = 0; s < 3; s++) {
        int factor = s > 0;
        memset(t->sum, 0, sizeof t->sum);
        for (int i = 0; i < 30; i++)
            for (int j = 0; j < 20; j++)
                t->sum[i * 20 + j] = (float)(factor * (t->group->rank + 1)) * sinf((float)i) * cosf((float)j);
        TRY(compress_sum(t->compressor, t->bucket, t->sum));
        for (int i = 0; i < 600; i++) {
            double expected = factor * t->group->size * (t->group->size + 1) / 2 * sin(i / 20) * cos(i % 20);
            if (!(fabs((double)t->sum[i] - expected) < 1e-5))
                return FAIL(CAIRN_EINVAL, "element %d is %g, not %g", i, (double)t->sum[i], expected);
        }
    }
    return CAIRN_OK;
}

static void check(struct group *g, int size, enum compress_kind kind)
{
    static struct test t;
    typedef cairn_err body(struct test *t);
    static body *const bodies[] = {nothing_is_lost, state_is_all, descends, low_rank_is_exact};
    static const char *const claims[] = {"nothing is lost", "its state is all that it remembers", "descends to the minimum",
                                         "matrices of low rank are exact"};
    for (int i = 0; i < 4; i++) {
        cairn_err err = CAIRN_OK;
        if ((i == 2 && size == 1) || (i == 3 && kind != COMPRESS_POWERSGD))
            continue;
        if (g->comm != MPI_COMM_NULL) {
            err = open_test(&t, g, kind);
            if (!err)
                err = bodies[i](&t);
            compressor_destroy(t.compressor);
        }
        tap_ok(!err, "%d ranks, %s: %s", size, names[kind], claims[i]);
    }
}

int main(int argc, char **argv)
{
    if (tap_asked_for_ranks(argc, argv, RANKS))
        return 0;
    int rank = tap_begin(argc, argv, RANKS);
    for (int size = 1; size <= RANKS; size += 2) {
        struct group g = {.comm = MPI_COMM_NULL};
        MPI_Comm comm;
        MPI_Comm_split(MPI_COMM_WORLD, rank < size ? 0 : MPI_UNDEFINED, 0, &comm);
        if (comm != MPI_COMM_NULL && group_open(&g, comm, 0) != CAIRN_OK)
            tap_bail_out(cairn_err_message());
        for (int kind = COMPRESS_NONE; kind <= COMPRESS_POWERSGD; kind++)
            check(&g, size, kind);
        group_close(&g);
        if (comm != MPI_COMM_NULL)
            MPI_Comm_free(&comm);
    }
    return tap_end();
}
