#include "base/trace.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/least.h"
#include "base/make_folders.h"

static const char *const category_names[] = {"compute", "communication", "reading", "checkpoint", "kernels", "links"};

/* Lanes of a category: those beyond are drawn over each other. Spans inside each other in a lane: deeper ones get another. */
enum { CATEGORIES = 6, LANES = 16, DEPTH = 32, PATH_SIZE = 4096 };

struct span {
    uint64_t begun, ended; /* nanoseconds of the monotonic clock */
    const char *name;
    int64_t id;
    int category, lane;
};

/* A device's spans have a ring of their own: they are so many that they would push all others out. */
enum { RING_PROCESSOR, RING_DEVICE, RINGS };

struct ring {
    struct span *spans;
    int64_t capacity, recorded;
};

static struct {
    pthread_mutex_t lock; /* of the rings */
    struct ring rings[RINGS];
    double clock_offset;
    int rank;
    char path[PATH_SIZE];
} trace = {.lock = PTHREAD_MUTEX_INITIALIZER};

atomic_bool trace_is_on;

uint64_t trace_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void put(struct ring *ring, const struct span *span)
{
    pthread_mutex_lock(&trace.lock);
    if (ring->capacity > 0)
        ring->spans[ring->recorded++ % ring->capacity] = *span;
    pthread_mutex_unlock(&trace.lock);
}

void trace_record(uint64_t begun, enum trace_category category, const char *name, int64_t id)
{
    const struct span span = {.begun = begun, .ended = trace_now(), .name = name, .id = id, .category = (int)category};
    put(&trace.rings[RING_PROCESSOR], &span);
}

void trace_record_device(uint64_t begun, uint64_t ended, enum trace_category category, const char *name)
{
    const struct span span = {.begun = begun, .ended = ended, .name = name, .id = -1, .category = (int)category};
    put(&trace.rings[RING_DEVICE], &span);
}

static cairn_err rank_path(const char *folder, int rank, char *path)
{
    if (snprintf(path, PATH_SIZE, "%s/rank-%04d.json", folder, rank) >= PATH_SIZE)
        return FAIL(CAIRN_EINVAL, "the path of the trace folder is too long: %s", folder);
    return CAIRN_OK;
}

static cairn_err open_ring(struct ring *ring, int64_t capacity)
{
    if (capacity < 1)
        return FAIL(CAIRN_EINVAL, "a trace that keeps %lld spans", (long long)capacity);
    struct span *spans = malloc((size_t)capacity * sizeof *spans);
    if (!spans)
        return FAIL(CAIRN_ENOMEM, "no memory to trace %lld spans", (long long)capacity);
    memset(spans, 0, (size_t)capacity * sizeof *spans); /* so that no step waits for the pages */
    pthread_mutex_lock(&trace.lock);
    free(ring->spans);
    *ring = (struct ring){.spans = spans, .capacity = capacity};
    pthread_mutex_unlock(&trace.lock);
    return CAIRN_OK;
}

cairn_err trace_open(const char *folder, int rank, int64_t capacity)
{
    trace_close();
    TRY(rank_path(folder, rank, trace.path));
    TRY(make_folders(folder));
    TRY(open_ring(&trace.rings[RING_PROCESSOR], capacity));
    trace.rank = rank;
    atomic_store(&trace_is_on, true);
    return CAIRN_OK;
}

cairn_err trace_open_device(int64_t capacity)
{
    return atomic_load(&trace_is_on) ? open_ring(&trace.rings[RING_DEVICE], capacity) : CAIRN_OK;
}

void trace_set_clock_offset(double seconds)
{
    trace.clock_offset = seconds;
}

void trace_close(void)
{
    atomic_store(&trace_is_on, false);
    pthread_mutex_lock(&trace.lock);
    for (int i = 0; i < RINGS; i++) {
        free(trace.rings[i].spans);
        trace.rings[i] = (struct ring){0};
    }
    trace.clock_offset = 0;
    pthread_mutex_unlock(&trace.lock);
}

/* Earlier first; of those that begin together the longer one, which the others are inside. */
static int by_begin(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    if (x->begun != y->begun)
        return x->begun < y->begun ? -1 : 1;
    return (x->ended < y->ended) - (x->ended > y->ended);
}

/* The ends of the spans that are open in a lane, each inside the one before it. */
struct lane {
    uint64_t ends[DEPTH];
    int depth;
};

static bool lane_takes(struct lane *lane, const struct span *span)
{
    while (lane->depth > 0 && lane->ends[lane->depth - 1] <= span->begun)
        lane->depth--;
    if (lane->depth == DEPTH || (lane->depth > 0 && lane->ends[lane->depth - 1] < span->ended))
        return false;
    lane->ends[lane->depth++] = span->ended;
    return true;
}

/* Gives each span the first lane of its category in which it overlaps none but those it is inside of. */
static cairn_err assign_lanes(struct span *spans, int64_t count)
{
    struct lane(*lanes)[LANES] = calloc(CATEGORIES, sizeof *lanes);
    if (!lanes)
        return FAIL(CAIRN_ENOMEM, "no memory for the lanes of a trace");
    qsort(spans, (size_t)count, sizeof *spans, by_begin);
    for (int64_t i = 0; i < count; i++)
        while (spans[i].lane < LANES - 1 && !lane_takes(&lanes[spans[i].category][spans[i].lane], &spans[i]))
            spans[i].lane++;
    free(lanes);
    return CAIRN_OK;
}

/* TEXT as it is where JSON takes it, else with '_'. */
static void print_text(FILE *out, const char *text)
{
    for (; *text; text++)
        fputc((unsigned char)*text < ' ' || *text == '"' || *text == '\\' ? '_' : *text, out);
}

static int lane_number(const struct span *span)
{
    return span->category * LANES + span->lane;
}

static void print_span(FILE *out, const struct span *span)
{
    fprintf(out, ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,\"cat\":\"%s\",\"name\":\"", trace.rank,
            lane_number(span), (double)span->begun / 1e3 + 1e6 * trace.clock_offset,
            (double)(span->ended - span->begun) / 1e3, category_names[span->category]);
    print_text(out, span->name);
    fputc('"', out);
    if (span->id >= 0)
        fprintf(out, ",\"args\":{\"id\":%lld}", (long long)span->id);
    fputc('}', out);
}

/* How much of what was recorded the rings still hold. */
struct kept {
    int64_t kept[RINGS], recorded[RINGS];
};

static void print_labels(FILE *out, const struct kept *k)
{
    bool lost[RINGS];
    for (int i = 0; i < RINGS; i++)
        lost[i] = k->kept[i] < k->recorded[i];
    if (!lost[RING_PROCESSOR] && !lost[RING_DEVICE])
        return;
    fprintf(out, ",\n{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_labels\",\"args\":{\"labels\":\"", trace.rank);
    if (lost[RING_PROCESSOR])
        fprintf(out, "the newest %lld of %lld spans", (long long)k->kept[RING_PROCESSOR], (long long)k->recorded[RING_PROCESSOR]);
    if (lost[RING_DEVICE])
        fprintf(out, "%sthe newest %lld of %lld spans of the device", lost[RING_PROCESSOR] ? ", " : "", (long long)k->kept[RING_DEVICE],
                (long long)k->recorded[RING_DEVICE]);
    fputs("\"}}", out);
}

/* Metadata events, which name the processes and threads of the picture. */
static void print_metadata(FILE *out, const struct span *spans, int64_t count, const struct kept *kept)
{
    bool used[CATEGORIES * LANES] = {false};
    for (int64_t i = 0; i < count; i++)
        used[lane_number(&spans[i])] = true;
    fprintf(out, "{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_name\",\"args\":{\"name\":\"rank %d\"}}", trace.rank, trace.rank);
    fprintf(out, ",\n{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_sort_index\",\"args\":{\"sort_index\":%d}}", trace.rank, trace.rank);
    print_labels(out, kept);
    for (int lane = 0; lane < CATEGORIES * LANES; lane++)
        if (used[lane])
            fprintf(out, ",\n{\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"name\":\"thread_name\",\"args\":{\"name\":\"%s\"}}", trace.rank,
                    lane, category_names[lane / LANES]);
}

/* Opens the file that is to become PATH. */
static cairn_err open_draft(const char *path, char *draft, FILE **out)
{
    if (snprintf(draft, PATH_SIZE, "%s.tmp", path) >= PATH_SIZE)
        return FAIL(CAIRN_EINVAL, "the path of a trace is too long: %s", path);
    *out = fopen(draft, "w");
    if (!*out)
        return FAIL(error_from_errno(errno), "cannot write %s: %s", draft, strerror(errno));
    return CAIRN_OK;
}

/* Closes it, and gives it its name unless ERR or the writing has failed. */
static cairn_err finish_draft(const char *path, const char *draft, FILE *out, cairn_err err)
{
    bool failed = ferror(out);
    failed |= fclose(out) != 0;
    if (err == CAIRN_OK && (failed || rename(draft, path) != 0))
        err = FAIL(error_from_errno(errno), "cannot write %s: %s", path, strerror(errno));
    if (err != CAIRN_OK)
        remove(draft);
    return err;
}

/* The rings' spans, which the caller frees. */
static cairn_err copy_rings(struct span **spans, int64_t *count, struct kept *k)
{
    int64_t room = trace.rings[RING_PROCESSOR].capacity + trace.rings[RING_DEVICE].capacity;
    *spans = malloc((size_t)room * sizeof **spans);
    *count = 0;
    if (!*spans)
        return FAIL(CAIRN_ENOMEM, "no memory to write a trace of %lld spans", (long long)room);
    pthread_mutex_lock(&trace.lock);
    for (int i = 0; i < RINGS; i++) {
        const struct ring *ring = &trace.rings[i];
        k->recorded[i] = ring->recorded;
        k->kept[i] = least(ring->recorded, ring->capacity);
        if (k->kept[i] > 0)
            memcpy(*spans + *count, ring->spans, (size_t)k->kept[i] * sizeof **spans);
        *count += k->kept[i];
    }
    pthread_mutex_unlock(&trace.lock);
    return CAIRN_OK;
}

cairn_err trace_write(void)
{
    struct span *spans = NULL;
    int64_t count = 0;
    struct kept kept;
    char draft[PATH_SIZE];
    FILE *out = NULL;
    if (!atomic_load(&trace_is_on))
        return CAIRN_OK;
    TRY(copy_rings(&spans, &count, &kept));
    cairn_err err = assign_lanes(spans, count);
    if (err == CAIRN_OK)
        err = open_draft(trace.path, draft, &out);
    if (err == CAIRN_OK) {
        fputs("[\n", out);
        print_metadata(out, spans, count, &kept);
        for (int64_t i = 0; i < count; i++)
            print_span(out, &spans[i]);
        fputs("\n]\n", out);
        err = finish_draft(trace.path, draft, out, CAIRN_OK);
    }
    free(spans);
    return err;
}

/* Copies the events of IN, an array as trace_write writes it, behind those in OUT. */
static cairn_err append_events(FILE *in, const char *path, FILE *out, bool first)
{
    static const char end[] = "\n]\n";
    const long around = 2, behind = (long)sizeof end - 1;
    char found[sizeof end] = "", buffer[65536];
    if (fseek(in, 0, SEEK_END) != 0)
        return FAIL(error_from_errno(errno), "cannot read %s: %s", path, strerror(errno));
    long left = ftell(in) - around - behind;
    bool whole = left > 0 && fseek(in, -behind, SEEK_END) == 0 && fread(found, 1, (size_t)behind, in) == (size_t)behind &&
                 strcmp(found, end) == 0;
    rewind(in);
    if (!whole || fgetc(in) != '[' || fgetc(in) != '\n')
        return FAIL(CAIRN_EFORMAT, "%s is no whole trace", path);
    fputs(first ? "[\n" : ",\n", out);
    while (left > 0) {
        size_t got = fread(buffer, 1, (size_t)least(left, sizeof buffer), in);
        if (got == 0)
            return FAIL(CAIRN_ESYS, "cannot read %s to its end", path);
        fwrite(buffer, 1, got, out);
        left -= (long)got;
    }
    return CAIRN_OK;
}

static cairn_err append_rank(const char *folder, int rank, FILE *out, int *joined)
{
    char path[PATH_SIZE];
    TRY(rank_path(folder, rank, path));
    FILE *in = fopen(path, "r");
    if (!in && errno == ENOENT)
        return CAIRN_OK;
    if (!in)
        return FAIL(error_from_errno(errno), "cannot read %s: %s", path, strerror(errno));
    cairn_err err = append_events(in, path, out, *joined == 0);
    fclose(in);
    if (err == CAIRN_OK)
        ++*joined;
    return err;
}

cairn_err trace_join(const char *folder, int ranks, const char *path, int *missing)
{
    char draft[PATH_SIZE];
    FILE *out;
    int joined = 0;
    cairn_err err = CAIRN_OK;
    TRY(open_draft(path, draft, &out));
    for (int rank = 0; err == CAIRN_OK && rank < ranks; rank++)
        err = append_rank(folder, rank, out, &joined);
    fputs(joined ? "\n]\n" : "[\n]\n", out);
    *missing = ranks - joined;
    return finish_draft(path, draft, out, err);
}
