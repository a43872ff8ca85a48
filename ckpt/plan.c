#include "ckpt/plan.h"

#include <stdlib.h>
#include <string.h>

/* Pieces below this are not worth a second writer. */
enum { SPLIT_BYTES = 1 << 20 };

/* One rank group's claim to hold a slab. */
struct claim {
    const struct shard *slab;
    int group, shard;
};

struct nodes {
    int count;
    int *of;        /* [ranks] numbered from 0 by lowest rank */
    int *leader;    /* [count] */
    int *holder;    /* [groups * count] the group's lowest rank on the node, or -1 */
    int64_t *load;  /* [count] bytes to write */
    int *order;     /* [count] room to sort */
};

static void nodes_free(struct nodes *n)
{
    free(n->of);
    free(n->leader);
    free(n->holder);
    free(n->load);
    free(n->order);
}

static cairn_err nodes_make(const struct layout *layout, const int *node_of, struct nodes *n)
{
    size_t size = (size_t)layout->size;
    *n = (struct nodes){0};
    n->of = calloc(size, sizeof *n->of);
    n->leader = calloc(size, sizeof *n->leader);
    if (!n->of || !n->leader)
        return FAIL(CAIRN_ENOMEM, "no memory for %d ranks", layout->size);
    for (int r = 0; r < layout->size; r++) {
        int k = 0;
        while (k < n->count && node_of[n->leader[k]] != node_of[r])
            k++;
        if (k == n->count)
            n->leader[n->count++] = r;
        n->of[r] = k;
    }
    n->holder = malloc((size_t)layout->group_count * (size_t)n->count * sizeof *n->holder);
    n->load = calloc((size_t)n->count, sizeof *n->load);
    n->order = calloc((size_t)n->count, sizeof *n->order);
    if (!n->holder || !n->load || !n->order)
        return FAIL(CAIRN_ENOMEM, "no memory for %d nodes", n->count);
    for (int i = 0; i < layout->group_count * n->count; i++)
        n->holder[i] = -1;
    for (int r = layout->size - 1; r >= 0; r--)
        n->holder[layout->group_of[r] * n->count + n->of[r]] = r;
    return CAIRN_OK;
}

static int compare_longs(const int64_t *a, const int64_t *b)
{
    for (int d = 0; d < SHARD_MAX_DIMS; d++)
        if (a[d] != b[d])
            return a[d] < b[d] ? -1 : 1;
    return 0;
}

static int compare_boxes(const struct shard *a, const struct shard *b)
{
    int order = compare_longs(a->offset, b->offset);
    return order ? order : compare_longs(a->extent, b->extent);
}

static int by_slab(const void *a, const void *b)
{
    const struct claim *x = a, *y = b;
    int order = strcmp(x->slab->name, y->slab->name);
    if (order == 0)
        order = compare_boxes(x->slab, y->slab);
    return order ? order : x->group - y->group;
}

static cairn_err collect(const struct layout *layout, struct claim **claims, int *count)
{
    size_t n = 0;
    for (int g = 0; g < layout->group_count; g++)
        n += (size_t)layout->groups[g].count;
    *claims = malloc((n + 1) * sizeof **claims);
    if (!*claims)
        return FAIL(CAIRN_ENOMEM, "no memory for %zu slabs", n);
    *count = 0;
    for (int g = 0; g < layout->group_count; g++)
        for (int i = 0; i < layout->groups[g].count; i++)
            (*claims)[(*count)++] = (struct claim){&layout->groups[g].shards[i], g, i};
    qsort(*claims, n, sizeof **claims, by_slab);
    return CAIRN_OK;
}

static int by_array_name(const void *key, const void *array)
{
    return strcmp(key, ((const struct table_array *)array)->name);
}

/* Arrays come sorted: one whose name is also a group of NAME is there already. */
static cairn_err check_groups(const struct plan *plan, const char *name)
{
    char group[SHARD_NAME_SIZE];
    for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        memcpy(group, name, (size_t)(slash - name));
        group[slash - name] = 0;
        if (bsearch(group, plan->arrays, (size_t)plan->array_count, sizeof *plan->arrays, by_array_name))
            return FAIL(CAIRN_EINVAL, "array %s cannot be stored beside array %s: that name would be a group too", name, group);
    }
    return CAIRN_OK;
}

static cairn_err add_array(struct plan *plan, const struct shard *s)
{
    struct table_array *a = plan->array_count ? &plan->arrays[plan->array_count - 1] : NULL;
    char x[128], y[128];
    if (a && strcmp(a->name, s->name) == 0) {
        if (a->dtype == (int32_t)s->dtype && a->dims == s->dims && memcmp(a->shape, s->shape, sizeof a->shape) == 0)
            return CAIRN_OK;
        return FAIL(CAIRN_EINVAL, "array %s is %s %s on one rank and %s %s on another", s->name, dtype_name((enum dtype)a->dtype),
                    shape_text(a->dims, a->shape, x, sizeof x), dtype_name(s->dtype), shape_text(s->dims, s->shape, y, sizeof y));
    }
    TRY(table_check_name(s->name));
    TRY(check_groups(plan, s->name));
    a = &plan->arrays[plan->array_count++];
    memset(a, 0, sizeof *a);
    memcpy(a->name, s->name, sizeof a->name);
    memcpy(a->shape, s->shape, sizeof a->shape);
    a->dtype = (int32_t)s->dtype;
    a->dims = s->dims;
    return CAIRN_OK;
}

/* The nodes on which one of CLAIMS' groups lives, those with the least to write first. */
static int holding_nodes(const struct claim *claims, int count, struct nodes *nodes)
{
    int n = 0;
    for (int k = 0; k < nodes->count; k++)
        for (int c = 0; c < count; c++)
            if (nodes->holder[claims[c].group * nodes->count + k] >= 0) {
                int at = n++;
                for (; at > 0 && nodes->load[nodes->order[at - 1]] > nodes->load[k]; at--)
                    nodes->order[at] = nodes->order[at - 1];
                nodes->order[at] = k;
                break;
            }
    return n;
}

static void set_sender(struct plan_piece *piece, const struct claim *claims, int count, const struct nodes *nodes, int node)
{
    piece->sender = -1;
    for (int c = 0; c < count; c++) {
        int rank = nodes->holder[claims[c].group * nodes->count + node];
        if (rank >= 0 && (piece->sender < 0 || rank < piece->sender)) {
            piece->sender = rank;
            piece->shard = claims[c].shard;
        }
    }
}

static cairn_err add_pieces(struct plan *plan, const struct claim *claims, int count, struct nodes *nodes, int *room)
{
    const struct shard *s = claims[0].slab;
    struct box whole = box_of_shard(s);
    int64_t bytes = (int64_t)shard_bytes(s), pieces = holding_nodes(claims, count, nodes);
    if (pieces > bytes / SPLIT_BYTES)
        pieces = bytes / SPLIT_BYTES;
    if (pieces > box_rows(&whole))
        pieces = box_rows(&whole);
    if (pieces < 1)
        pieces = 1;
    if (plan->piece_count + pieces > *room) {
        *room = 2 * *room + (int)pieces;
        struct plan_piece *more = realloc(plan->pieces, (size_t)*room * sizeof *more);
        if (!more)
            return FAIL(CAIRN_ENOMEM, "no memory for the plan of a checkpoint");
        plan->pieces = more;
    }
    for (int64_t i = 0; i < pieces; i++) {
        struct plan_piece *p = &plan->pieces[plan->piece_count++];
        int node = nodes->order[i];
        *p = (struct plan_piece){.array = plan->array_count - 1, .part = node, .box = box_piece(&whole, i, pieces)};
        p->first = box_first(&whole, &p->box);
        set_sender(p, claims, count, nodes, node);
        nodes->load[node] += box_elements(&p->box) * (int64_t)dtype_size(s->dtype);
    }
    return CAIRN_OK;
}

/* Parts are numbered over the nodes that write. */
static cairn_err number_parts(struct plan *plan, const struct nodes *nodes)
{
    plan->writer = calloc((size_t)nodes->count, sizeof *plan->writer);
    if (!plan->writer)
        return FAIL(CAIRN_ENOMEM, "no memory for %d nodes", nodes->count);
    for (int k = 0; k < nodes->count; k++) {
        nodes->order[k] = plan->part_count;
        if (nodes->load[k] > 0)
            plan->writer[plan->part_count++] = nodes->leader[k];
    }
    for (int i = 0; i < plan->piece_count; i++)
        plan->pieces[i].part = nodes->order[plan->pieces[i].part];
    return CAIRN_OK;
}

static cairn_err check_coverage(const struct plan *plan)
{
    struct box *boxes = malloc(((size_t)plan->piece_count + 1) * sizeof *boxes);
    if (!boxes)
        return FAIL(CAIRN_ENOMEM, "no memory to check %d pieces", plan->piece_count);
    cairn_err err = CAIRN_OK;
    for (int a = 0, i = 0; a < plan->array_count && err == CAIRN_OK; a++) {
        int n = 0;
        for (; i < plan->piece_count && plan->pieces[i].array == a; i++)
            boxes[n++] = plan->pieces[i].box;
        err = boxes_cover(plan->arrays[a].name, plan->arrays[a].dims, plan->arrays[a].shape, boxes, n, CAIRN_EINVAL);
    }
    free(boxes);
    return err;
}

cairn_err plan_make(const struct layout *layout, const int *node_of, struct plan *plan)
{
    struct nodes nodes = {0};
    struct claim *claims = NULL;
    int count = 0, room = 0;
    cairn_err err;
    *plan = (struct plan){0};
    TRY_GOTO(err, nodes_make(layout, node_of, &nodes), done);
    TRY_GOTO(err, collect(layout, &claims, &count), done);
    plan->arrays = calloc((size_t)count + 1, sizeof *plan->arrays);
    if (!plan->arrays) {
        err = FAIL(CAIRN_ENOMEM, "no memory for %d slabs", count);
        goto done;
    }
    for (int i = 0, same; i < count; i += same) {
        same = 1;
        TRY_GOTO(err, add_array(plan, claims[i].slab), done);
        while (i + same < count && strcmp(claims[i].slab->name, claims[i + same].slab->name) == 0 &&
               compare_boxes(claims[i].slab, claims[i + same].slab) == 0) {
            TRY_GOTO(err, add_array(plan, claims[i + same].slab), done);
            same++;
        }
        if (shard_elements(claims[i].slab) > 0)
            TRY_GOTO(err, add_pieces(plan, &claims[i], same, &nodes, &room), done);
    }
    TRY_GOTO(err, check_coverage(plan), done);
    err = number_parts(plan, &nodes);
done:
    free(claims);
    nodes_free(&nodes);
    if (err != CAIRN_OK)
        plan_free(plan);
    return err;
}

void plan_free(struct plan *plan)
{
    free(plan->arrays);
    free(plan->pieces);
    free(plan->writer);
    *plan = (struct plan){0};
}
