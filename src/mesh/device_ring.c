#include "mesh/device_ring.h"

#include <stdlib.h>

#include "base/least.h"
#include "job/mpi_calls.h"
#include "mesh/comm.h"
#include "mesh/device_link.h"

enum { DIRECTIONS = 2 };

/* Two neighbours; the first is followed by the second. */
struct pair {
    MPI_Comm comm;
    bool there;
    int color;
    struct group way[DIRECTIONS]; /* each with a link of its own */
};

/* What the ends tell each other of a sum at a time. */
enum { ENDS_BYTES = 32 << 20 };

struct device_ring {
    struct backend *backend;
    struct pair before, behind;   /* this rank is the second of the former, the first of the latter */
    struct backend_mark *arrived; /* what was received last */
    MPI_Comm ends_comm;           /* of the first rank and the last; MPI_COMM_NULL: not of this one */
    struct group ends;
    void *theirs;                 /* ENDS_BYTES of the device */
};

/* Pairs of one color have no rank in common: they are opened, and closed, at once. */
enum { COLORS = 3 };

static int color_of(int first, int size)
{
    return first == size - 1 && size % 2 == 1 ? 2 : first % 2;
}

static cairn_err open_way(struct pair *p, struct backend *b, int direction, double seconds)
{
    TRY(comm_agree(p->comm, group_open(&p->way[direction], p->comm, 0)));
    return device_link_open(&p->way[direction], b, seconds);
}

static cairn_err open_pair(struct pair *p, struct backend *b, double seconds)
{
    cairn_err err = CAIRN_OK;
    p->there = true;
    MPI_Comm_set_errhandler(p->comm, MPI_ERRORS_RETURN);
    for (int d = 0; d < DIRECTIONS && !err; d++)
        err = open_way(p, b, d, seconds);
    return err;
}

static void close_pair(struct pair *p, int color)
{
    if (!p->there || p->color != color)
        return;
    for (int d = 0; d < DIRECTIONS; d++)
        group_close(&p->way[d]);
    MPI_Comm_free(&p->comm);
    p->there = false;
}

/* The pairs of COLOR, of which this rank has one or none. */
static cairn_err open_color(struct device_ring *r, const struct group *g, bool closed, int color, double seconds)
{
    int size = g->size, before = (g->rank + size - 1) % size, last = closed ? size - 1 : size - 2;
    bool first = g->rank <= last && color_of(g->rank, size) == color, second = before <= last && color_of(before, size) == color;
    MPI_Comm comm;
    TRY(mpi_check(MPI_Comm_split(g->comm, first ? g->rank : second ? before : MPI_UNDEFINED, second, &comm), "pairing ranks"));
    if (!first && !second)
        return CAIRN_OK;
    struct pair *p = first ? &r->behind : &r->before;
    p->comm = comm;
    p->color = color;
    return open_pair(p, r->backend, seconds);
}

static cairn_err open_ends(struct device_ring *r, double seconds)
{
    struct backend *b = r->backend;
    MPI_Comm_set_errhandler(r->ends_comm, MPI_ERRORS_RETURN);
    TRY(comm_agree(r->ends_comm, group_open(&r->ends, r->ends_comm, 0)));
    TRY(device_link_open(&r->ends, b, seconds));
    r->theirs = b->table->alloc(b, ENDS_BYTES);
    return r->theirs ? CAIRN_OK : device_gave_nothing(b, "what the other end of a pipeline tells");
}

static cairn_err pair_ends(struct device_ring *r, const struct group *g, double seconds)
{
    bool end = g->rank == 0 || g->rank == g->size - 1;
    TRY(mpi_check(MPI_Comm_split(g->comm, end ? 0 : MPI_UNDEFINED, g->rank, &r->ends_comm), "pairing the ends of a pipeline"));
    return end ? open_ends(r, seconds) : CAIRN_OK;
}

static void close_ends(struct device_ring *r)
{
    if (r->theirs)
        r->backend->table->free(r->backend, r->theirs, ENDS_BYTES);
    group_close(&r->ends);
    if (r->ends_comm != MPI_COMM_NULL)
        MPI_Comm_free(&r->ends_comm);
}

cairn_err device_ring_open(struct group *g, struct backend *b, bool closed, bool ends, double seconds)
{
    struct device_ring *r = g->ring = calloc(1, sizeof *r);
    cairn_err err = r ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for links between devices");
    if (r) {
        *r = (struct device_ring){.backend = b, .arrived = b->table->mark_create(b), .ends_comm = MPI_COMM_NULL};
        err = r->arrived ? CAIRN_OK : device_gave_nothing(b, "links between devices");
    }
    err = comm_agree(g->comm, err);
    for (int color = 0; color < COLORS && !err; color++)
        err = comm_agree(g->comm, open_color(r, g, closed, color, seconds));
    if (!err && ends)
        err = comm_agree(g->comm, pair_ends(r, g, seconds));
    if (err)
        device_ring_close(g);
    return err;
}

void device_ring_close(struct group *g)
{
    struct device_ring *r = g->ring;
    if (!r)
        return;
    for (int color = 0; color < COLORS; color++) {
        close_pair(&r->before, color);
        close_pair(&r->behind, color);
    }
    close_ends(r);
    r->backend->table->mark_destroy(r->arrived);
    free(r);
    g->ring = NULL;
}

/* This rank goes forward to the pair behind, and backward to the one before. */
static struct pair *pair_of(struct device_ring *r, enum ring_direction direction, bool receives)
{
    return (direction == RING_FORWARD) != receives ? &r->behind : &r->before;
}

/* Four ways meet in a rank, each on its own lane. */
static enum backend_lane lane_of(const struct device_ring *r, const struct pair *p, enum ring_direction direction)
{
    return (enum backend_lane)(LANE_RING + (p == &r->behind ? DIRECTIONS : 0) + (int)direction);
}

static int other(const struct group *way)
{
    return 1 - way->rank;
}

/* What was posted on a way, beside computing; DONE is set behind it. */
static void exchange(const struct device_ring *r, const struct pair *p, enum ring_direction direction, struct backend_mark *done)
{
    struct device_link *link = p->way[direction].device;
    device_link_begin(link, lane_of(r, p, direction));
    device_link_exchange(link);
    r->backend->table->mark_set(done);
    device_link_end(link);
}

cairn_err device_ring_send(struct group *g, enum ring_direction direction, const void *data, size_t bytes, struct backend_mark *sent)
{
    struct pair *p = pair_of(g->ring, direction, false);
    TRY(device_link_send(&p->way[direction], other(&p->way[direction]), data, (int64_t)bytes));
    exchange(g->ring, p, direction, sent);
    return CAIRN_OK;
}

cairn_err device_ring_receive(struct group *g, enum ring_direction direction, void *data, size_t bytes)
{
    struct pair *p = pair_of(g->ring, direction, true);
    TRY(device_link_receive(&p->way[direction], other(&p->way[direction]), data, (int64_t)bytes));
    exchange(g->ring, p, direction, g->ring->arrived);
    g->ring->backend->table->mark_wait(g->ring->arrived);
    return CAIRN_OK;
}

cairn_err device_ring_join_ends(struct group *g, void *own, int64_t n)
{
    struct device_ring *r = g->ring;
    const struct backend_table *table = r->backend->table;
    enum dtype acc = r->backend->acc;
    int64_t most = ENDS_BYTES / (int64_t)dtype_size(acc);
    for (int64_t done = 0, count; done < n; done += count) {
        void *part = device_at(own, done, acc);
        count = least(n - done, most);
        TRY(device_link_receive(&r->ends, other(&r->ends), r->theirs, count * (int64_t)dtype_size(acc)));
        TRY(device_link_send(&r->ends, other(&r->ends), part, count * (int64_t)dtype_size(acc)));
        device_link_exchange(r->ends.device);
        table->add(r->backend, part, r->ends.rank == 0 ? r->theirs : part, r->ends.rank == 0 ? part : r->theirs, count);
    }
    return CAIRN_OK;
}
