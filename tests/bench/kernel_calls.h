/* What kernel_clock.c shares with kernel_calls.c: the clock, and the calls that it times. */
#ifndef BENCH_KERNEL_CALLS_H
#define BENCH_KERNEL_CALLS_H

#include "kernel_clock.h"

enum { KERNEL_LINES_MAX = 256 };

/* Plans are opaque: what they were made for. */
struct plan {
    const void *plan;
    struct matmul_desc matmul;
    struct attention_desc attention;
    struct classifier_desc classifier;
    struct router_desc router;
    int64_t taken; /* rows that the router's experts took, -1 until it is known */
};

/* One call; its seconds are asked for later, so that a device's calls follow each other without a gap. */
struct call {
    struct backend_mark *begin, *end;
    struct kernel_line *line; /* NULL: of no account */
};

/* Kernels with a plan get no backend, so there is one clock. */
struct kernel_timer {
    struct backend *backend;
    const struct backend_table *inner;
    struct backend_table table;
    enum kernel_clock_mode mode;
    double act, acc; /* bytes of an element */
    struct plan *plans;
    int plan_count;
    struct kernel_line lines[KERNEL_LINES_MAX];
    int line_count;
    struct call *calls; /* begun since the mode was set; their marks are used again */
    int call_count, call_room;
    bool full; /* no memory for more */
};
extern struct kernel_timer timer;

/* Around a call; NULL where it is not timed. */
struct call *clock_begin(void);
void clock_end(struct call *call);
/* What CALL did; the rest makes its shape. */
void clock_record(enum kernel kernel, struct call *call, struct kernel_work work, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* A plan is remembered if it was MADE. */
cairn_err clock_remember(cairn_err made, struct plan plan);
struct plan *clock_plan(const void *plan);

/* In place of the table's: calls with the clock around them, and makers of plans that remember them. */
#define KERNEL_DECLARE(name) __typeof__(*((struct backend_table *)0)->name) time_##name;
KERNEL_LIST(KERNEL_DECLARE)
KERNEL_DECLARE(matmul_create)
KERNEL_DECLARE(attention_create)
KERNEL_DECLARE(classifier_create)
KERNEL_DECLARE(router_create)

#endif
