#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/exit_code.h"
#include "ckpt/folder.h"
#include "ckpt/inspect.h"
#include "ckpt/state.h"
#include "cmd/command.h"

static const char list_usage[] = "cairn ckpt list DIR [--hash] [--json]";
static const char info_usage[] = "cairn ckpt info CKPT [--json]";
static const char verify_usage[] = "cairn ckpt verify CKPT... [--json]";
static const char diff_usage[] = "cairn ckpt diff A B [--tolerance R] [--json]";

static const char *state_name(const struct checkpoint_entry *e)
{
    return e->state == CHECKPOINT_COMPLETE ? "complete" : e->state == CHECKPOINT_TMP ? "unfinished" : "broken";
}

static void format_date(double seconds, char out[32])
{
    time_t t = (time_t)seconds;
    struct tm tm;
    strftime(out, 32, "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
}

/* ---- list ---- */

/* DIR, or DIR/checkpoints where DIR is the folder of a run. */
static cairn_err list_folder(const char *dir, struct checkpoint_entry **entries, int *count)
{
    char inner[FOLDER_PATH_SIZE];
    struct checkpoint_entry *more;
    int more_count;
    TRY(checkpoint_list(dir, entries, count));
    if (*count > 0 || folder_join(dir, "checkpoints", inner) != CAIRN_OK || checkpoint_list(inner, &more, &more_count) != CAIRN_OK)
        return CAIRN_OK;
    free(*entries);
    *entries = more;
    *count = more_count;
    return CAIRN_OK;
}

static cairn_err list_one(const struct checkpoint_entry *e, bool hash, json_t *array)
{
    struct table t;
    char date[32] = "-", hex[17] = "";
    double time = 0;
    bool readable = e->state == CHECKPOINT_COMPLETE && state_read(e->path, &t) == CAIRN_OK;
    if (readable) {
        time = t.time;
        format_date(t.time, date);
        table_free(&t);
    }
    if (hash && e->state == CHECKPOINT_COMPLETE && checkpoint_hash(e->path, "weights/", hex) != CAIRN_OK)
        snprintf(hex, sizeof hex, "unreadable");
    const char *state = e->state == CHECKPOINT_COMPLETE && !readable ? "damaged" : state_name(e);
    if (array) {
        json_t *o = json_pack("{s:I, s:s, s:I, s:s, s:f}", "step", (json_int_t)e->step, "path", e->path, "bytes", (json_int_t)e->bytes,
                              "state", state, "time", time);
        if (hash)
            json_object_set_new(o, "weights_hash", json_string(hex));
        return json_array_append_new(array, o) == 0 ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for JSON");
    }
    printf("%10" PRId64 "  %10.1f MB  %-10s  %-19s  %s%s%s\n", e->step, (double)e->bytes * 1e-6, state, date, hex, hash ? "  " : "", e->path);
    return CAIRN_OK;
}

static int list_main(int argc, char **argv)
{
    bool json = false, hash = false;
    const struct option_spec options[] = {
        {0, "hash", OPTION_FLAG, &hash, NULL, "also print the hash of the weights (reads them)"},
        {0, "json", OPTION_FLAG, &json, NULL, "print as JSON"},
        {0, NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct command_spec spec = {list_usage,
        "Lists the checkpoints in a run's folder or in its folder checkpoints/: step, size, state, date.", options, NULL};
    int exit_code, count;
    struct checkpoint_entry *entries;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    if (argc != 2)
        return command_usage_failed(&spec, "expected one folder");
    cairn_err err = list_folder(argv[1], &entries, &count);
    json_t *array = json ? json_array() : NULL;
    if (err == CAIRN_OK && !json)
        printf("%10s  %13s  %-10s  %-19s\n", "step", "size", "state", "date");
    for (int i = 0; err == CAIRN_OK && i < count; i++)
        err = list_one(&entries[i], hash, array);
    if (err == CAIRN_OK) {
        free(entries);
        return json ? command_print_json(array) : EXIT_CODE_DONE;
    }
    json_decref(array);
    return command_failed(err);
}

/* ---- info ---- */

static json_t *info_json(const char *path, const struct table *t, const char *hash)
{
    json_t *arrays = json_array();
    for (int a = 0; a < t->array_count; a++) {
        json_t *shape = json_array();
        for (int d = 0; d < t->arrays[a].dims; d++)
            json_array_append_new(shape, json_integer(t->arrays[a].shape[d]));
        json_array_append_new(arrays, json_pack("{s:s, s:s, s:o, s:i}", "name", t->arrays[a].name, "dtype",
                                                dtype_name((enum dtype)t->arrays[a].dtype), "shape", shape, "slabs",
                                                t->first_slab[a + 1] - t->first_slab[a]));
    }
    json_t *extra = json_loads(t->facts.extra, 0, NULL);
    return json_pack("{s:s, s:I, s:f, s:i, s:i, s:s, s:s, s:s, s:o, s:o}", "path", path, "step", (json_int_t)t->facts.step, "time", t->time,
                     "ranks", t->ranks, "parts", t->part_count, "weights_hash", hash, "config", t->facts.config, "signature",
                     t->facts.signature, "extra", extra ? extra : json_null(), "arrays", arrays);
}

static void print_text(const char *title, const char *text)
{
    if (!*text)
        return;
    printf("%s:\n", title);
    while (*text) {
        int n = (int)strcspn(text, "\n");
        printf("  %.*s\n", n, text);
        text += n + (text[n] == '\n');
    }
}

static void info_text(const char *path, const struct table *t, const char *hash)
{
    char date[32], shape[128];
    int64_t bytes = 0;
    format_date(t->time, date);
    for (int i = 0; i < t->part_count; i++)
        bytes += t->parts[i].bytes;
    printf("%s\nstep %" PRId64 ", written %s by %d ranks in %d parts, %.1f MB\nweights %s\n", path, t->facts.step, date, t->ranks,
           t->part_count, (double)bytes * 1e-6, hash);
    print_text("numerics", t->facts.signature);
    print_text("extra", t->facts.extra);
    print_text("config", t->facts.config);
    printf("%d arrays:\n", t->array_count);
    for (int a = 0; a < t->array_count; a++)
        printf("  %-48s %-8s %-20s %d slabs\n", t->arrays[a].name, dtype_name((enum dtype)t->arrays[a].dtype),
               shape_text(t->arrays[a].dims, t->arrays[a].shape, shape, sizeof shape), t->first_slab[a + 1] - t->first_slab[a]);
}

static int info_main(int argc, char **argv)
{
    bool json = false;
    const struct option_spec options[] = {
        {0, "json", OPTION_FLAG, &json, NULL, "print as JSON"},
        {0, NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct command_spec spec = {info_usage,
        "Tells what a checkpoint holds: facts, arrays with their shapes, and the hash of the weights. CKPT may be a run's folder: its "
        "newest checkpoint.", options, NULL};
    int exit_code;
    char path[FOLDER_PATH_SIZE], hash[17];
    struct table t;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    if (argc != 2)
        return command_usage_failed(&spec, "expected one checkpoint");
    cairn_err err = checkpoint_find(argv[1], path, sizeof path);
    if (err == CAIRN_OK)
        err = checkpoint_hash(path, "weights/", hash);
    if (err == CAIRN_OK)
        err = state_read(path, &t);
    if (err != CAIRN_OK)
        return command_failed(err);
    exit_code = EXIT_CODE_DONE;
    if (json)
        exit_code = command_print_json(info_json(path, &t, hash));
    else
        info_text(path, &t, hash);
    table_free(&t);
    return exit_code;
}

/* ---- verify ---- */

static cairn_err verify_one(const char *given, json_t *array, bool *sound)
{
    char path[FOLDER_PATH_SIZE], *fault;
    TRY(checkpoint_find(given, path, sizeof path));
    TRY(checkpoint_verify(path, &fault));
    *sound = !fault;
    if (array)
        json_array_append_new(array, json_pack("{s:s, s:b, s:s?}", "path", path, "sound", !fault, "fault", fault));
    else
        printf("%s: %s%s\n", path, fault ? "damaged: " : "sound", fault ? fault : "");
    free(fault);
    return CAIRN_OK;
}

static int verify_main(int argc, char **argv)
{
    bool json = false;
    const struct option_spec options[] = {
        {0, "json", OPTION_FLAG, &json, NULL, "print the verdicts as JSON"},
        {0, NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct command_spec spec = {verify_usage,
        "Reads checkpoints whole and compares every byte with its checksum. Exit code 0: all sound; 1: one is damaged, with the first "
        "fault. Nothing is renamed.", options, NULL};
    int exit_code;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    if (argc < 2)
        return command_usage_failed(&spec, "expected a checkpoint");
    json_t *array = json ? json_array() : NULL;
    for (int i = 1; i < argc; i++) {
        bool sound = false;
        if (verify_one(argv[i], array, &sound) != CAIRN_OK)
            command_failed(CAIRN_ESYS);
        if (!sound)
            exit_code = EXIT_CODE_FAILED;
        else if (i == 1)
            exit_code = EXIT_CODE_DONE;
    }
    if (json && command_print_json(array) != EXIT_CODE_DONE)
        exit_code = EXIT_CODE_FAILED;
    return exit_code;
}

/* ---- diff ---- */

static void place_text(const struct checkpoint_difference *d, char *out, size_t size)
{
    shape_text(d->dims, d->first, out, size);
}

static void print_difference(const struct checkpoint_difference *d)
{
    char place[128];
    place_text(d, place, sizeof place);
    switch (d->kind) {
    case DIFFERENCE_SHAPE: printf("%s: another type or shape\n", d->name); break;
    case DIFFERENCE_ONLY_A: printf("%s: only in the first\n", d->name); break;
    case DIFFERENCE_ONLY_B: printf("%s: only in the second\n", d->name); break;
    case DIFFERENCE_VALUES:
        printf("%s: %" PRId64 " elements differ, by at most %.9g, relative %.3g, first at %s\n", d->name, d->elements, d->largest,
               d->relative, place);
        break;
    }
}

static json_t *difference_json(const struct checkpoint_difference *d)
{
    static const char *const kinds[] = {"values", "shape", "only in the first", "only in the second"};
    if (d->kind != DIFFERENCE_VALUES)
        return json_pack("{s:s, s:s}", "name", d->name, "kind", kinds[d->kind]);
    json_t *first = json_array();
    for (int i = 0; i < d->dims; i++)
        json_array_append_new(first, json_integer(d->first[i]));
    json_t *largest = isfinite(d->largest) ? json_real(d->largest) : json_null(); /* JSON has no NaN */
    json_t *relative = isfinite(d->relative) ? json_real(d->relative) : json_null();
    return json_pack("{s:s, s:s, s:I, s:o, s:o, s:o}", "name", d->name, "kind", kinds[d->kind], "elements", (json_int_t)d->elements,
                     "largest", largest, "relative", relative, "first", first);
}

/* Drops those of the COUNT differences that are of values and no larger than TOLERANCE; how many are left. */
static int drop_small(struct checkpoint_difference *found, int count, double tolerance)
{
    int left = 0;
    for (int i = 0; i < count; i++)
        if (found[i].kind != DIFFERENCE_VALUES || !(found[i].relative <= tolerance))
            found[left++] = found[i];
    return left;
}

static int diff_main(int argc, char **argv)
{
    bool json = false;
    double tolerance = -1;
    const struct option_spec options[] = {
        {'t', "tolerance", OPTION_REAL, &tolerance, "R", "pass over arrays whose difference has at most R times the 2-norm of A's array"},
        {0, "json", OPTION_FLAG, &json, NULL, "print the differences as JSON"},
        {0, NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct command_spec spec = {diff_usage,
        "Compares the arrays of two checkpoints, bit by bit or to a tolerance, whatever layouts wrote them. Exit code 0: equal; 1: different.",
        options, NULL};
    int exit_code, count;
    char a[FOLDER_PATH_SIZE], b[FOLDER_PATH_SIZE];
    struct checkpoint_difference *found;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    if (argc != 3)
        return command_usage_failed(&spec, "expected two checkpoints");
    cairn_err err = checkpoint_find(argv[1], a, sizeof a);
    if (err == CAIRN_OK)
        err = checkpoint_find(argv[2], b, sizeof b);
    if (err == CAIRN_OK)
        err = checkpoint_diff(a, b, &found, &count);
    if (err != CAIRN_OK)
        return command_failed(err);
    json_t *array = json ? json_array() : NULL;
    if (tolerance >= 0)
        count = drop_small(found, count, tolerance);
    for (int i = 0; i < count; i++)
        if (json)
            json_array_append_new(array, difference_json(&found[i]));
        else
            print_difference(&found[i]);
    exit_code = EXIT_CODE_DONE;
    if (json)
        exit_code = command_print_json(json_pack("{s:s, s:s, s:b, s:o}", "a", a, "b", b, "equal", count == 0, "differences", array));
    else if (count == 0)
        printf(tolerance >= 0 ? "all arrays are equal to the tolerance\n" : "all arrays are equal\n");
    free(found);
    return count == 0 ? exit_code : EXIT_CODE_FAILED;
}

/* ---- the command ---- */

int cmd_ckpt(int argc, char **argv)
{
    static const struct subcommand subcommands[] = {
        {"list", list_usage, list_main},
        {"info", info_usage, info_main},
        {"verify", verify_usage, verify_main},
        {"diff", diff_usage, diff_main},
    };
    return command_dispatch("ckpt", "Looks at checkpoints; a run's folder stands for its newest one. Each subcommand tells more with --help.",
                            subcommands, sizeof subcommands / sizeof subcommands[0], argc, argv);
}
