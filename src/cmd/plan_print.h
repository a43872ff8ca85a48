/* What cairn plan prints: tables for people, JSON for programs. */
#ifndef CMD_PLAN_PRINT_H
#define CMD_PLAN_PRINT_H

#include <jansson.h>

#include "plan/plan.h"

/* What was planned for, and where checkpoints go. */
struct plan_request {
    struct plan_model model;
    struct machine machine;
    struct hardware_software software; /* the machine's, as the config changes it */
    int64_t batch;            /* samples of a step */
    double mtbf_hours;        /* of a node */
    double write_gb_s;        /* of the file system, a node */
};

void plan_print_request(const struct plan_request *request);
void plan_print_best(const struct plan_request *request, const struct plan_result *result);
void plan_print_reasons(const struct plan_request *request, const struct plan_result *result);
void plan_print_one(const struct plan_request *request, const struct plan *plan);

/* After either: how often to write checkpoints under PLAN. */
void plan_print_checkpoints(const struct plan_request *request, const struct plan *plan);

/* NULL: no memory. */
json_t *plan_json(const struct plan_request *request, const struct plan_result *result);
json_t *plan_json_one(const struct plan_request *request, const struct plan *plan);

#endif
