/* The sums of mesh/reduce.h on 1 to 8 ranks, against the tree's sum on one: bit by bit, at once and in rounds, for even and uneven
 * shares of leaves and elements, with many buckets under way; and starts in unlike orders. TAP from rank 0. */
#include <math.h>
#include <mpi.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#include "base/error.h"
#include "mesh/reduce.h"
#include "tests/ranks/tap.h"

/* BIG, in pieces of the least size, takes several rounds on two ranks; with 8 leaves on one of them it still does. */
enum { RANKS = 8, BUCKETS = 6, MOST_LEAVES = 17, BIG = 5000, ELEMENTS = BIG + 37 + 9 + 1 + 800, VECTORS = 12 };

static const int64_t bucket_lengths[BUCKETS] = {37, 0, BIG, 9, 1, 800};

struct test {
    struct group *group;
    struct reducer *reducer;
    struct reducer_options options;
    int64_t first[RANKS], count[RANKS], stride; /* leaves of each rank */
    int64_t begins[BUCKETS]; /* of each bucket in a vector */
    int64_t range_room[BUCKETS][2 * RANKS];
    struct reduce_ranges ranges[BUCKETS];
    void *vectors[VECTORS], *expected;
    int bucket[BUCKETS];
};

/* Of magnitudes so different that each order of a sum has other bits. */
static double value(int64_t leaf, int64_t element)
{
    uint64_t x = ((uint64_t)leaf * 1000003 + (uint64_t)element + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 31) * 0xbf58476d1ce4e5b9u;
    x ^= x >> 29;
    return ((double)(x >> 40) - 8388608.0) * (double)(1 << x % 10);
}

static void fill(void *vector, int64_t leaf, enum dtype dtype)
{
    for (int64_t i = 0; i < ELEMENTS; i++)
        if (dtype == DTYPE_F64)
            ((double *)vector)[i] = value(leaf, i) * (1 + 1e-9);
        else
            ((float *)vector)[i] = (float)value(leaf, i);
}

static void add(void *context, void *sum, const void *a, const void *b, int64_t n)
{
    if (*(const enum dtype *)context == DTYPE_F64)
        for (int64_t i = 0; i < n; i++)
            ((double *)sum)[i] = ((const double *)a)[i] + ((const double *)b)[i];
    else
        for (int64_t i = 0; i < n; i++)
            ((float *)sum)[i] = ((const float *)a)[i] + ((const float *)b)[i];
}

/* Leaves FIRST..FIRST+COUNT-1 joined as far as the tree of V lets them, from VECTORS[0] on; returns how many partial sums are left. */
static int sum_leaves(void **vectors, int64_t V, int64_t first, int64_t count, enum dtype dtype)
{
    struct tree_stack stack;
    int left;
    tree_begin(&stack, V);
    for (int64_t i = 0; i < count; i++) {
        fill(vectors[stack.count], first + i, dtype);
        tree_push(&stack, (struct tree_node){0, first + i});
        while (tree_join(&stack, &left))
            add(&dtype, vectors[left], vectors[left], vectors[left + 1], ELEMENTS);
    }
    return stack.count;
}

/* Rank r of R owns of N elements: an even share, or a most uneven one that leaves some with nothing. */
static void share_elements(struct reduce_ranges *ranges, int64_t n, int R, bool even)
{
    int64_t next = 0;
    for (int r = 0; r < R; r++) {
        int64_t ignored;
        ranges->begin[r] = next;
        if (even)
            tree_share(n, R, r, &ignored, &ranges->length[r]);
        else
            ranges->length[r] = r == R - 1 ? n - next : r % 3 == 1 ? 0 : (n - next) / 2;
        next += ranges->length[r];
    }
}

/* Not in rounds: even, or so that every other rank has about half of what is left. In rounds: each rank the next leaf; or, of HALVES,
 * as if each microbatch were split between two halves of the ranks, whose leaves are the tree's two halves. */
static void share_leaves(struct test *t, bool halves, bool even)
{
    int R = t->group->size;
    int64_t next = 0, V = t->options.leaves.leaves, D = R / 2;
    for (int r = 0; r < R; r++) {
        if (halves) {
            t->first[r] = r / D * (V / 2) + r % D;
            t->count[r] = (V / 2 - r % D + D - 1) / D;
        } else if (t->options.rounds) {
            t->first[r] = r;
            t->count[r] = (V - r + R - 1) / R;
        } else if (even) {
            tree_share(V, R, r, &t->first[r], &t->count[r]);
        } else {
            t->first[r] = next;
            t->count[r] = r == R - 1 ? V - next : 1 + (V - next - (R - r)) / 2 * (r % 2);
            next += t->count[r];
        }
    }
    t->stride = halves ? D : t->options.rounds ? R : 1;
    if (halves || !even) /* else the reducer is to find the same */
        t->options.leaves = (struct reduce_leaves){V, t->stride, t->first, t->count};
}

static cairn_err open_test(struct test *t, bool even)
{
    int64_t next = 0, V = t->options.leaves.leaves;
    t->options.add = add;
    t->options.add_context = &t->options.dtype;
    for (int i = 0; i < BUCKETS; i++) {
        t->begins[i] = next;
        t->ranges[i] = (struct reduce_ranges){t->range_room[i], t->range_room[i] + t->group->size};
        share_elements(&t->ranges[i], bucket_lengths[i], t->group->size, even);
        next += bucket_lengths[i];
    }
    for (int i = 0; i < VECTORS; i++)
        t->vectors[i] = malloc((size_t)ELEMENTS * 8);
    sum_leaves(t->vectors, V, 0, V, t->options.dtype);
    t->expected = t->vectors[0];
    t->vectors[0] = malloc((size_t)ELEMENTS * 8);
    TRY(reducer_create(t->group, &t->options, &t->reducer));
    for (int i = 0; i < BUCKETS; i++)
        TRY(reducer_add_bucket(t->reducer, &t->ranges[i], &t->bucket[i]));
    return CAIRN_OK;
}

static void close_test(struct test *t)
{
    reducer_destroy(t->reducer);
    for (int i = 0; i < VECTORS; i++)
        free(t->vectors[i]);
    free(t->expected);
    t->group->bytes_sent = t->group->bytes_received = 0;
}

static char *at(const struct test *t, void *vector, int64_t element)
{
    return (char *)vector + (size_t)element * dtype_size(t->options.dtype);
}

static cairn_err start(struct test *t, int i, bool gather)
{
    void *partials[TREE_MAX_NODES];
    for (int k = 0; k < reducer_partials(t->reducer); k++)
        partials[k] = at(t, t->vectors[k], t->begins[i]);
    return reduce_start(t->reducer, t->bucket[i], partials, gather);
}

/* Whether N elements of bucket I from BEGIN are those of the tree's sum. */
static cairn_err same(const struct test *t, int i, int64_t begin, int64_t n, const void *values)
{
    if (memcmp(values, at(t, t->expected, t->begins[i] + begin), (size_t)n * dtype_size(t->options.dtype)) == 0)
        return CAIRN_OK;
    return FAIL(CAIRN_EINVAL, "%lld leaves, %s%s: bucket %d has other values", (long long)t->options.leaves.leaves,
                dtype_name(t->options.dtype), t->options.rounds ? ", in rounds" : "", i);
}

/* P partial sums of what others own were sent; if gathered, R-1 times the own range too. */
static cairn_err counted(struct test *t, int64_t P, bool gather_odd)
{
    int R = t->group->size, rank = t->group->rank;
    int64_t elements = 0;
    for (int i = 0; i < BUCKETS; i++)
        elements += P * (bucket_lengths[i] - t->ranges[i].length[rank]) + (gather_odd && i % 2 ? (R - 1) * t->ranges[i].length[rank] : 0);
    int64_t bytes = elements * (int64_t)dtype_size(t->options.dtype);
    if (t->group->bytes_sent != bytes)
        return FAIL(CAIRN_EINVAL, "%lld bytes sent, not %lld", (long long)t->group->bytes_sent, (long long)bytes);
    return CAIRN_OK;
}

/* All buckets under way together, every other one gathered; by progress alone or by waiting, the last one first. */
static cairn_err at_once(struct test *t, bool wait)
{
    int rank = t->group->rank, left = BUCKETS;
    int64_t V = t->options.leaves.leaves;
    int n = sum_leaves(t->vectors, V, t->first[rank], t->count[rank], t->options.dtype);
    if (n != reducer_partials(t->reducer))
        return FAIL(CAIRN_EINVAL, "%d partial sums, not %d", reducer_partials(t->reducer), n);
    for (int i = 0; i < BUCKETS; i++)
        TRY(start(t, i, i % 2));
    for (int i = BUCKETS; wait && i-- > 0;)
        TRY(reduce_wait(t->reducer, t->bucket[i]));
    while (left) {
        sched_yield(); /* to the other ranks, of which there may be more than cores */
        TRY(reduce_progress(t->reducer));
        left = BUCKETS;
        for (int i = 0; i < BUCKETS; i++)
            left -= reduce_done(t->reducer, t->bucket[i]);
    }
    for (int i = 0; i < BUCKETS; i++) {
        int64_t begin = t->ranges[i].begin[rank], own = t->ranges[i].length[rank];
        if (i % 2)
            TRY(same(t, i, 0, bucket_lengths[i], at(t, t->vectors[0], t->begins[i])));
        TRY(same(t, i, begin, own, at(t, t->vectors[0], t->begins[i] + begin)));
    }
    return counted(t, n, true);
}

/* Two sums after one another. Odd buckets are waited for at once, the even ones are under way until the round's end. */
static cairn_err in_rounds(struct test *t)
{
    int rank = t->group->rank;
    int64_t given = 0;
    for (int64_t i = 0; i < 2 * reducer_rounds(t->reducer); i++) {
        int64_t round = i % reducer_rounds(t->reducer);
        bool has_leaf = round < t->count[rank];
        given += has_leaf;
        if (has_leaf)
            fill(t->vectors[0], t->first[rank] + round * t->stride, t->options.dtype);
        for (int k = 0; k < BUCKETS; k++) {
            TRY(has_leaf ? start(t, k, false) : reduce_start(t->reducer, t->bucket[k], NULL, false));
            if (k % 2)
                TRY(reduce_wait(t->reducer, t->bucket[k]));
        }
        TRY(reduce_wait_all(t->reducer));
    }
    for (int i = 0; i < BUCKETS; i++)
        TRY(same(t, i, t->ranges[i].begin[rank], t->ranges[i].length[rank], reduce_shard(t->reducer, t->bucket[i])));
    return counted(t, given, false);
}

/* Vectors of two types gathered while sums are under way. */
static cairn_err gathers_beside_sums(struct test *t)
{
    int rank = t->group->rank, R = t->group->size;
    static uint16_t shorts[ELEMENTS];
    for (int i = 0; i < BUCKETS; i++)
        for (int64_t k = 0; k < bucket_lengths[i]; k++) {
            int64_t own = k - t->ranges[i].begin[rank];
            shorts[t->begins[i] + k] = own >= 0 && own < t->ranges[i].length[rank] ? (uint16_t)(i * 100 + k) : 0xffff;
        }
    sum_leaves(t->vectors, t->options.leaves.leaves, t->first[rank], t->count[rank], t->options.dtype);
    for (int i = 0; i < BUCKETS; i++) {
        TRY(start(t, i, true));
        TRY(gather_start(t->reducer, t->bucket[i], shorts + t->begins[i], DTYPE_BF16));
    }
    TRY(gather_wait(t->reducer, t->bucket[BUCKETS - 1]));
    TRY(reduce_wait_all(t->reducer));
    for (int i = 0; i < BUCKETS; i++) {
        TRY(same(t, i, 0, bucket_lengths[i], at(t, t->vectors[0], t->begins[i])));
        for (int64_t k = 0; k < bucket_lengths[i]; k++)
            if (shorts[t->begins[i] + k] != (uint16_t)(i * 100 + k))
                return FAIL(CAIRN_EINVAL, "bucket %d is not gathered on %d ranks", i, R);
    }
    return CAIRN_OK;
}

static cairn_err near(const struct test *t, int i, int64_t begin, int64_t n, const void *values)
{
    const float *expected = (const float *)t->expected + t->begins[i] + begin, *got = values;
    for (int64_t k = 0; k < n; k++)
        if (!(fabsf(got[k] - expected[k]) <= 1e-6f * MOST_LEAVES * 4.3e9f))
            return FAIL(CAIRN_EINVAL, "fast: element %lld of bucket %d is %g, not %g", (long long)k, i, (double)got[k], (double)expected[k]);
    return CAIRN_OK;
}

/* MPI's sums of one vector a rank: within rounding. In rounds, one leaf a rank and round. */
static cairn_err fast(struct test *t)
{
    int rank = t->group->rank, R = t->group->size;
    int64_t V = t->options.leaves.leaves;
    for (int64_t round = 0; round < reducer_rounds(t->reducer); round++) {
        memset(t->vectors[0], 0, (size_t)ELEMENTS * 8);
        for (int64_t leaf = rank + round * R; leaf < V; leaf += t->options.rounds ? V : R) {
            fill(t->vectors[1], leaf, DTYPE_F32);
            add(&t->options.dtype, t->vectors[0], t->vectors[0], t->vectors[1], ELEMENTS);
        }
        for (int i = 0; i < BUCKETS; i++)
            TRY(start(t, i, i % 2 && !t->options.rounds));
        TRY(reduce_wait_all(t->reducer));
    }
    for (int i = 0; i < BUCKETS; i++) {
        int64_t begin = t->ranges[i].begin[rank], own = t->ranges[i].length[rank];
        if (t->options.rounds)
            TRY(near(t, i, begin, own, reduce_shard(t->reducer, t->bucket[i])));
        else
            TRY(near(t, i, i % 2 ? 0 : begin, i % 2 ? bucket_lengths[i] : own, at(t, t->vectors[0], t->begins[i] + (i % 2 ? 0 : begin))));
    }
    return counted(t, reducer_rounds(t->reducer), !t->options.rounds);
}

/* Rank 0 starts two buckets the other way round: every rank hears of it, none waits for ever. */
static cairn_err unlike_orders(struct test *t)
{
    int rank = t->group->rank, a = rank ? 2 : 5, b = rank ? 5 : 2;
    sum_leaves(t->vectors, t->options.leaves.leaves, t->first[rank], t->count[rank], t->options.dtype);
    cairn_err err = start(t, a, true);
    if (!err)
        err = start(t, b, true);
    if (!err)
        err = reduce_wait_all(t->reducer);
    if (err == CAIRN_EMPI && reduce_progress(t->reducer) == CAIRN_EMPI)
        return CAIRN_OK;
    return FAIL(CAIRN_EINVAL, "starts in unlike orders end with %s", cairn_err_name(err));
}

enum body { AT_ONCE, ROUNDS, HALVES, GATHERS, FAST, FAST_ROUNDS, UNLIKE };

static cairn_err run_body(struct test *t, enum body body)
{
    switch (body) {
    case AT_ONCE: return at_once(t, t->options.leaves.leaves % 2);
    case ROUNDS:
    case HALVES: return in_rounds(t);
    case GATHERS: return gathers_beside_sums(t);
    case FAST:
    case FAST_ROUNDS: return fast(t);
    case UNLIKE: break;
    }
    return unlike_orders(t);
}

static bool run(struct group *g, enum body body, int64_t V, bool even)
{
    struct test t = {.group = g};
    bool fast_ = body == FAST || body == FAST_ROUNDS;
    t.options = (struct reducer_options){.leaves = {.leaves = V}, .rounds = body == ROUNDS || body == HALVES || body == FAST_ROUNDS,
                                         .fast = fast_, .dtype = V % 2 || fast_ ? DTYPE_F32 : DTYPE_F64,
                                         .scratch_bytes = V % 3 ? 1 : 0};
    share_leaves(&t, body == HALVES, even);
    cairn_err err = open_test(&t, even);
    if (!err)
        err = run_body(&t, body);
    close_test(&t);
    return !err;
}

/* MPI may still write to what has failed: that is never given back, which no leak checker is to mind. */
static bool run_failing(struct group *g)
{
#ifdef __SANITIZE_ADDRESS__
    __lsan_disable();
#endif
    bool good = run(g, UNLIKE, MOST_LEAVES, true);
#ifdef __SANITIZE_ADDRESS__
    __lsan_enable();
#endif
    return good;
}

/* All ways of leaves and elements that SIZE ranks can have. */
static void check_size(struct group *g, int size)
{
    bool inside = g->comm != MPI_COMM_NULL, good = true;
    int step = size < 4 ? 1 : 5;
    for (int64_t V = size; inside && V <= MOST_LEAVES; V += step)
        good = run(g, AT_ONCE, V, V / 2 % 2) && good;
    tap_ok(good, "%d ranks: at once", size);
    for (int64_t V = size; inside && V <= MOST_LEAVES; V += step)
        good = run(g, ROUNDS, V, V % 2) && good;
    tap_ok(good, "%d ranks: in rounds", size);
    for (int64_t V = size + size % 2; inside && size % 2 == 0 && V <= MOST_LEAVES; V += 2 * step)
        good = run(g, HALVES, V, V % 4) && good;
    tap_ok(good, "%d ranks: in rounds of leaves that are not neighbours", size);
    tap_ok(!inside || (run(g, GATHERS, size, true) && run(g, GATHERS, MOST_LEAVES, false)), "%d ranks: gathers beside sums", size);
    tap_ok(!inside || (run(g, FAST, MOST_LEAVES, true) && run(g, FAST_ROUNDS, MOST_LEAVES, false)), "%d ranks: MPI's sums", size);
}

int main(int argc, char **argv)
{
    if (tap_asked_for_ranks(argc, argv, RANKS))
        return 0;
    if (!getenv("UCX_LOG_LEVEL")) { /* what errors leave behind is no news. UCX reads it before main. */
        setenv("UCX_LOG_LEVEL", "error", 1);
        execv("/proc/self/exe", argv);
    }
    int rank = tap_begin(argc, argv, RANKS);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN); /* MPICH tells this one of a request's error */
    for (int size = 1; size <= RANKS + 2; size++) { /* the last two times with errors, which are left to MPI */
        int ranks = size == RANKS + 1 ? 2 : size == RANKS + 2 ? RANKS : size;
        struct group g = {.comm = MPI_COMM_NULL};
        MPI_Comm comm;
        MPI_Comm_split(MPI_COMM_WORLD, rank < ranks ? 0 : MPI_UNDEFINED, 0, &comm);
        bool good = comm == MPI_COMM_NULL || group_open(&g, comm, 0) == CAIRN_OK;
        if (size <= RANKS)
            check_size(&g, size);
        else
            tap_ok(comm == MPI_COMM_NULL || (good && run_failing(&g)), "%d ranks: starts in unlike orders", ranks);
        group_close(&g);
        if (comm != MPI_COMM_NULL)
            MPI_Comm_free(&comm);
    }
    return tap_end();
}
