/* trace_facts FILE: what a joined trace (src/base/trace.h) holds, a line for each fact, for tests/train/trace.t and trace_cuda.t:
 *   rank 0: compute 12, communication 30, reading 8, checkpoint 2, kernels 900, links 4
 *   names: 0 compute backward        (a rank's spans of each name, once)
 *   steps 8, with a bucket summed under the backward pass 7
 *   clocks apart 0.000012            (the most that the ends of the same sum of losses are apart on two ranks, seconds)
 *   device: 0 2 kernels attention 16 (a rank, a step, how many spans of a name; those of an update are the next step's)
 *   of a device: overlaps 0, misplaced 0 (with the one before in their lane; where nothing was under way, or before the processor's call) */
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CATEGORIES = 6, DEVICE_CATEGORY = 4, RANKS_MOST = 64, NAMES_MOST = 128, STEPS_MOST = 256 };

static const char *const categories[CATEGORIES] = {"compute", "communication", "reading", "checkpoint", "kernels", "links"};

/* Microseconds: times are written in thousandths, and a device's are put on the processor's clock to within a few. */
static const double rounding = 0.0021, device_clock = 20;

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
    if (x->end != y->end)
        return x->end > y->end ? 1 : -1;
    return (x->begin > y->begin) - (x->begin < y->begin);
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
    printf("rank %d: ", rank);
    for (int c = 0; c < CATEGORIES; c++)
        printf("%s%s %d", c > 0 ? ", " : "", categories[c], counts[c]);
    putchar('\n');
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

/* ---- what a device did ---- */

static bool is_of_device(const struct span *s)
{
    return strcmp(s->category, categories[DEVICE_CATEGORY]) == 0 || strcmp(s->category, categories[DEVICE_CATEGORY + 1]) == 0;
}

/* While losses are shared nothing is under way on a device: steps on a rank, from one such time to the next. FORWARD: when the processor's
 * first forward pass begins, of a validation perhaps; UPDATE: that of the step before; infinite: not there. */
struct step_times {
    double begin, end, forward, update;
};

static int list_steps(const struct facts *f, int rank, struct step_times steps[STEPS_MOST])
{
    int count = 0;
    struct step_times next = {-INFINITY, INFINITY, INFINITY, INFINITY};
    for (size_t i = 0; i < f->count && count < STEPS_MOST - 1; i++) {
        const struct span *s = &f->spans[i];
        if (s->rank != rank)
            continue;
        if (is_named(s, "update"))
            next.update = s->begin;
        if ((is_named(s, "forward") || is_named(s, "evaluate")) && s->begin < next.forward)
            next.forward = s->begin;
        if (!is_named(s, "losses"))
            continue;
        next.end = s->begin;
        steps[count++] = next;
        next = (struct step_times){s->end, INFINITY, INFINITY, INFINITY};
    }
    steps[count++] = next;
    return count;
}

/* The step that S is within; -1: none. */
static int step_of(const struct span *s, const struct step_times *steps, int count)
{
    for (int i = 0; i < count; i++)
        if (s->begin >= steps[i].begin - device_clock && s->end <= steps[i].end + device_clock)
            return i;
    return -1;
}

static bool is_misplaced(const struct span *s, const struct step_times *steps, int step)
{
    double called = is_named(s, "AdamW") ? steps[step].update : is_named(s, "attention") ? steps[step].forward : -INFINITY;
    return s->begin < called - device_clock;
}

/* How many spans of each name there are in each step. */
static void print_device(const struct facts *f, int rank, const int *steps_of, int steps)
{
    for (int step = 0; step < steps; step++)
        for (size_t i = 0; i < f->count; i++) {
            const struct span *s = &f->spans[i];
            int before = 0, count = 0;
            for (size_t k = 0; k < f->count && steps_of[i] == step && s->rank == rank; k++)
                if (f->spans[k].rank == rank && steps_of[k] == step && is_named(&f->spans[k], s->name)) {
                    before += k < i;
                    count++;
                }
            if (count > 0 && before == 0)
                printf("device: %d %d %s %s %d\n", rank, step, s->category, s->name, count);
        }
}

static bool follow_device(const struct facts *f, int rank, int *overlaps, int *misplaced)
{
    static struct step_times steps[STEPS_MOST];
    int count = list_steps(f, rank, steps), *steps_of = malloc((f->count + 1) * sizeof *steps_of);
    double ends[2] = {-INFINITY, -INFINITY}; /* of the lanes */
    for (size_t i = 0; i < f->count && steps_of; i++) {
        const struct span *s = &f->spans[i];
        steps_of[i] = -1;
        if (s->rank != rank || !is_of_device(s))
            continue;
        double *end = &ends[strcmp(s->category, categories[DEVICE_CATEGORY]) == 0];
        steps_of[i] = step_of(s, steps, count);
        *overlaps += s->begin < *end - rounding;
        *misplaced += steps_of[i] < 0 || is_misplaced(s, steps, steps_of[i]);
        *end = s->end;
    }
    if (steps_of)
        print_device(f, rank, steps_of, count);
    free(steps_of);
    return steps_of != NULL;
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
    int steps = 0, overlapped = 0, overlaps = 0, misplaced = 0;
    for (int rank = 0; rank < f.ranks; rank++) {
        print_rank(&f, rank);
        count_overlaps(&f, rank, &steps, &overlapped);
        if (!follow_device(&f, rank, &overlaps, &misplaced))
            return 1;
    }
    printf("of a device: overlaps %d, misplaced %d\n", overlaps, misplaced);
    printf("steps %d, with a bucket summed under the backward pass %d\nclocks apart %.6f\n", steps, overlapped, clocks_apart(&f));
    free(f.spans);
    json_decref(events);
    return 0;
}
