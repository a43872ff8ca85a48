/* Threads that record spans while the file is written, for ThreadSanitizer (under which Criterion's programs cannot run) and as
 * a plain test: TAP, without Criterion. */
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/trace.h"

enum { EACH = 100000, KEPT = 2000 };

static int checks, failures;

static void check(int holds, const char *what)
{
    printf("%s %d - %s\n", holds ? "ok" : "not ok", ++checks, what);
    failures += !holds;
}

static void *record_many(void *category)
{
    bool compute = *(enum trace_category *)category == TRACE_COMPUTE;
    for (int i = 0; i < EACH; i++)
        trace_end(trace_begin(), *(enum trace_category *)category, compute ? "compute" : "reading", i);
    return NULL;
}

/* Writes the file and reads it: how many spans are in it, -1 if it is broken or a span is of both threads; and its label. */
static int written_spans(const char *path, char *label, size_t size)
{
    if (trace_write() != CAIRN_OK)
        return -1;
    json_t *events = json_load_file(path, 0, NULL), *event;
    int count = events ? 0 : -1;
    size_t i;
    json_array_foreach (events, i, event) {
        const char *category = json_string_value(json_object_get(event, "cat")), *name = json_string_value(json_object_get(event, "name"));
        const char *labels = json_string_value(json_object_get(json_object_get(event, "args"), "labels"));
        if (category && count >= 0)
            count = strcmp(category, name) == 0 ? count + 1 : -1;
        if (labels)
            snprintf(label, size, "%s", labels);
    }
    json_decref(events);
    return count;
}

int main(void)
{
    static enum trace_category categories[] = {TRACE_COMPUTE, TRACE_READING};
    pthread_t threads[2];
    char folder[] = "/tmp/cairn-threads-trace-XXXXXX", path[64], label[64] = "", expected[64];
    int broken = 0;
    check(mkdtemp(folder) && trace_open(folder, 0, KEPT) == CAIRN_OK, "a trace is begun");
    snprintf(path, sizeof path, "%s/rank-0000.json", folder);
    for (int i = 0; i < 2; i++)
        check(pthread_create(&threads[i], NULL, record_many, &categories[i]) == 0, "a thread records");
    for (int i = 0; i < 5; i++)
        broken += written_spans(path, label, sizeof label) < 0;
    check(broken == 0, "files written meanwhile are whole");
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    check(written_spans(path, label, sizeof label) == KEPT, "the newest are kept");
    snprintf(expected, sizeof expected, "the newest %d of %d spans", KEPT, 2 * EACH);
    check(strcmp(label, expected) == 0, "none is lost");
    trace_close();
    unlink(path);
    rmdir(folder);
    printf("1..%d\n", checks);
    return failures != 0;
}
