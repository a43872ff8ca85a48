#include "mesh/reduce.h"

#include <stdlib.h>
#include <string.h>

#include "job/mpi_error.h"

/* Elements exchanged at a time: bounds the scratch memory, and keeps what was received in cache for the additions. */
enum { PIECE = 1 << 18, SCRATCH_LIMIT = 1 << 26 /* bytes */ };

struct partial { /* one partial sum of some rank: its node, and where its piece is during a join */
    struct tree_node node;
    int rank, number; /* the NUMBERth of RANK's */
    char *data;
};

struct reducer {
    MPI_Comm comm;
    int rank, size;
    int64_t leaves, piece;
    enum dtype dtype;
    MPI_Datatype type;
    reduce_add *add;
    void *add_context;
    struct partial *partials; /* of all ranks, left to right */
    int partial_count, own_first, own_count;
    char *scratch;
    MPI_Request *requests;
    MPI_Status *statuses;
    int64_t bytes_sent;
};

static cairn_err list_partials(struct reducer *r)
{
    int room = 0;
    for (int rank = 0; rank < r->size; rank++) {
        struct tree_node nodes[TREE_MAX_NODES];
        int64_t first, count;
        int held;
        tree_share(r->leaves, r->size, rank, &first, &count);
        int n = tree_partials(r->leaves, first, count, nodes, &held);
        if (r->partial_count + n > room) {
            room = 2 * (r->partial_count + n);
            struct partial *more = realloc(r->partials, (size_t)room * sizeof *more);
            if (!more)
                return FAIL(CAIRN_ENOMEM, "no memory for the plan of the sums");
            r->partials = more;
        }
        if (rank == r->rank) {
            r->own_first = r->partial_count;
            r->own_count = n;
        }
        for (int i = 0; i < n; i++)
            r->partials[r->partial_count++] = (struct partial){nodes[i], rank, i, NULL};
    }
    return CAIRN_OK;
}

cairn_err reducer_create(MPI_Comm comm, int64_t leaves, enum dtype dtype, reduce_add *add, void *add_context, struct reducer **out)
{
    struct reducer *r = calloc(1, sizeof *r);
    if (!r)
        return FAIL(CAIRN_ENOMEM, "no memory for the sums");
    *r = (struct reducer){.comm = comm, .leaves = leaves, .dtype = dtype, .add = add, .add_context = add_context};
    r->type = dtype == DTYPE_F64 ? MPI_DOUBLE : MPI_FLOAT;
    MPI_Comm_rank(comm, &r->rank);
    MPI_Comm_size(comm, &r->size);
    cairn_err err;
    if (r->size > leaves) {
        err = FAIL(CAIRN_ECONFIG, "%d ranks but only %lld microbatches a step: give batch.microbatches at least %d", r->size,
                   (long long)leaves, r->size);
        goto failed;
    }
    TRY_GOTO(err, list_partials(r), failed);
    int foreign = r->partial_count - r->own_count;
    r->piece = PIECE;
    while (r->piece > 1024 && foreign * r->piece * (int64_t)dtype_size(dtype) > SCRATCH_LIMIT)
        r->piece /= 2;
    r->scratch = malloc((size_t)(foreign + 1) * (size_t)r->piece * dtype_size(dtype));
    size_t messages = (size_t)(foreign + r->own_count * r->size + 1);
    r->requests = malloc(messages * sizeof *r->requests);
    r->statuses = malloc(messages * sizeof *r->statuses);
    if (!r->scratch || !r->requests || !r->statuses) {
        err = FAIL(CAIRN_ENOMEM, "no memory for the sums");
        goto failed;
    }
    *out = r;
    return CAIRN_OK;
failed:
    reducer_destroy(r);
    return err;
}

void reducer_destroy(struct reducer *r)
{
    if (!r)
        return;
    free(r->partials);
    free(r->scratch);
    free(r->requests);
    free(r->statuses);
    free(r);
}

/* The part of RANK's range that is exchanged in round ROUND. */
static int64_t piece_of(const struct reducer *r, const struct reduce_ranges *ranges, int rank, int64_t round, int64_t *begin)
{
    int64_t done = round * r->piece, left = ranges->length[rank] - done;
    *begin = ranges->begin[rank] + done;
    return left <= 0 ? 0 : left < r->piece ? left : r->piece;
}

/* Starts the *REQUESTS messages of a round. Partials of other ranks are given their place in the scratch memory. */
static cairn_err start_round(struct reducer *r, void *const *own, const struct reduce_ranges *ranges, int64_t round, int *requests)
{
    size_t size = dtype_size(r->dtype);
    int64_t begin, slot = 0, length = piece_of(r, ranges, r->rank, round, &begin);
    for (int i = 0; i < r->partial_count; i++) {
        struct partial *p = &r->partials[i];
        if (p->rank == r->rank) {
            p->data = (char *)own[p->number] + (size_t)begin * size;
            continue;
        }
        p->data = r->scratch + (size_t)(slot++ * r->piece) * size;
        if (length)
            TRY_MPI(MPI_Irecv(p->data, (int)length, r->type, p->rank, p->number, r->comm, &r->requests[(*requests)++]));
    }
    for (int step = 1; step < r->size; step++) { /* each begins with its right neighbour, so that no rank is met by all at once */
        int to = (r->rank + step) % r->size;
        int64_t sent = piece_of(r, ranges, to, round, &begin);
        for (int i = 0; i < r->own_count && sent; i++) {
            TRY_MPI(MPI_Isend((char *)own[i] + (size_t)begin * size, (int)sent, r->type, to, i, r->comm, &r->requests[(*requests)++]));
            r->bytes_sent += sent * (int64_t)size;
        }
    }
    return CAIRN_OK;
}

/* Joins all partials of the round's piece along the tree; the result ends in RESULT. */
static void join_round(struct reducer *r, char *result, int64_t length)
{
    struct tree_stack stack;
    char *values[TREE_MAX_NODES];
    int left;
    tree_begin(&stack, r->leaves);
    for (int i = 0; i < r->partial_count; i++) {
        values[stack.count] = r->partials[i].data;
        tree_push(&stack, r->partials[i].node);
        while (tree_join(&stack, &left))
            r->add(r->add_context, values[left], values[left], values[left + 1], length);
    }
    if (values[0] != result)
        memcpy(result, values[0], (size_t)length * dtype_size(r->dtype));
}

static int64_t round_count(const struct reducer *r, const struct reduce_ranges *ranges)
{
    int64_t longest = 0;
    for (int i = 0; i < r->size; i++)
        if (ranges->length[i] > longest)
            longest = ranges->length[i];
    return (longest + r->piece - 1) / r->piece;
}

cairn_err reduce_scatter(struct reducer *r, void *const *own, const struct reduce_ranges *ranges)
{
    if (r->size == 1)
        return CAIRN_OK; /* the only partial is the root */
    for (int64_t round = 0, rounds = round_count(r, ranges); round < rounds; round++) {
        int requests = 0;
        TRY(start_round(r, own, ranges, round, &requests));
        TRY(mpi_check(MPI_Waitall(requests, r->requests, r->statuses), "exchanging gradients"));
        int64_t begin, length = piece_of(r, ranges, r->rank, round, &begin);
        if (length)
            join_round(r, (char *)own[0] + (size_t)begin * dtype_size(r->dtype), length);
    }
    return CAIRN_OK;
}

cairn_err reduce_gather(struct reducer *r, void *vector, const struct reduce_ranges *ranges)
{
    size_t size = dtype_size(r->dtype);
    int right = (r->rank + 1) % r->size, left = (r->rank + r->size - 1) % r->size;
    for (int step = 0; step < r->size - 1; step++) { /* a ring: what came from the left goes on to the right */
        int out = (r->rank + r->size - step) % r->size, in = (r->rank + r->size - step - 1) % r->size;
        struct reduce_ranges pair = {(int64_t[]){ranges->begin[out], ranges->begin[in]},
                                     (int64_t[]){ranges->length[out], ranges->length[in]}};
        int64_t most = pair.length[0] > pair.length[1] ? pair.length[0] : pair.length[1];
        for (int64_t round = 0; round * r->piece < most; round++) {
            int64_t from, to, sent = piece_of(r, &pair, 0, round, &from), received = piece_of(r, &pair, 1, round, &to);
            TRY(mpi_check(MPI_Sendrecv((char *)vector + (size_t)from * size, (int)sent, r->type, right, 0,
                                       (char *)vector + (size_t)to * size, (int)received, r->type, left, 0, r->comm,
                                       MPI_STATUS_IGNORE),
                          "gathering gradients"));
            r->bytes_sent += sent * (int64_t)size;
        }
    }
    return CAIRN_OK;
}

int64_t reducer_bytes_sent(struct reducer *r)
{
    int64_t bytes = r->bytes_sent;
    r->bytes_sent = 0;
    return bytes;
}
