/* Planning for a training that is about to begin: what its config leaves open, on the ranks that it has. */
#ifndef PLAN_AUTOMATIC_H
#define PLAN_AUTOMATIC_H

#include "plan/plan.h"

/* What CONFIG says of how gradients are summed, on top of what is known of SOFTWARE. */
struct hardware_software plan_software_of(const struct config *config, const struct hardware_software *software);

/* Compression and local steps as CONFIG asks for them, and of layouts those that go with them (train/parallel.c). */
void plan_keep_to_modes(const struct config *config, struct plan_constraints *constraints);

/* What CONFIG has the planner choose (config_chooses) is free, all else as it is given; the batch belongs to the experiment. */
struct plan_constraints plan_constraints_of(const struct config *config);

/* Into CONFIG what the planner chose of what it was to choose; the list of it (parallel.automatic) stays. */
void plan_take(struct config *config, const struct plan_layout *layout);

/* The ranks of the training. */
struct planned_ranks {
    int ranks, node_ranks; /* all; the fewest on a node */
    int threads;           /* of each, where they compute on processors */
    const char *device;    /* the GPU of each, as its driver names it; NULL: processors */
    int64_t device_memory; /* of such a GPU */
    bool linked;           /* GPUs exchange without the processors */
    int64_t memory;        /* bytes that each may take */
    enum plan_type type;
};

/* A machine and what it points to. */
struct planned_machine {
    bool stands_in; /* the table lacks the GPU: GPU is another's entry, without NVLink */
    struct machine machine;
    struct hardware_gpu gpu; /* what a rank computes on */
    struct hardware_network network;
    struct hardware_software software;
};

/* The machine that RANKS make, for CONFIG, whose vocabulary is known: each is of its threads times the table's entry CPU, with one NIC a node,
 * or what the table has of its GPU. *OUT must not be moved. CAIRN_ECONFIG if the table lacks an entry that it needs. */
cairn_err planned_machine_of(const struct hardware *hardware, const struct config *config, const struct planned_ranks *ranks, struct planned_machine *out);

#endif
