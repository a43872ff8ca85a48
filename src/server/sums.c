#include "server/sums.h"

#include <stdlib.h>
#include <string.h>

#include "base/least.h"
#include "train/shares.h"

/* A partial sum that waits for its sibling. */
struct held {
    struct tree_node node;
    struct wire_block *block;
};

struct bucket_sum {
    int64_t elements; /* of this server's share */
    int lookup_of;    /* the bucket that it is joined to; -1 */
    struct held *held;
    int count, room;
    unsigned char *seen; /* by microbatch */
    int64_t microbatches;/* of them */
};

struct sums {
    struct backend *backend;
    int64_t microbatches;
    int bucket_count;
    struct bucket_sum *buckets;
    int whole; /* buckets */
};

cairn_err sums_open(struct backend *backend, const struct graph *graph, int64_t microbatches, int servers, int server, struct sums **out)
{
    struct sums *s = calloc(1, sizeof *s);
    if (!s)
        return FAIL(CAIRN_ENOMEM, "no memory for the sums");
    *s = (struct sums){.backend = backend, .microbatches = microbatches, .bucket_count = graph_bucket_count(graph)};
    s->buckets = calloc((size_t)s->bucket_count + 1, sizeof *s->buckets);
    bool memory = s->buckets != NULL;
    for (int i = 0; memory && i < s->bucket_count; i++) {
        struct bucket_sum *b = &s->buckets[i];
        int64_t begin;
        share_of_bucket(graph, i, servers, server, &begin, &b->elements);
        b->lookup_of = graph_bucket_at(graph, i)->lookup_of;
        b->seen = calloc((size_t)microbatches, 1);
        memory = b->seen != NULL;
    }
    if (!memory) {
        sums_close(s);
        return FAIL(CAIRN_ENOMEM, "no memory for the sums");
    }
    sums_clear(s);
    *out = s;
    return CAIRN_OK;
}

void sums_close(struct sums *s)
{
    if (!s)
        return;
    if (s->buckets)
        sums_clear(s);
    for (int i = 0; s->buckets && i < s->bucket_count; i++) {
        free(s->buckets[i].held);
        free(s->buckets[i].seen);
    }
    free(s->buckets);
    free(s);
}

size_t sums_bytes(const struct sums *s, int bucket)
{
    return (size_t)s->buckets[bucket].elements * dtype_size(s->backend->acc);
}

/* The microbatches FROM..TO-1 that NODE covers; false: there is no such node. */
static bool covers(const struct sums *s, struct tree_node node, int64_t *from, int64_t *to)
{
    if (node.level < 0 || node.level > 62 || node.index < 0 || node.index > (s->microbatches - 1) >> node.level)
        return false;
    *from = node.index << node.level;
    *to = least(s->microbatches, (node.index + 1) << node.level);
    return true;
}

static cairn_err make_room(struct bucket_sum *b)
{
    if (b->count < b->room)
        return CAIRN_OK;
    int room = 2 * b->room + 8;
    struct held *held = realloc(b->held, (size_t)room * sizeof *held);
    if (!held)
        return FAIL(CAIRN_ENOMEM, "no memory for the sums");
    b->held = held;
    b->room = room;
    return CAIRN_OK;
}

/* Where NODE's sibling is held; -1. */
static int find_sibling(const struct bucket_sum *b, struct tree_node node)
{
    for (int i = 0; i < b->count; i++)
        if (b->held[i].node.level == node.level && b->held[i].node.index == (node.index ^ 1))
            return i;
    return -1;
}

/* Joins NEW with its sibling, what comes of that with its own, and so on; the last is held. */
static void settle(struct sums *s, struct bucket_sum *b, struct held new)
{
    new.node = tree_promoted(new.node, s->microbatches);
    for (int at; (at = find_sibling(b, new.node)) >= 0;) {
        struct held sibling = b->held[at];
        struct held *left = new.node.index % 2 ? &sibling : &new, *right = left == &new ? &sibling : &new;
        s->backend->table->add(s->backend, left->block->data, left->block->data, right->block->data, b->elements);
        wire_block_drop(right->block);
        b->held[at] = b->held[--b->count];
        new = (struct held){tree_promoted((struct tree_node){left->node.level + 1, left->node.index / 2}, s->microbatches), left->block};
    }
    b->held[b->count++] = new;
}

cairn_err sums_add(struct sums *s, int bucket, struct tree_node node, struct wire_block *payload)
{
    int64_t from, to;
    size_t bytes = payload ? payload->bytes : 0;
    if (bucket < 0 || bucket >= s->bucket_count || !covers(s, node, &from, &to) || bytes != sums_bytes(s, bucket)) {
        wire_block_drop(payload);
        return FAIL(CAIRN_EFORMAT, "a partial sum of %zu bytes for bucket %d, node %d:%lld does not fit the model", bytes, bucket,
                    node.level, (long long)node.index);
    }
    struct bucket_sum *b = &s->buckets[bucket];
    if (b->seen[from]) { /* shares are given out again whole: the rest of the node is here too */
        wire_block_drop(payload);
        return CAIRN_OK;
    }
    cairn_err err = make_room(b);
    if (err) {
        wire_block_drop(payload);
        return err;
    }
    memset(b->seen + from, 1, (size_t)(to - from));
    b->microbatches += to - from;
    s->whole += b->microbatches == s->microbatches;
    if (payload)
        settle(s, b, (struct held){node, payload});
    return CAIRN_OK;
}

bool sums_are_whole(const struct sums *s)
{
    return s->whole == s->bucket_count;
}

void *sums_of(const struct sums *s, int bucket)
{
    return s->buckets[bucket].count ? s->buckets[bucket].held[0].block->data : NULL;
}

void sums_join(struct sums *s)
{
    for (int i = 0; i < s->bucket_count; i++) {
        const struct bucket_sum *b = &s->buckets[i];
        if (b->lookup_of >= 0 && b->elements > 0)
            s->backend->table->add(s->backend, sums_of(s, b->lookup_of), sums_of(s, b->lookup_of), sums_of(s, i), b->elements);
    }
}

void sums_clear(struct sums *s)
{
    s->whole = 0;
    for (int i = 0; i < s->bucket_count; i++) {
        struct bucket_sum *b = &s->buckets[i];
        while (b->count > 0)
            wire_block_drop(b->held[--b->count].block);
        if (b->seen)
            memset(b->seen, 0, (size_t)s->microbatches);
        b->microbatches = 0;
    }
}
