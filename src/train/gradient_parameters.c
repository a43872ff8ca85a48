/* The parameters under ZeRO. With 1 and 2 every replica has all of them: after an update each fetches the others' shares while the next
 * forward pass begins. With 3 a bucket is whole while a pass uses it, and until another needs its room; the one that followed it the
 * last time is fetched ahead. */
#include <stdlib.h>
#include <string.h>

#include "train/gradient_private.h"

/* Room for a whole bucket. Buckets of equal size, the blocks, share a few. */
struct held {
    int64_t elements;
    int sum; /* whose parameters it has or gets; -1: free */
    bool used; /* by a pass just now */
    int64_t left; /* when a pass was done with it, by the window's count; 0: not since it was fetched */
    void *data;
};

enum { HELD_OF_A_SIZE = 3 }; /* one in use, one fetched, one to spare while a bucket's use ends in the midst of another's */

struct parameter_window {
    struct held *held;
    int count;
    int64_t releases;   /* so far */
    int last;           /* the sum that was asked for last; -1 */
    int (*followers)[2];/* by sum: which followed, when it was reached upwards and downwards; -1: not known */
};

static size_t act_bytes(const struct gradient *g, int64_t elements)
{
    return (size_t)elements * dtype_size(g->backend->act);
}

static int held_of_size(const struct parameter_window *w, int64_t elements)
{
    int n = 0;
    for (int i = 0; i < w->count; i++)
        n += w->held[i].elements == elements;
    return n;
}

static cairn_err open_window(struct gradient *g)
{
    struct parameter_window *w = g->window = calloc(1, sizeof *w);
    if (w) {
        w->held = calloc((size_t)g->sum_count + 1, sizeof *w->held);
        w->followers = malloc(((size_t)g->sum_count + 1) * sizeof *w->followers);
    }
    if (!w || !w->held || !w->followers)
        return FAIL(CAIRN_ENOMEM, "no memory for the window of parameters");
    w->last = -1;
    for (int i = 0; i < g->sum_count; i++) {
        const struct sum *s = &g->sums[i];
        w->followers[i][0] = w->followers[i][1] = -1;
        if (s->of_lookup || held_of_size(w, s->elements) >= HELD_OF_A_SIZE)
            continue;
        struct held *h = &w->held[w->count++];
        *h = (struct held){.elements = s->elements, .sum = -1};
        h->data = g->backend->table->alloc(g->backend, act_bytes(g, s->elements));
        if (!h->data)
            return FAIL(CAIRN_ENOMEM, "no memory for %.1f MB of parameters", (double)act_bytes(g, s->elements) * 1e-6);
    }
    return CAIRN_OK;
}

cairn_err parameters_open(struct gradient *g)
{
    return g->options.zero == 3 ? open_window(g) : CAIRN_OK;
}

void parameters_close(struct gradient *g)
{
    struct parameter_window *w = g->window;
    if (!w)
        return;
    for (int i = 0; w->held && i < w->count; i++)
        if (w->held[i].data)
            g->backend->table->free(g->backend, w->held[i].data, act_bytes(g, w->held[i].elements));
    free(w->held);
    free(w->followers);
    free(w);
    g->window = NULL;
}

int64_t parameters_memory(const struct gradient *g)
{
    int64_t bytes = 0;
    for (int i = 0; g->window && i < g->window->count; i++)
        bytes += (int64_t)act_bytes(g, g->window->held[i].elements);
    return bytes;
}

/* ---- zero 1 and 2 ---- */

/* The bucket's parameters, where kernels read them, or staged on their way. */
static char *compute_of(const struct gradient *g, const struct sum *s, bool staged)
{
    const struct piece *p = &g->pieces[s->piece];
    return (staged ? p->host_compute : (char *)p->weights->compute) + act_bytes(g, graph_bucket_at(p->graph, s->bucket)->offset);
}

/* Staged: what came from others, elements FROM to UNTIL - 1 of the bucket. */
static void upload_parameters(const struct gradient *g, const struct sum *s, int64_t from, int64_t until)
{
    size_t at = act_bytes(g, from);
    if (g->staged && until > from)
        g->backend->table->upload(g->backend, compute_of(g, s, false) + at, compute_of(g, s, true) + at, act_bytes(g, until - from));
}

static cairn_err finish_gather(const struct gradient *g, struct sum *s)
{
    if (!s->gathering)
        return CAIRN_OK;
    s->gathering = false;
    TRY(gather_wait(s->holders->reducer, s->id));
    upload_parameters(g, s, 0, s->own_begin);
    upload_parameters(g, s, s->own_begin + s->own_length, s->elements);
    return CAIRN_OK;
}

static cairn_err gather_in_place(struct gradient *g, struct sum *s)
{
    TRY(finish_gather(g, s));
    s->gathering = true;
    char *bucket = compute_of(g, s, g->staged);
    size_t own = act_bytes(g, s->own_begin);
    if (g->staged)
        g->backend->table->download(g->backend, bucket + own, compute_of(g, s, false) + own, act_bytes(g, s->own_length));
    return gather_start(s->holders->reducer, s->id, bucket, g->backend->act);
}

/* ---- zero 3 ---- */

static struct held *find(struct parameter_window *w, int sum)
{
    for (int i = 0; i < w->count; i++)
        if (w->held[i].sum == sum)
            return &w->held[i];
    return NULL;
}

/* Room for the sum's bucket, of its size: a free one, or that which was left first, or, if it MUST, one that was fetched ahead and not
 * used yet. */
static struct held *make_room(struct gradient *g, const struct sum *s, bool must, cairn_err *err)
{
    struct held *ahead = NULL, *left = NULL;
    for (int i = 0; i < g->window->count; i++) {
        struct held *h = &g->window->held[i];
        if (h->elements != s->elements)
            continue;
        if (h->sum < 0)
            return h;
        if (h->left && (!left || h->left < left->left))
            left = h;
        else if (!h->used && !h->left)
            ahead = h;
    }
    if (left)
        return left;
    if (!must || !ahead)
        return NULL;
    *err = finish_gather(g, &g->sums[ahead->sum]);
    ahead->sum = -1;
    return ahead;
}

/* Starts to fetch the bucket, unless it is here; *HELD is NULL if it may be left and there is no room. */
static cairn_err fetch(struct gradient *g, struct sum *s, bool must, struct held **held)
{
    cairn_err err = CAIRN_OK;
    int number = (int)(s - g->sums);
    *held = find(g->window, number);
    if (*held) {
        (*held)->left = 0;
        return CAIRN_OK;
    }
    struct held *h = *held = make_room(g, s, must, &err);
    if (err || (!h && !must))
        return err;
    if (!h)
        return FAIL(CAIRN_EINVAL, "more buckets of parameters are in use than there is room for");
    const struct weights_own own = weights_own(g->pieces[s->piece].weights, s->bucket);
    g->backend->table->copy(g->backend, (char *)h->data + act_bytes(g, s->own_begin), own.compute, act_bytes(g, s->own_length));
    h->sum = number;
    h->used = false;
    h->left = 0;
    s->gathering = true;
    return gather_start(s->holders->reducer, s->id, h->data, g->backend->act);
}

/* What followed the last time is fetched ahead. Every replica asks in the same order, and so guesses the same. */
static cairn_err fetch_ahead(struct gradient *g, int now)
{
    struct parameter_window *w = g->window;
    struct held *h;
    if (w->last == now)
        return CAIRN_OK;
    int upwards = w->last < now;
    if (w->last >= 0)
        w->followers[w->last][upwards] = now;
    w->last = now;
    int next = w->followers[now][upwards];
    return next < 0 ? CAIRN_OK : fetch(g, &g->sums[next], false, &h);
}

cairn_err parameters_acquire(void *context, int bucket, const void **parameters)
{
    struct piece *p = context;
    struct gradient *g = p->gradient;
    struct sum *s = sum_of(p, bucket);
    if (!g->window)
        return finish_gather(g, s);
    struct held *h;
    TRY(fetch(g, s, true, &h));
    TRY(finish_gather(g, s));
    h->used = true;
    *parameters = h->data;
    return fetch_ahead(g, (int)(s - g->sums));
}

cairn_err parameters_release(void *context, int bucket)
{
    struct piece *p = context;
    struct parameter_window *w = p->gradient->window;
    struct held *h = find(w, p->first_sum + bucket);
    if (h) {
        h->used = false;
        h->left = ++w->releases;
    }
    return CAIRN_OK;
}

cairn_err gradient_share_parameters(struct gradient *g)
{
    for (int i = 0; i < g->sum_count && g->options.zero > 0; i++) {
        struct sum *s = &g->sums[i];
        if (s->of_lookup)
            continue;
        if (!g->window)
            TRY(gather_in_place(g, s));
        else /* what was fetched ahead is of before the update */
            TRY(finish_gather(g, s));
    }
    for (int i = 0; g->window && i < g->window->count; i++)
        g->window->held[i].sum = -1;
    return CAIRN_OK;
}
