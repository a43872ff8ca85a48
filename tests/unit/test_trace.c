#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/trace.h"

static char folder[64], joined[128];

static void begin(void)
{
    snprintf(folder, sizeof folder, "/tmp/cairn-trace-XXXXXX");
    cr_assert(mkdtemp(folder));
    snprintf(joined, sizeof joined, "%s/trace.json", folder);
}

static void end(void)
{
    char command[128];
    trace_close();
    snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(trace, .init = begin, .fini = end);

static void open_rank(int rank, int64_t capacity)
{
    cr_assert_eq(trace_open(folder, rank, capacity), CAIRN_OK, "%s", cairn_err_message());
}

static const char *rank_file(int rank)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/rank-%04d.json", folder, rank);
    return path;
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *events = json_load_file(path, 0, &error);
    cr_assert(json_is_array(events), "%s: %s, line %d", path, error.text, error.line);
    return events;
}

/* The number of events of phase PHASE ("X" spans, "M" metadata), and the one of number INDEX among those. */
static int count_events(json_t *events, const char *phase, int index, json_t **found)
{
    size_t i;
    json_t *event;
    int count = 0;
    json_array_foreach (events, i, event)
        if (strcmp(json_string_value(json_object_get(event, "ph")), phase) == 0 && count++ == index)
            *found = event;
    return count;
}

static json_t *written(int rank, int spans)
{
    json_t *ignored;
    cr_assert_eq(trace_write(), CAIRN_OK, "%s", cairn_err_message());
    json_t *events = load(rank_file(rank));
    cr_assert_eq(count_events(events, "X", -1, &ignored), spans);
    return events;
}

static double number(json_t *event, const char *key)
{
    return json_number_value(json_object_get(event, key));
}

static json_t *span(json_t *events, int index)
{
    json_t *found = NULL;
    count_events(events, "X", index, &found);
    cr_assert(found);
    return found;
}

Test(trace, spans_are_written)
{
    open_rank(3, 100);
    double before = clock_seconds();
    uint64_t outer = trace_begin(), inner = trace_begin();
    usleep(2000);
    trace_end(inner, TRACE_COMPUTE, "forward", 7);
    trace_end(outer, TRACE_CHECKPOINT, "odd \"name\"\n", -1);
    double after = clock_seconds();
    trace_set_clock_offset(1000);
    json_t *events = written(3, 2), *first = span(events, 0), *second = span(events, 1);
    cr_assert_str_eq(json_string_value(json_object_get(first, "name")), "odd _name__");
    cr_assert_str_eq(json_string_value(json_object_get(first, "cat")), "checkpoint");
    cr_assert_null(json_object_get(first, "args"));
    cr_assert_str_eq(json_string_value(json_object_get(second, "name")), "forward");
    cr_assert_str_eq(json_string_value(json_object_get(second, "cat")), "compute");
    cr_assert_eq(number(json_object_get(second, "args"), "id"), 7);
    cr_assert_eq(number(second, "pid"), 3);
    cr_assert_neq(number(first, "tid"), number(second, "tid"));
    cr_assert_geq(number(second, "dur"), 2000);
    cr_assert_geq(number(second, "ts"), (before + 1000) * 1e6 - 1);
    cr_assert_leq(number(second, "ts") + number(second, "dur"), (after + 1000) * 1e6 + 1);
    json_decref(events);
}

Test(trace, lanes_are_named_after_what_is_in_them)
{
    open_rank(0, 10);
    trace_end(trace_begin(), TRACE_READING, "chunk", -1);
    json_t *events = written(0, 1), *name = NULL;
    cr_assert_eq(count_events(events, "M", 2, &name), 3);
    cr_assert_str_eq(json_string_value(json_object_get(json_object_get(name, "args"), "name")), "reading");
    cr_assert_eq(number(name, "tid"), number(span(events, 0), "tid"));
    json_decref(events);
}

Test(trace, only_spans_inside_each_other_share_a_lane)
{
    open_rank(0, 10);
    uint64_t a = trace_begin(), b = trace_begin(), c = trace_begin();
    trace_end(c, TRACE_COMMUNICATION, "inside both", 0);
    trace_end(a, TRACE_COMMUNICATION, "first", 1);
    trace_end(b, TRACE_COMMUNICATION, "across the first's end", 2);
    trace_end(trace_begin(), TRACE_COMMUNICATION, "behind both", 3);
    json_t *events = written(0, 4);
    double lane = number(span(events, 0), "tid");
    cr_assert_neq(number(span(events, 1), "tid"), lane);
    cr_assert_eq(number(span(events, 2), "tid"), lane);
    cr_assert_eq(number(span(events, 3), "tid"), lane);
    json_decref(events);
}

Test(trace, the_ring_keeps_the_newest)
{
    open_rank(0, 8);
    for (int i = 0; i < 21; i++)
        trace_end(trace_begin(), TRACE_COMPUTE, "step", i);
    json_t *events = written(0, 8), *label = NULL;
    for (int i = 0; i < 8; i++)
        cr_assert_eq(number(json_object_get(span(events, i), "args"), "id"), 13 + i);
    cr_assert_eq(count_events(events, "M", 2, &label), 4);
    cr_assert_str_eq(json_string_value(json_object_get(json_object_get(label, "args"), "labels")), "the newest 8 of 21 spans");
    json_decref(events);
}

/* So many kernels push none of the processor's spans out. */
Test(trace, a_device_has_its_own_ring)
{
    open_rank(0, 4);
    trace_record_device(1000, 2000, TRACE_KERNELS, "before there is a ring");
    cr_assert_eq(trace_open_device(8), CAIRN_OK, "%s", cairn_err_message());
    for (int i = 0; i < 4; i++)
        trace_end(trace_begin(), TRACE_COMPUTE, "step", i);
    for (uint64_t i = 0; i < 20; i++)
        trace_record_device(1000 + 10 * i, 1010 + 10 * i, i == 19 ? TRACE_LINKS : TRACE_KERNELS, i == 19 ? "exchange" : "kernel");
    json_t *events = written(0, 12), *label = NULL, *first = span(events, 0), *last = span(events, 7);
    cr_assert_str_eq(json_string_value(json_object_get(first, "cat")), "kernels");
    cr_assert_float_eq(number(first, "ts"), 1.120, 1e-4);
    cr_assert_float_eq(number(first, "dur"), 0.010, 1e-4);
    cr_assert_str_eq(json_string_value(json_object_get(last, "cat")), "links");
    cr_assert_str_eq(json_string_value(json_object_get(span(events, 11), "cat")), "compute");
    cr_assert_eq(number(span(events, 6), "tid"), number(first, "tid"), "what only follows is in one lane");
    cr_assert_neq(number(last, "tid"), number(first, "tid"));
    count_events(events, "M", 2, &label);
    cr_assert_str_eq(json_string_value(json_object_get(json_object_get(label, "args"), "labels")), "the newest 8 of 20 spans of the device");
    json_decref(events);
    trace_close();
    cr_assert_eq(trace_open_device(8), CAIRN_OK);
    trace_record_device(1000, 2000, TRACE_KERNELS, "after the trace was closed");
    open_rank(0, 4);
    json_decref(written(0, 0));
}

Test(trace, off_records_nothing)
{
    cr_assert_eq(trace_begin(), 0);
    trace_end(trace_begin(), TRACE_COMPUTE, "step", 0);
    cr_assert_eq(trace_write(), CAIRN_OK);
    cr_assert_not(is_there(rank_file(0)));
    open_rank(0, 8);
    trace_end(0, TRACE_COMPUTE, "begun before the trace", 0);
    json_decref(written(0, 0));
}

Test(trace, ranks_are_joined)
{
    int missing;
    for (int rank = 0; rank < 4; rank++) {
        if (rank == 2)
            continue;
        open_rank(rank, 8);
        for (int i = 0; i < rank; i++)
            trace_end(trace_begin(), TRACE_COMPUTE, "step", i);
        cr_assert_eq(trace_write(), CAIRN_OK);
    }
    cr_assert_eq(trace_join(folder, 4, joined, &missing), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(missing, 1);
    json_t *events = load(joined), *ignored;
    cr_assert_eq(count_events(events, "X", -1, &ignored), 0 + 1 + 3);
    cr_assert_eq(number(span(events, 3), "pid"), 3);
    json_decref(events);
    cr_assert_eq(trace_join("/nonexistent", 2, joined, &missing), CAIRN_OK);
    cr_assert_eq(missing, 2);
    json_decref(load(joined));
}

static cairn_err join_of(const char *text)
{
    int missing;
    FILE *out = fopen(rank_file(0), "w");
    fputs(text, out);
    fclose(out);
    return trace_join(folder, 1, joined, &missing);
}

Test(trace, a_broken_file_is_not_joined)
{
    static const char *const broken[] = {"", "[", "[\n\n]\n", "[\n{\"ph\":\"M\"},\n{\"ph\"", "{\n{\"ph\":\"M\"}\n]\n", "[\n{\"ph\":\"M\"}\n]"};
    char draft[160];
    strcpy(draft, joined);
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++)
        cr_assert_eq(join_of(broken[i]), CAIRN_EFORMAT, "%zu", i);
    cr_assert_not(is_there(joined));
    strcat(draft, ".tmp");
    cr_assert_not(is_there(draft));
    cr_assert_eq(join_of("[\n{\"ph\":\"M\"}\n]\n"), CAIRN_OK, "%s", cairn_err_message());
}

Test(trace, says_what_it_cannot_write)
{
    int missing;
    cr_assert_eq(trace_open("/proc/no/such", 0, 8), CAIRN_ENOTFOUND, "%s", cairn_err_message());
    cr_assert_eq(trace_open(folder, 0, 0), CAIRN_EINVAL);
    cr_assert_eq(trace_begin(), 0);
    open_rank(0, 8);
    cr_assert_eq(mkdir(rank_file(0), 0700), 0);
    cr_assert_eq(trace_write(), CAIRN_ESYS);
    cr_assert(strstr(cairn_err_message(), rank_file(0)), "%s", cairn_err_message());
    cr_assert_eq(trace_join(folder, 0, "/nonexistent/trace.json", &missing), CAIRN_ENOTFOUND);
}

/* The quickest of several batches: others use the machine too. Seconds a span. */
static double span_cost(void)
{
    double best = 1;
    for (int batch = 0; batch < 20; batch++) {
        double start = clock_seconds();
        for (int i = 0; i < 1000; i++)
            trace_end(trace_begin(), TRACE_COMPUTE, "step", i);
        double each = (clock_seconds() - start) / 1000;
        best = each < best ? each : best;
    }
    return best;
}

Test(trace, costs_little)
{
    double off = span_cost();
    open_rank(0, 4096);
    double on = span_cost();
    cr_log_info("a span costs %.1f ns off, %.1f ns on", off * 1e9, on * 1e9);
    cr_assert_lt(off, 100e-9);
    cr_assert_lt(on, 1e-6);
}
