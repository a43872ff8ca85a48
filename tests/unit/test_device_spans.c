/* A device's spans on their way into the trace: of a device that is none. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/trace.h"
#include "train/device_spans.h"

static char folder[64], path[128], log_path[128];
static int64_t lost_next, asked_for;

static cairn_err open_spans(struct backend *b, int64_t most)
{
    (void)b;
    asked_for = most;
    return CAIRN_OK;
}

static const struct backend_span *take_spans(struct backend *b, int64_t *count, int64_t *lost)
{
    static const struct backend_span spans[] = {{"attention", LANE_COMPUTE, 1000, 3000}, {"an exchange", LANE_LINK, 2000, 4000}};
    (void)b;
    *count = 2;
    *lost = lost_next;
    return spans;
}

static const struct backend_table processor, table = {.spans_open = open_spans, .spans_take = take_spans};
static struct backend device = {.table = &table}, none = {.table = &processor};

static void begin(void)
{
    snprintf(folder, sizeof folder, "/tmp/cairn-spans-XXXXXX");
    cr_assert(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/rank-0000.json", folder);
    snprintf(log_path, sizeof log_path, "%s/log", folder);
    int log = open(log_path, O_CREAT | O_WRONLY | O_APPEND, 0600);
    cr_assert(log >= 0 && dup2(log, STDERR_FILENO) >= 0);
    close(log);
}

static void end(void)
{
    char command[128];
    trace_close();
    snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(device_spans, .init = begin, .fini = end);

/* How many lines the log has. */
static int log_lines(void)
{
    int lines = 0, c;
    FILE *f = fopen(log_path, "r");
    cr_assert(f);
    while ((c = fgetc(f)) != EOF)
        lines += c == '\n';
    fclose(f);
    return lines;
}

static int count_written(const char *category, const char *name)
{
    size_t i;
    int count = 0;
    json_t *event, *events;
    cr_assert_eq(trace_write(), CAIRN_OK, "%s", cairn_err_message());
    events = json_load_file(path, 0, NULL);
    cr_assert(json_is_array(events));
    json_array_foreach (events, i, event) {
        const char *of = json_string_value(json_object_get(event, "cat"));
        count += of && strcmp(of, category) == 0 && strcmp(json_string_value(json_object_get(event, "name")), name) == 0;
    }
    json_decref(events);
    return count;
}

Test(device_spans, are_traced_by_their_lanes)
{
    cr_assert_eq(trace_open(folder, 0, 10), CAIRN_OK);
    cr_assert_eq(device_spans_open(&device), CAIRN_OK);
    cr_assert_gt(asked_for, 10000);
    device_spans_take(&device);
    device_spans_take(&device);
    cr_assert_eq(count_written("kernels", "attention"), 2);
    cr_assert_eq(count_written("links", "an exchange"), 2);
    cr_assert_eq(log_lines(), 0);
}

Test(device_spans, that_are_lost_are_told_once)
{
    cr_assert_eq(trace_open(folder, 0, 10), CAIRN_OK);
    cr_assert_eq(device_spans_open(&device), CAIRN_OK);
    lost_next = 7;
    device_spans_take(&device);
    cr_assert_eq(log_lines(), 1);
    device_spans_take(&device);
    cr_assert_eq(log_lines(), 1);
}

Test(device_spans, are_not_asked_for_without_a_trace)
{
    cr_assert_eq(device_spans_open(&device), CAIRN_OK);
    device_spans_take(&device);
    cr_assert_eq(asked_for, 0);
    cr_assert_eq(trace_open(folder, 0, 10), CAIRN_OK);
    cr_assert_eq(device_spans_open(&none), CAIRN_OK);
    device_spans_take(&none);
    cr_assert_eq(count_written("kernels", "attention"), 0);
}
