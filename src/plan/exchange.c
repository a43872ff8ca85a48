#include "plan/exchange.h"

#include <math.h>

#include "base/least.h"
#include "plan/numbers.h"

enum { ACC_SIZE = 4, BF16_SIZE = 2, PAIR_SIZE = 8 /* of topk: an index and a value */ };

/* A pack of tensors being counted. */
struct pack {
    int64_t elements, lefts, rights;
};

/* As mesh/compress.c places a tensor: whole, or the factors of a matrix where they are smaller. */
static void add(struct pack *p, int64_t rows, int64_t columns, int64_t rank)
{
    int64_t r = least(rank, least(rows, columns));
    bool factors = rank > 0 && rows > 1 && columns > 1 && r * (rows + columns) < rows * columns;
    p->elements += rows * columns;
    p->lefts += factors ? r * rows : rows * columns;
    p->rights += factors ? r * columns : 0;
}

static void count(struct exchange_size *out, const struct pack *p, const struct plan_layout *l)
{
    int64_t ranks = l->axes.data * l->axes.context, kept = 0, sent = 0, received = 0, summed = 0, all = 0;
    if (p->elements == 0)
        return;
    switch (l->modes.compress) {
    case CONFIG_COMPRESS_NONE: return;
    case CONFIG_COMPRESS_BF16: /* to the owners of shares, and theirs to all */
        kept = share(p->elements, ranks);
        sent = p->elements * BF16_SIZE;
        received = ranks * kept * BF16_SIZE;
        all = 2 * (ranks - 1) * p->elements * BF16_SIZE;
        break;
    case CONFIG_COMPRESS_TOPK: /* every rank's indices and values to all */
        sent = ranks * PAIR_SIZE * (int64_t)ceil(l->modes.compress_ratio * (double)p->elements);
        all = ranks * (ranks - 1) * (sent / ranks);
        break;
    case CONFIG_COMPRESS_POWERSGD: /* both factors summed */
        sent = p->lefts * ACC_SIZE;
        received = p->rights * ACC_SIZE;
        summed = most(p->lefts, p->rights);
        all = 2 * (ranks - 1) * (p->lefts + p->rights) * ACC_SIZE;
        break;
    }
    out->elements += p->elements;
    out->state += (p->elements + kept + p->rights) * ACC_SIZE;
    out->sent += all / ranks;
    out->most = most(out->most, p->elements * ACC_SIZE);
    out->sending = most(out->sending, sent);
    out->receiving = most(out->receiving, received);
    out->parts = most(out->parts, (summed + ranks) * ACC_SIZE);
}

/* A block's experts; its router, and the norm before it. Compression goes with an expert axis of 1 alone (train/parallel.c). */
static void count_experts(struct exchange_size *out, const struct plan_model *m, const struct plan_layout *l)
{
    int64_t c = m->width, t = l->axes.tensor, rank = l->modes.compress == CONFIG_COMPRESS_POWERSGD ? l->modes.compress_rank : 0;
    struct pack divided = {0}, whole = {0}, router = {0}, *vectors = t > 1 ? &whole : &divided;
    int64_t hidden = share(4 * c, t);
    add(&divided, m->experts * hidden, c, rank);
    add(&divided, m->experts * c, hidden, rank);
    add(&divided, 1, m->experts * hidden, rank);
    add(vectors, 1, m->experts * c, rank);
    add(&router, m->experts, c, rank);
    add(&router, 1, 2 * c, rank);
    count(out, &divided, l);
    count(out, &whole, l);
    count(out, &router, l);
}

/* A block's tensors (model/gpt.c): those that tensor ranks divide, and those that they repeat, are packed apart. */
static void count_block(struct exchange_size *out, const struct plan_model *m, const struct plan_layout *l)
{
    int64_t c = m->width, t = l->axes.tensor, rank = l->modes.compress == CONFIG_COMPRESS_POWERSGD ? l->modes.compress_rank : 0;
    struct pack divided = {0}, whole = {0}, *vectors = t > 1 ? &whole : &divided;
    add(&divided, share(3 * c, t), c, rank);
    add(&divided, c, share(c, t), rank);
    if (m->experts > 0) { /* in buckets of their own; what stands behind them too */
        add(&divided, 1, share(3 * c, t), rank);
        add(vectors, 1, 3 * c, rank);
        count(out, &divided, l);
        count(out, &whole, l);
        count_experts(out, m, l);
        return;
    }
    add(&divided, share(4 * c, t), c, rank);
    add(&divided, c, share(4 * c, t), rank);
    add(&divided, 1, share(7 * c, t), rank);
    add(vectors, 1, 6 * c, rank); /* biases of what is summed, and norms */
    count(out, &divided, l);
    count(out, &whole, l);
}

/* One end of the model: a table, if it HAS_TABLE, and ROWS of vectors of COLUMNS. A table that is tied, or divided, is packed alone. */
static void count_end(struct exchange_size *out, const struct plan_model *m, const struct plan_layout *l, bool has_table, int64_t rows,
                      int64_t columns)
{
    int64_t rank = l->modes.compress == CONFIG_COMPRESS_POWERSGD ? l->modes.compress_rank : 0;
    struct pack table = {0}, other = {0};
    if (has_table)
        add(&table, share(m->vocabulary, l->axes.tensor), m->width, rank);
    add(m->tied || l->axes.tensor > 1 ? &other : &table, rows, columns, rank);
    count(out, &table, l);
    count(out, &other, l);
}

struct exchange_size exchange_compressed(const struct plan_model *m, const struct plan_layout *l, const struct hardware_software *software,
                                         int stage)
{
    struct exchange_size out = {0};
    if (l->modes.compress == CONFIG_COMPRESS_NONE || l->axes.data * l->axes.context == 1)
        return out;
    int pieces = l->axes.pipeline * l->axes.chunks;
    const struct plan_cut cut = plan_cut_of(m, pieces, software->even_stages);
    for (int chunk = 0; chunk < l->axes.chunks; chunk++)
        for (int64_t i = plan_cut_layers(&cut, chunk * l->axes.pipeline + stage); i > 0; i--)
            count_block(&out, m, l);
    if (stage == 0)
        count_end(&out, m, l, true, m->context, m->width);
    if (stage == l->axes.pipeline - 1)
        count_end(&out, m, l, !m->tied || stage > 0, 1, 2 * m->width);
    return out;
}

int64_t exchange_local_state(const struct plan_layout *l, int64_t parameters)
{
    return l->modes.local_steps == 0 ? 0 : parameters * ACC_SIZE * (l->modes.outer_momentum ? 2 : 1);
}
