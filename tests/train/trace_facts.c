/* trace_facts FILE: what a joined trace (src/base/trace.h) holds, a line for each fact, for tests/train/trace.t:
 *   rank 0: compute 12, communication 30, reading 8, checkpoint 2
 *   names: 0 compute backward        (a rank's spans of each name, once)
 *   steps 8, with a bucket summed under the backward pass 7
 *   clocks apart 0.000012            (the most that the ends of the same sum of losses are apart on two ranks, seconds) */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CATEGORIES = 4, RANKS_MOST = 64, NAMES_MOST = 64, STEPS_MOST = 256 };

static const char *const categories[CATEGORIES] = {"compute", "communication", "reading", "checkpoint"};

struct span {
    double begin, end; /* microseconds */
    const char *category, *name;
    int rank;
    long long id;
};

struct facts {
    struct span *spans;
    size_t count;
    int ranks;
};

static bool is_named(const struct span *s, const char *name)
{
    return strcmp(s->name, name) == 0;
}

static int by_end(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    return (x->end > y->end) - (x->end < y->end);
}

static bool take(struct facts *f, json_t *event)
{
    struct span *s = &f->spans[f->count];
    const char *phase;
    double length;
    *s = (struct span){.id = -1};
    if (json_unpack(event, "{s:s}", "ph", &phase) != 0)
        return false;
    if (strcmp(phase, "X") != 0)
        return strcmp(phase, "M") == 0;
    if (json_unpack(event, "{s:i, s:F, s:F, s:s, s:s, s?{s:I}}", "pid", &s->rank, "ts", &s->begin, "dur", &length, "cat", &s->category,
                    "name", &s->name, "args", "id", &s->id) != 0)
        return false;
    s->end = s->begin + length;
    f->ranks = s->rank >= f->ranks ? s->rank + 1 : f->ranks;
    f->count++;
    return s->rank >= 0 && s->rank < RANKS_MOST && length >= 0;
}

static void print_rank(const struct facts *f, int rank)
{
    int counts[CATEGORIES] = {0}, names = 0;
    const char *seen[NAMES_MOST];
    for (size_t i = 0; i < f->count; i++) {
        const struct span *s = &f->spans[i];
        bool known = s->rank != rank;
        for (int c = 0; c < CATEGORIES && s->rank == rank; c++)
            counts[c] += strcmp(s->category, categories[c]) == 0;
        for (int n = 0; n < names && !known; n++)
            known = is_named(s, seen[n]);
        if (!known && names < NAMES_MOST) {
            seen[names++] = s->name;
            printf("names: %d %s %s\n", rank, s->category, s->name);
        }
    }
    printf("rank %d: compute %d, communication %d, reading %d, checkpoint %d\n", rank, counts[0], counts[1], counts[2], counts[3]);
}

/* A step of a rank ends with its update. Spans are in the order of their ends. */
static void count_overlaps(const struct facts *f, int rank, int *steps, int *overlapped)
{
    double first_sum = -1, last_backward = -1;
    for (size_t i = 0; i < f->count; i++) {
        const struct span *s = &f->spans[i];
        if (s->rank != rank)
            continue;
        bool is_sum = is_named(s, "sum of a bucket") || is_named(s, "compressed sum");
        if (is_sum && (first_sum < 0 || s->begin < first_sum))
            first_sum = s->begin;
        if (is_named(s, "backward"))
            last_backward = s->end;
        if (!is_named(s, "update"))
            continue;
        ++*steps;
        *overlapped += first_sum >= 0 && first_sum < last_backward;
        first_sum = last_backward = -1;
    }
}

/* No rank has all ranks' losses before the last one has given its own: the spans of one step's sum overlap on aligned clocks. */
static double clocks_apart(const struct facts *f)
{
    double last_begin[STEPS_MOST] = {0}, first_end[STEPS_MOST] = {0}, worst = 0;
    for (size_t i = 0; i < f->count; i++) {
        const struct span *s = &f->spans[i];
        if (!is_named(s, "losses") || s->id < 0 || s->id >= STEPS_MOST)
            continue;
        if (s->begin > last_begin[s->id])
            last_begin[s->id] = s->begin;
        if (first_end[s->id] == 0 || s->end < first_end[s->id])
            first_end[s->id] = s->end;
    }
    for (int i = 0; i < STEPS_MOST; i++)
        worst = last_begin[i] - first_end[i] > worst ? last_begin[i] - first_end[i] : worst;
    return worst * 1e-6;
}

int main(int argc, char **argv)
{
    json_error_t error;
    json_t *events = argc == 2 ? json_load_file(argv[1], 0, &error) : NULL, *event;
    size_t i;
    if (!json_is_array(events)) {
        fprintf(stderr, "trace_facts: %s: %s, line %d\n", argc == 2 ? argv[1] : "no file", argc == 2 ? error.text : "", argc == 2 ? error.line : 0);
        return 1;
    }
    struct facts f = {.spans = calloc(json_array_size(events) + 1, sizeof *f.spans)};
    json_array_foreach(events, i, event) {
        if (!f.spans || !take(&f, event)) {
            fprintf(stderr, "trace_facts: event %zu is none of a trace\n", i);
            return 1;
        }
    }
    qsort(f.spans, f.count, sizeof *f.spans, by_end);
    int steps = 0, overlapped = 0;
    for (int rank = 0; rank < f.ranks; rank++) {
        print_rank(&f, rank);
        count_overlaps(&f, rank, &steps, &overlapped);
    }
    printf("steps %d, with a bucket summed under the backward pass %d\nclocks apart %.6f\n", steps, overlapped, clocks_apart(&f));
    free(f.spans);
    json_decref(events);
    return 0;
}
