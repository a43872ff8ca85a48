/* The planner: which layouts a model can be trained under on a machine, what each needs and how fast it would be. It starts nothing and
 * reads nothing; doc/planning.md tells the arithmetic and how far to trust it. */
#ifndef PLAN_PLAN_H
#define PLAN_PLAN_H

#include "plan/memory.h"
#include "plan/step_time.h"

/* One layout, judged. */
struct plan {
    struct plan_layout layout;
    struct plan_memory memory;  /* of the rank that needs the most */
    struct step_time time;
    double model_flops;         /* a second and GPU: what the model needs */
    double hardware_flops;      /* and what is computed, recomputation among it */
};

/* What is asked for. 0 (or -1 where 0 means something): free. */
struct plan_constraints {
    struct layout axes;
    int64_t samples;
    int zero, sequence, recompute, schedule; /* -1: free */
    int zero_most;                           /* where zero is free */
    struct plan_modes modes;
};

extern const struct plan_constraints plan_unconstrained;

/* Why layouts were left out. */
enum plan_refusal {
    REFUSED_NODE,   /* the tensor group would cross nodes */
    REFUSED_HEADS,  /* the tensor group does not divide the heads */
    REFUSED_BATCH,  /* more replicas than microbatches */
    REFUSED_MEMORY,
    REFUSED_SLOWER, /* than another one of the same axes and microbatch */
    REFUSED_RANK,   /* fits, but is not among the best */
    REFUSAL_KINDS,
};

struct plan_reason {
    enum plan_refusal kind;
    int tensor;                /* of REFUSED_NODE and REFUSED_HEADS */
    int64_t count;             /* layouts */
    int64_t missing;           /* of REFUSED_MEMORY: bytes, of the nearest */
    struct plan_layout nearest;
};

enum { PLAN_REASONS_MAX = 32 };

struct plan_result {
    struct plan *best; /* by step time, shortest first */
    int count;
    int64_t tried;
    struct plan_reason reasons[PLAN_REASONS_MAX];
    int reason_count;
};

/* What a GPU leaves for a rank. */
int64_t plan_memory_limit(const struct machine *machine);

/* Judges LAYOUT, whether it fits or not. Its axes must be positive, its schedule one that schedule_check takes. CAIRN_ENOMEM. */
cairn_err plan_of(const struct plan_model *model, const struct plan_layout *layout, const struct machine *machine, struct plan *out);

/* Judges all layouts within CONSTRAINTS for a batch of BATCH samples; the MOST fastest that fit, one for each set of axes and microbatch.
 * All are judged by the schedules' formulas, those that then lead by running their schedule. None may fit: then COUNT is 0, and the reasons tell why. CAIRN_ECONFIG if the GPU has no products of the machine's type, or the machine
 * none. */
cairn_err plan_best(const struct plan_model *model, int64_t batch, const struct machine *machine, const struct plan_constraints *constraints,
                    int most, struct plan_result *out);
void plan_result_free(struct plan_result *result);

/* CAIRN_ECONFIG if MACHINE cannot be planned for at all. */
cairn_err plan_check_machine(const struct machine *machine);

#endif
