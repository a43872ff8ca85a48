#include "train/metrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/duration.h"
#include "base/json_lines.h"
#include "base/log.h"

struct metrics {
    struct json_lines *file;
    int64_t every, steps;
    bool terminal;
    double redrawn;          /* when the live line was last drawn */
    double started;
    int64_t tokens;          /* since the last whole line */
    double line_started;
    double seconds_a_step;   /* moving mean, for the time left */
    int64_t seen;
    bool warned;
};

/* The supervisor, between rank 0 and a terminal, says so. */
static bool shown_live(void)
{
    const char *supervisor = getenv("CAIRN_TERMINAL");
    return isatty(STDOUT_FILENO) || (supervisor && strcmp(supervisor, "1") == 0);
}

cairn_err metrics_open(const char *path, int64_t every, int64_t steps, struct metrics **out)
{
    struct metrics *m = calloc(1, sizeof *m);
    if (!m)
        return FAIL(CAIRN_ENOMEM, "no memory for metrics");
    *m = (struct metrics){.every = every, .steps = steps, .terminal = shown_live(), .started = clock_seconds()};
    m->line_started = m->started;
    cairn_err err = json_lines_open(path, &m->file);
    if (err) {
        free(m);
        return err;
    }
    *out = m;
    return CAIRN_OK;
}

void metrics_close(struct metrics *m)
{
    if (!m)
        return;
    json_lines_close(m->file);
    free(m);
}

static void write_object(struct metrics *m, json_t *object)
{
    if (json_lines_write(m->file, object) == CAIRN_OK || m->warned)
        return;
    m->warned = true;
    log_warning("metrics are lost: %s", cairn_err_message());
}

static void draw_bar(char *bar, int width, double part)
{
    int full = (int)(part * width);
    for (int i = 0; i < width; i++)
        bar[i] = i < full ? '#' : '.';
    bar[width] = 0;
}

static void print_step(const struct metrics *m, const struct metrics_step *s, double rate)
{
    char left[DURATION_SIZE], bar[21] = "";
    if (m->terminal)
        draw_bar(bar, 20, (double)s->step / (double)m->steps);
    int digits = snprintf(NULL, 0, "%lld", (long long)m->steps);
    printf("%s%s%sstep %*lld/%lld  loss %.4f  norm %.3f  rate %.2e  ", m->terminal ? "\r\033[K" : "", bar, m->terminal ? " " : "", digits,
           (long long)s->step, (long long)m->steps, s->loss, s->gradient_norm, s->learning_rate);
    if (s->expert_choices > 0)
        printf("dropped %.1f %%  load %.2f  ", 100 * s->expert_dropped / s->expert_choices, s->expert_load);
    printf("%.0f tokens/s  left %s", rate, duration_text((double)(m->steps - s->step) * m->seconds_a_step, left));
}

static void show(struct metrics *m, const struct metrics_step *s, bool whole_line)
{
    double now = clock_seconds();
    if (!whole_line && (!m->terminal || now - m->redrawn < 0.2)) /* five times a second is as fast as an eye follows */
        return;
    print_step(m, s, now > m->line_started ? (double)m->tokens / (now - m->line_started) : 0);
    if (whole_line)
        putchar('\n');
    fflush(stdout);
    m->redrawn = now;
}

static json_t *by_group(const double sent[MESH_GROUPS])
{
    static const char *const names[MESH_GROUPS] = {"tensor", "context", "pipeline", "replicas", "expert", "expert_replicas"};
    json_t *object = json_object();
    for (int i = 0; i < MESH_GROUPS; i++)
        json_object_set_new(object, names[i], json_integer((json_int_t)sent[i]));
    return object;
}

void metrics_step(struct metrics *m, const struct metrics_step *s)
{
    m->tokens += s->tokens;
    m->seen++;
    /* The first step after a start also warms caches: it is forgotten fast. */
    m->seconds_a_step = m->seen <= 2 ? s->seconds : 0.95 * m->seconds_a_step + 0.05 * s->seconds;
    bool whole_line = s->step % m->every == 0 || s->step == m->steps;
    show(m, s, whole_line);
    if (whole_line) {
        m->tokens = 0;
        m->line_started = clock_seconds();
    }
    json_t *object = json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:o}", "kind", "step", "step", (json_int_t)s->step, "loss",
                               s->loss, "gradient_norm", s->gradient_norm, "learning_rate", s->learning_rate, "step_seconds", s->seconds,
                               "data_seconds", s->data_seconds, "reduce_seconds", s->reduce_seconds, "tokens", (json_int_t)s->tokens,
                               "bytes_sent", (json_int_t)s->bytes_sent, "sent", by_group(s->sent));
    if (s->workers > 0) {
        json_object_set_new(object, "workers", json_integer(s->workers));
        json_object_set_new(object, "lead", json_integer((json_int_t)s->lead));
    }
    if (s->expert_choices > 0) {
        json_object_set_new(object, "expert_dropped", json_integer((json_int_t)s->expert_dropped));
        json_object_set_new(object, "expert_load", json_real(s->expert_load));
    }
    write_object(m, object);
}

/* Room for a whole line: the live line is wiped. */
static void begin_line(const struct metrics *m)
{
    if (m->terminal)
        fputs("\r\033[K", stdout);
}

void metrics_validation(struct metrics *m, int64_t step, double loss, double seconds)
{
    begin_line(m);
    printf("step %lld  validation loss %.4f  (%.1f s)\n", (long long)step, loss, seconds);
    fflush(stdout);
    write_object(m, json_pack("{s:s, s:I, s:f, s:f}", "kind", "validation", "step", (json_int_t)step,
                                               "validation_loss", loss, "seconds", seconds));
}

void metrics_checkpoint(struct metrics *m, int64_t step, double seconds, double bytes)
{
    begin_line(m);
    printf("step %lld  checkpoint committed  (%.2f s, %.1f MB)\n", (long long)step, seconds, bytes * 1e-6);
    fflush(stdout);
    write_object(m, json_pack("{s:s, s:I, s:f, s:f}", "kind", "checkpoint", "step", (json_int_t)step, "seconds",
                                               seconds, "bytes", bytes));
}
