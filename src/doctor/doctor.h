/* What this node has of what a training stands on, and what is wrong with it. */
#ifndef DOCTOR_DOCTOR_H
#define DOCTOR_DOCTOR_H

#include <jansson.h>

#include "base/error.h"

/* Examines the parts one after the other, each in a process of its own (cairn doctor --part), since drivers and file systems hang and
 * libraries crash: SECONDS for each. *REPORT is as doctor/report.h tells; the caller's. */
cairn_err doctor_examine(double seconds, json_t **report);

/* Examines part NAME in this process, which the caller ends soon, and prints its facts. GPUS: how many this process would use, as far as
 * the driver tells; 0: none, or not known. CAIRN_ECONFIG: there is no such part. */
cairn_err doctor_examine_part(const char *name, int gpus);

#endif
