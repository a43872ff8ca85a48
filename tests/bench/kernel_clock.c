#include "kernel_calls.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kernel_timer timer;

#define KERNEL_NAME(name) #name,
static const char *const names[] = {KERNEL_LIST(KERNEL_NAME)};

const char *kernel_name(enum kernel kernel)
{
    return names[kernel];
}

enum kernel kernel_find(const char *name)
{
    int i = 0;
    while (i < KERNELS && strcmp(names[i], name) != 0)
        i++;
    return (enum kernel)i;
}

/* ---- recording ---- */

static bool met_in_step(enum kernel kernel)
{
    for (int i = 0; i < timer.line_count; i++)
        if (timer.lines[i].kernel == kernel && timer.lines[i].in_step)
            return true;
    return false;
}

static struct kernel_line *line_of(enum kernel kernel, const char *shape, struct kernel_work work)
{
    for (int i = 0; i < timer.line_count; i++)
        if (timer.lines[i].kernel == kernel && strcmp(timer.lines[i].shape, shape) == 0)
            return &timer.lines[i];
    if (timer.line_count == KERNEL_LINES_MAX)
        return NULL;
    struct kernel_line *line = &timer.lines[timer.line_count++];
    *line = (struct kernel_line){.kernel = kernel, .work = work, .in_step = timer.mode == CLOCK_STEP};
    snprintf(line->shape, sizeof line->shape, "%s", shape);
    return line;
}

/* A call more; NULL where there is no memory. */
static struct call *new_call(void)
{
    if (timer.call_count == timer.call_room) {
        int room = timer.call_room ? 2 * timer.call_room : 64;
        struct call *more = realloc(timer.calls, (size_t)room * sizeof *more);
        if (!more)
            return NULL;
        memset(more + timer.call_room, 0, (size_t)(room - timer.call_room) * sizeof *more);
        timer.calls = more;
        timer.call_room = room;
    }
    struct call *call = &timer.calls[timer.call_count];
    if (!call->begin)
        call->begin = timer.inner->mark_create(timer.backend);
    if (!call->end)
        call->end = timer.inner->mark_create(timer.backend);
    if (!call->begin || !call->end)
        return NULL;
    call->line = NULL;
    timer.call_count++;
    return call;
}

struct call *clock_begin(void)
{
    if (timer.mode == CLOCK_OFF)
        return NULL;
    struct call *call = new_call();
    if (call)
        timer.inner->mark_set(call->begin);
    else
        timer.full = true;
    return call;
}

void clock_end(struct call *call)
{
    if (call)
        timer.inner->mark_set(call->end);
}

void clock_record(enum kernel kernel, struct call *call, struct kernel_work work, const char *format, ...)
{
    if (!call || (timer.mode == CLOCK_REST && met_in_step(kernel)))
        return;
    char shape[sizeof timer.lines->shape];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(shape, sizeof shape, format, arguments);
    va_end(arguments);
    call->line = line_of(kernel, shape, work);
    if (!call->line)
        timer.full = true;
}

static bool make_room(struct kernel_line *line)
{
    if (line->count < line->room)
        return true;
    int room = line->room ? 2 * line->room : 64;
    double *more = realloc(line->seconds, (size_t)room * sizeof *more);
    if (!more)
        return false;
    line->seconds = more;
    line->room = room;
    return true;
}

/* The times of all calls so far go to their lines. */
static void settle_calls(void)
{
    for (int i = 0; i < timer.call_count; i++) {
        const struct call *call = &timer.calls[i];
        if (!call->line)
            continue;
        if (make_room(call->line))
            call->line->seconds[call->line->count++] = timer.inner->mark_seconds(call->begin, call->end);
        else
            timer.full = true;
    }
    timer.call_count = 0;
}

/* ---- plans ---- */

struct plan *clock_plan(const void *p)
{
    struct plan *plan = timer.plans;
    while (plan->plan != p)
        plan++;
    return plan;
}

cairn_err clock_remember(cairn_err made, struct plan plan)
{
    TRY(made);
    struct plan *more = realloc(timer.plans, (size_t)(timer.plan_count + 1) * sizeof *more);
    if (!more)
        return FAIL(CAIRN_ENOMEM, "no memory to remember a plan");
    timer.plans = more;
    timer.plans[timer.plan_count++] = plan;
    return CAIRN_OK;
}

/* ---- the table ---- */

#define KERNEL_REPLACE(name) timer.table.name = timer.inner->name ? time_##name : NULL;

void kernel_clock_attach(struct backend *b)
{
    timer.backend = b;
    timer.inner = b->table;
    timer.table = *b->table;
    timer.act = (double)dtype_size(b->act);
    timer.acc = (double)dtype_size(b->acc);
    KERNEL_LIST(KERNEL_REPLACE)
    timer.table.matmul_create = time_matmul_create;
    timer.table.attention_create = time_attention_create;
    timer.table.classifier_create = time_classifier_create;
    timer.table.router_create = time_router_create;
    timer.table.record_begin = NULL; /* a recorded call would not come by here again */
    b->table = &timer.table;
}

void kernel_clock_detach(struct backend *b)
{
    b->table = timer.inner;
    for (int i = 0; i < timer.line_count; i++)
        free(timer.lines[i].seconds);
    for (int i = 0; i < timer.call_room; i++) {
        if (timer.calls[i].begin)
            timer.inner->mark_destroy(timer.calls[i].begin);
        if (timer.calls[i].end)
            timer.inner->mark_destroy(timer.calls[i].end);
    }
    free(timer.calls);
    free(timer.plans);
    timer.calls = NULL;
    timer.plans = NULL;
    timer.plan_count = timer.line_count = timer.call_count = timer.call_room = 0;
}

void kernel_clock_set(enum kernel_clock_mode mode)
{
    settle_calls();
    timer.mode = mode;
}

bool kernel_clock_lines(struct kernel_line **lines, int *count)
{
    *lines = timer.lines;
    *count = timer.line_count;
    return !timer.full;
}
