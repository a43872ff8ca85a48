#include "mesh/reduce.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/least.h"
#include "job/mpi_calls.h"
#include "mesh/channel.h"
#include "mesh/comm.h"
#include "mesh/device_link.h"
#include "mesh/reduce_parts.h"

/* Elements of a range that are exchanged at a time: what was received is still in the cache when it is added. */
enum { PIECE = 1 << 18, LEAST_PIECE = 1 << 10, GATHER_PIECE = 1 << 22 };
enum { LINK_PIECE = 1 << 23 }; /* by a link, where to start a message costs more than to have it leave the cache */
enum { SCRATCH_BYTES = 1 << 26 };

struct bucket {
    struct reducer *reducer;
    struct reduce_ranges ranges; /* own memory, at begin */
    struct transfer sum, sum_gather, gather;
    void **partials; /* this rank's, at the bucket's begin */
    bool gather_sum;
    void *vector; /* that GATHER is about */
    enum dtype vector_dtype;
    int64_t round, summing; /* in rounds: the next to be started; the one under way */
    struct part *held;      /* in rounds: partial sums of rounds before, in slots of SHARDS */
    int held_count;
    char *shards;
};

struct reducer {
    struct group *group;
    struct reducer_options options;
    struct parts plan;
    int64_t piece; /* elements */
    size_t size;   /* of an element */
    size_t scratch_bytes;
    char *scratch; /* two halves, each a piece for each message of a round */
    struct part *parts;   /* of the round that is joined or posted now */
    int *counts;          /* by rank, where fast */
    struct channel *sums, *sum_gathers, *gathers;
    struct bucket **buckets;
    int bucket_count;
};

static void *take(const struct reducer *r, size_t bytes)
{
    struct backend *device = r->options.device;
    return device ? device->table->alloc(device, bytes) : malloc(bytes);
}

static void give_back(const struct reducer *r, void *data, size_t bytes)
{
    struct backend *device = r->options.device;
    if (device && data)
        device->table->free(device, data, bytes);
    else if (!device)
        free(data);
}

static void copy(const struct reducer *r, void *to, const void *from, int64_t elements)
{
    struct backend *device = r->options.device;
    size_t bytes = (size_t)elements * r->size;
    if (device)
        device->table->copy(device, to, from, bytes);
    else
        memcpy(to, from, bytes);
}

static char *element(const struct reducer *r, void *data, int64_t i)
{
    return (char *)data + (size_t)i * r->size;
}

/* The part of RANK's range that is exchanged in round ROUND of PIECE elements; none if <= 0. */
static int64_t piece_of(const struct bucket *b, int rank, int64_t round, int64_t piece, int64_t *begin)
{
    *begin = b->ranges.begin[rank] + round * piece;
    return least(b->ranges.length[rank] - round * piece, piece);
}

/* The parts of the whole sum that come together in BUCKET's sum, from left to right, and where ROUND has them. */
static int place_parts(struct bucket *b, const struct channel_round *round)
{
    struct reducer *r = b->reducer;
    int count = parts_list(&r->plan, b->summing, b->held, b->held_count, r->parts);
    int64_t begin, slot = round->half * parts_most_foreign(&r->plan);
    piece_of(b, r->group->rank, round->number, r->piece, &begin);
    for (int i = 0; i < count; i++) {
        struct part *p = &r->parts[i];
        if (p->rank == PART_HELD)
            p->data = element(r, b->shards, p->slot * b->ranges.length[r->group->rank] + round->number * r->piece);
        else if (p->rank == r->group->rank)
            p->data = element(r, b->partials[p->number], begin);
        else
            p->data = element(r, r->scratch, slot++ * r->piece);
    }
    return count;
}

static cairn_err post_sum(struct transfer *t, struct channel_round *round)
{
    struct bucket *b = t->owner;
    struct reducer *r = b->reducer;
    const struct group *g = r->group;
    enum dtype dtype = r->options.dtype;
    int64_t begin, length = piece_of(b, g->rank, round->number, r->piece, &begin);
    int count = place_parts(b, round);
    for (int i = 0; i < count; i++)
        if (r->parts[i].rank != PART_HELD && r->parts[i].rank != g->rank)
            TRY(channel_receive(round, r->parts[i].rank, r->parts[i].data, length, dtype));
    int own = parts_of_rank(&r->plan, b->summing, g->rank);
    for (int step = 1; step < g->size; step++) { /* each begins with its right neighbour, so that no rank is met by all at once */
        int to = (g->rank + step) % g->size;
        length = piece_of(b, to, round->number, r->piece, &begin);
        for (int i = 0; i < own; i++)
            TRY(channel_send(round, to, element(r, b->partials[i], begin), length, dtype));
    }
    return CAIRN_OK;
}

/* What is left of a round goes where the next one finds it: to slots that are free. */
static void keep_parts(struct bucket *b, int count, const struct channel_round *round, int64_t length)
{
    struct reducer *r = b->reducer;
    int64_t own = b->ranges.length[r->group->rank];
    parts_take_slots(r->parts, count);
    for (int i = 0; i < count; i++) {
        char *place = element(r, b->shards, r->parts[i].slot * own + round->number * r->piece);
        if (length > 0 && place != r->parts[i].data)
            copy(r, place, r->parts[i].data, length);
    }
    if (round->number + 1 < b->sum.rounds)
        return;
    b->held_count = count;
    memcpy(b->held, r->parts, (size_t)count * sizeof *b->held);
}

static cairn_err finish_sum(struct transfer *t, struct channel_round *round)
{
    struct bucket *b = t->owner;
    struct reducer *r = b->reducer;
    int64_t begin, length = piece_of(b, r->group->rank, round->number, r->piece, &begin);
    int count = parts_join(&r->plan, r->parts, place_parts(b, round), r->options.add, r->options.add_context, length);
    if (r->options.rounds) {
        keep_parts(b, count, round, length);
    } else if (length > 0) {
        char *result = element(r, b->partials[0], begin);
        if (r->parts[0].data != result)
            copy(r, result, r->parts[0].data, length);
    }
    return CAIRN_OK;
}

static cairn_err post_gather(const struct bucket *b, struct channel_round *round, void *vector, enum dtype dtype)
{
    const struct group *g = b->reducer->group;
    size_t size = dtype_size(dtype);
    int64_t begin, length;
    for (int step = 1; step < g->size; step++) {
        int from = (g->rank + g->size - step) % g->size;
        length = piece_of(b, from, round->number, GATHER_PIECE, &begin);
        TRY(channel_receive(round, from, (char *)vector + (size_t)begin * size, length, dtype));
    }
    length = piece_of(b, g->rank, round->number, GATHER_PIECE, &begin);
    for (int step = 1; step < g->size; step++)
        TRY(channel_send(round, (g->rank + step) % g->size, (char *)vector + (size_t)begin * size, length, dtype));
    return CAIRN_OK;
}

static cairn_err post_sum_gather(struct transfer *t, struct channel_round *round)
{
    struct bucket *b = t->owner;
    return post_gather(b, round, b->partials[0], b->reducer->options.dtype);
}

static cairn_err post_vector_gather(struct transfer *t, struct channel_round *round)
{
    struct bucket *b = t->owner;
    return post_gather(b, round, b->vector, b->vector_dtype);
}

static void sum_on_devices(const struct reducer *r, void *data, int64_t n)
{
    if (r->group->size > 1)
        r->options.device->table->link_sum(r->group->device->link, data, n);
}

/* The library's own sums of the whole bucket. What is sent is taken for a ring's. */
static cairn_err post_fast(struct transfer *t, struct channel_round *round)
{
    struct bucket *b = t->owner;
    struct reducer *r = b->reducer;
    struct group *g = r->group;
    MPI_Comm comm = channel_comm(round->channel);
    MPI_Datatype type = group_mpi_type(r->options.dtype);
    int64_t all = 0, own = b->ranges.length[g->rank], size = (int64_t)r->size;
    for (int i = 0; i < g->size; i++)
        all += r->counts[i] = (int)b->ranges.length[i];
    int64_t moved = all - own + (b->gather_sum ? (g->size - 1) * own : 0);
    g->bytes_sent += moved * size;
    g->bytes_received += ((g->size - 1) * own + (b->gather_sum ? all - own : 0)) * size;
    if (r->options.device)
        sum_on_devices(r, b->partials[0], all);
    else if (b->gather_sum)
        TRY_MPI(MPI_Iallreduce(MPI_IN_PLACE, b->partials[0], (int)all, type, MPI_SUM, comm, channel_request(round)));
    else
        TRY_MPI(MPI_Ireduce_scatter(MPI_IN_PLACE, b->partials[0], r->counts, type, MPI_SUM, comm, channel_request(round)));
    return CAIRN_OK;
}

/* MPI leaves the own range's sum at the vector's begin, a device where it belongs. */
static cairn_err finish_fast(struct transfer *t, struct channel_round *round)
{
    (void)round;
    struct bucket *b = t->owner;
    struct reducer *r = b->reducer;
    int64_t own = b->ranges.length[r->group->rank];
    const char *sum = element(r, b->partials[0], r->options.device ? b->ranges.begin[r->group->rank] : 0);
    if (r->options.rounds && b->summing > 0)
        r->options.add(r->options.add_context, b->shards, b->shards, sum, own);
    else if (r->options.rounds)
        copy(r, b->shards, sum, own);
    else if (!b->gather_sum && !r->options.device)
        memmove(element(r, b->partials[0], b->ranges.begin[r->group->rank]), b->partials[0], (size_t)own * r->size);
    return CAIRN_OK;
}

static int64_t pieces(const struct reducer *r, const struct reduce_ranges *ranges, int64_t piece)
{
    int64_t longest = 1; /* an empty bucket has a round too */
    for (int i = 0; i < r->group->size; i++)
        if (ranges->length[i] > longest)
            longest = ranges->length[i];
    return (longest + piece - 1) / piece;
}

static cairn_err start_sum_gather(struct transfer *t)
{
    struct bucket *b = t->owner;
    if (b->gather_sum && !b->reducer->options.fast)
        channel_start(b->reducer->sum_gathers, &b->sum_gather);
    return CAIRN_OK;
}

/* All memory but the buckets', for a plan. */
static cairn_err take_memory(struct reducer *r)
{
    const struct reducer_options *o = &r->options;
    int foreign = o->fast ? 0 : parts_most_foreign(&r->plan);
    int64_t bytes = o->scratch_bytes ? o->scratch_bytes : SCRATCH_BYTES;
    r->piece = r->options.device ? LINK_PIECE : PIECE;
    while (r->piece > LEAST_PIECE && 2 * foreign * r->piece * (int64_t)r->size > bytes)
        r->piece /= 2;
    r->scratch_bytes = (size_t)(2 * foreign * r->piece + 1) * r->size;
    r->scratch = take(r, r->scratch_bytes);
    r->parts = malloc((size_t)parts_most(&r->plan) * sizeof *r->parts);
    r->counts = malloc((size_t)r->group->size * sizeof *r->counts);
    if (!r->scratch || !r->parts || !r->counts)
        return FAIL(CAIRN_ENOMEM, "no memory for the sums");
    return CAIRN_OK;
}

static cairn_err prepare(struct reducer *r)
{
    const struct reducer_options *o = &r->options;
    if (o->device && r->group->size > 1 && !r->group->device)
        return FAIL(CAIRN_EINVAL, "sums on devices of a group without a link between them");
    if (o->dtype != DTYPE_F32 && o->dtype != DTYPE_F64)
        return FAIL(CAIRN_EUNSUPPORTED, "sums of %s along a tree", dtype_name(o->dtype));
    TRY(parts_plan(&r->plan, &o->leaves, o->rounds, r->group->size, r->group->rank));
    return take_memory(r);
}

static cairn_err open_channels(struct reducer *r)
{
    int size = r->group->size;
    bool link = r->options.device != NULL;
    TRY(channel_create(r->group, parts_most_foreign(&r->plan) + reducer_partials(r) * size, link, &r->sums));
    TRY(channel_create(r->group, 2 * size, link, &r->sum_gathers));
    return channel_create(r->group, 2 * size, link, &r->gathers);
}

cairn_err reducer_create(struct group *group, const struct reducer_options *options, struct reducer **out)
{
    struct reducer *r = calloc(1, sizeof *r);
    cairn_err err;
    if (!r)
        return FAIL(CAIRN_ENOMEM, "no memory for the sums");
    *r = (struct reducer){.group = group, .options = *options, .size = dtype_size(options->dtype)};
    TRY_GOTO(err, comm_agree(group->comm, prepare(r)), failed);
    TRY_GOTO(err, open_channels(r), failed);
    *out = r;
    return CAIRN_OK;
failed:
    reducer_destroy(r);
    return err;
}

static size_t shards_bytes(const struct bucket *b);

static void free_bucket(struct bucket *b)
{
    if (!b)
        return;
    transfer_close(&b->sum);
    transfer_close(&b->sum_gather);
    transfer_close(&b->gather);
    if (b->shards)
        give_back(b->reducer, b->shards, shards_bytes(b));
    free(b->ranges.begin);
    free(b->partials);
    free(b->held);
    free(b);
}

void reducer_destroy(struct reducer *r)
{
    if (!r)
        return;
    if (!r->sums || channel_idle(r->sums)) /* else MPI may still write there */
        give_back(r, r->scratch, r->scratch_bytes);
    channel_destroy(r->sums);
    channel_destroy(r->sum_gathers);
    channel_destroy(r->gathers);
    for (int i = 0; i < r->bucket_count; i++)
        free_bucket(r->buckets[i]);
    parts_free(&r->plan);
    free(r->buckets);
    free(r->parts);
    free(r->counts);
    free(r);
}

int reducer_partials(const struct reducer *r)
{
    return r->options.rounds || r->options.fast ? 1 : parts_of_rank(&r->plan, 0, r->group->rank);
}

int64_t reducer_rounds(const struct reducer *r)
{
    return r->plan.rounds;
}

/* Slots of partial sums that each bucket keeps. */
static int slots(const struct reducer *r)
{
    return !r->options.rounds ? 0 : r->options.fast ? 1 : r->plan.most_held;
}

static size_t shards_bytes(const struct bucket *b)
{
    const struct reducer *r = b->reducer;
    return ((size_t)slots(r) * (size_t)b->ranges.length[r->group->rank] + 1) * r->size;
}

int64_t reducer_memory(const struct reducer *r)
{
    int64_t own = 0;
    for (int i = 0; i < r->bucket_count; i++)
        own += r->buckets[i]->ranges.length[r->group->rank];
    int64_t foreign = r->options.fast ? 0 : parts_most_foreign(&r->plan);
    return (own * slots(r) + 2 * foreign * r->piece) * (int64_t)r->size;
}

/* MPI's sums know no gaps, and count in ints. */
static cairn_err check_fast(const struct reducer *r, const struct reduce_ranges *ranges)
{
    int64_t next = 0;
    for (int i = 0; i < r->group->size; i++) {
        if (ranges->length[i] && ranges->begin[i] != next)
            return FAIL(CAIRN_EINVAL, "rank %d's range of a bucket begins at %lld, not where the one before ends, at %lld", i,
                        (long long)ranges->begin[i], (long long)next);
        next += ranges->length[i];
    }
    if (next > INT_MAX)
        return FAIL(CAIRN_EINVAL, "a bucket of %lld elements: at most %d", (long long)next, INT_MAX);
    return CAIRN_OK;
}

static void set_transfers(struct bucket *b)
{
    const struct reducer *r = b->reducer;
    bool fast = r->options.fast;
    b->sum = (struct transfer){.owner = b, .name = "sum of a bucket", .post = fast ? post_fast : post_sum, .finish = fast ? finish_fast : finish_sum,
                               .end = start_sum_gather, .rounds = fast ? 1 : pieces(r, &b->ranges, r->piece)};
    b->sum_gather = (struct transfer){.owner = b, .name = "gather of a sum", .post = post_sum_gather, .rounds = pieces(r, &b->ranges, GATHER_PIECE)};
    b->gather = (struct transfer){.owner = b, .name = "gather of a bucket", .post = post_vector_gather, .rounds = b->sum_gather.rounds};
    b->sum.id = b->sum_gather.id = b->gather.id = r->bucket_count;
}

cairn_err reducer_add_bucket(struct reducer *r, const struct reduce_ranges *ranges, int *bucket)
{
    size_t ranks = (size_t)r->group->size;
    if (r->options.fast)
        TRY(check_fast(r, ranges));
    struct bucket **more = realloc(r->buckets, (size_t)(r->bucket_count + 1) * sizeof *more);
    if (!more)
        return FAIL(CAIRN_ENOMEM, "no memory for a bucket of the sums");
    r->buckets = more;
    struct bucket *b = calloc(1, sizeof *b);
    if (b) {
        b->reducer = r;
        b->ranges.begin = malloc(2 * ranks * sizeof *b->ranges.begin);
        b->ranges.length = b->ranges.begin + ranks;
        b->partials = calloc((size_t)reducer_partials(r), sizeof *b->partials);
        b->held = malloc((size_t)(slots(r) + 1) * sizeof *b->held);
    }
    if (!b || !b->ranges.begin || !b->partials || !b->held) {
        free_bucket(b);
        return FAIL(CAIRN_ENOMEM, "no memory for a bucket of the sums");
    }
    memcpy(b->ranges.begin, ranges->begin, ranks * sizeof *ranges->begin);
    memcpy(b->ranges.length, ranges->length, ranks * sizeof *ranges->length);
    b->shards = take(r, shards_bytes(b));
    if (!b->shards) {
        free_bucket(b);
        return FAIL(CAIRN_ENOMEM, "no memory for a bucket of the sums");
    }
    set_transfers(b);
    *bucket = r->bucket_count;
    r->buckets[r->bucket_count++] = b;
    return CAIRN_OK;
}

cairn_err reduce_start(struct reducer *r, int bucket, void *const *partials, bool gather)
{
    struct bucket *b = r->buckets[bucket];
    int own = r->options.fast ? 1 : parts_of_rank(&r->plan, b->round, r->group->rank);
    if (!reduce_done(r, bucket))
        return FAIL(CAIRN_EINVAL, "bucket %d is started again before its sum is done", bucket);
    if (own && !partials)
        return FAIL(CAIRN_EINVAL, "bucket %d is started without this rank's gradient", bucket);
    if (gather && r->options.rounds)
        return FAIL(CAIRN_EINVAL, "bucket %d cannot be gathered: it is summed in rounds", bucket);
    for (int i = 0; i < own; i++)
        b->partials[i] = partials[i];
    if (b->round == 0)
        b->held_count = 0;
    b->summing = b->round;
    b->round = (b->round + 1) % r->plan.rounds;
    b->gather_sum = gather;
    channel_start(r->sums, &b->sum);
    return channel_progress(r->sums);
}

void *reduce_shard(const struct reducer *r, int bucket)
{
    const struct bucket *b = r->buckets[bucket];
    return element(r, b->shards, r->options.fast ? 0 : b->held[0].slot * b->ranges.length[r->group->rank]);
}

cairn_err gather_start(struct reducer *r, int bucket, void *vector, enum dtype dtype)
{
    struct bucket *b = r->buckets[bucket];
    if (b->gather.under_way)
        return FAIL(CAIRN_EINVAL, "bucket %d is gathered again before that is done", bucket);
    b->vector = vector;
    b->vector_dtype = dtype;
    channel_start(r->gathers, &b->gather);
    return channel_progress(r->gathers);
}

cairn_err reduce_progress(struct reducer *r)
{
    TRY(channel_progress(r->sums));
    TRY(channel_progress(r->sum_gathers));
    return channel_progress(r->gathers);
}

bool reduce_done(const struct reducer *r, int bucket)
{
    return !r->buckets[bucket]->sum.under_way && !r->buckets[bucket]->sum_gather.under_way;
}

bool gather_done(const struct reducer *r, int bucket)
{
    return !r->buckets[bucket]->gather.under_way;
}

typedef bool is_done(const struct reducer *reducer, int bucket);

static cairn_err wait_until(struct reducer *r, is_done *done, int bucket)
{
    double start = clock_seconds();
    TRY(reduce_progress(r));
    while (!done(r, bucket)) {
        TRY(group_idle(r->group));
        TRY(reduce_progress(r));
    }
    r->group->seconds_waited += clock_seconds() - start;
    return CAIRN_OK;
}

cairn_err reduce_wait(struct reducer *r, int bucket)
{
    TRY(wait_until(r, reduce_done, bucket));
    transfer_join(&r->buckets[bucket]->sum);
    transfer_join(&r->buckets[bucket]->sum_gather);
    return CAIRN_OK;
}

cairn_err gather_wait(struct reducer *r, int bucket)
{
    TRY(wait_until(r, gather_done, bucket));
    transfer_join(&r->buckets[bucket]->gather);
    return CAIRN_OK;
}

cairn_err reduce_wait_all(struct reducer *r)
{
    for (int i = 0; i < r->bucket_count; i++) {
        TRY(reduce_wait(r, i));
        TRY(gather_wait(r, i));
    }
    return CAIRN_OK;
}
