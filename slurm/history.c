#include "slurm/history.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/make_folders.h"
#include "base/log.h"

static void take_in(json_t *object, void *context)
{
    struct history *h = context;
    const char *event = json_string_value(json_object_get(object, "event"));
    int64_t step = json_integer_value(json_object_get(object, "step"));
    const char *failure = json_string_value(json_object_get(object, "failure"));
    if (!event)
        return;
    if (strcmp(event, "launched") == 0)
        h->launches++;
    else if (strcmp(event, "restored") == 0)
        h->committed = step;
    else if (strcmp(event, "committed") == 0)
        history_committed(h, step);
    else if (strcmp(event, "failed") == 0)
        history_failed(h, step, failure && json_is_true(json_object_get(object, "aborted")) ? failure : "");
    else if (strcmp(event, "restart") == 0)
        h->restarts++;
    else if (strcmp(event, "held") == 0 || strcmp(event, "finished") == 0) {
        h->without_progress = 0; /* somebody released or started it again: it gets all its tries */
        h->same_failure = 0;
    }
}

cairn_err history_open(const char *run_dir, struct history *h)
{
    char path[4096];
    *h = (struct history){.committed = -1, .failure_step = -1};
    TRY(make_folders(run_dir));
    snprintf(path, sizeof path, "%s/events.jsonl", run_dir);
    cairn_err err = json_lines_read(path, take_in, h, NULL);
    if (err && err != CAIRN_ENOTFOUND)
        return err;
    return json_lines_open(path, &h->file);
}

void history_close(struct history *h)
{
    json_lines_close(h->file);
    h->file = NULL;
}

void history_write(struct history *h, const char *event, json_t *details)
{
    json_t *object = json_pack("{s:s}", "event", event);
    if (details)
        json_object_update(object, details);
    json_decref(details);
    if (json_lines_write(h->file, object) == CAIRN_OK)
        return;
    if (!h->lost)
        log_error("%s: the run goes on, but its events and restarts are not on record", cairn_err_message());
    h->lost = true;
}

void history_committed(struct history *h, int64_t step)
{
    if (step <= h->committed)
        return;
    h->committed = step;
    h->without_progress = 0;
    h->same_failure = 0;
}

void history_failed(struct history *h, int64_t step, const char *failure)
{
    h->without_progress++;
    bool same = *failure && step == h->failure_step && strcmp(failure, h->failure) == 0;
    h->same_failure = same ? h->same_failure + 1 : 1;
    h->failure_step = step;
    snprintf(h->failure, sizeof h->failure, "%s", failure);
}
