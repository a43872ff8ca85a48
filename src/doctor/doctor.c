#include "doctor/doctor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "doctor/parts.h"
#include "slurm/child.h"

enum { OUTPUT_SIZE = 1 << 18 }; /* 64 GPUs tell about 64 KB */

static const struct part {
    const char *name, *title;
    void (*examine)(struct facts *, int gpus);
} parts[] = {
    {"gpus", "GPUs", examine_gpus},
    {"cuda", "cuda backend", examine_cuda},
    {"software", "software", examine_software},
    {"machine", "machine", examine_machine},
};

cairn_err doctor_examine_part(const char *name, int gpus)
{
    struct facts facts = {.out = stdout};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strcmp(name, parts[i].name) == 0) {
            parts[i].examine(&facts, gpus);
            return facts.failed ? FAIL(CAIRN_ESYS, "the facts could not be written") : CAIRN_OK;
        }
    return FAIL(CAIRN_ECONFIG, "there is no part '%s'; there are gpus, cuda, software and machine", name);
}

/* STATUS: as child_run tells. */
static void tell_end(json_t *report, json_t *part, int status, bool late, double seconds)
{
    char text[256];
    const char *last = report_last(part);
    if (late)
        snprintf(text, sizeof text, "no answer within %g s", seconds);
    else if (status < 0)
        snprintf(text, sizeof text, "the process that examined it died");
    else
        snprintf(text, sizeof text, "the process that examined it ended with code %d", status);
    size_t used = strlen(text);
    snprintf(text + used, sizeof text - used, "%s%s", last ? ", after: " : "", last ? last : "");
    report_tell(report, part, MARK_TROUBLE, "examination",
                late ? "see what hangs (dmesg tells of drivers and file systems); --wait gives it longer" : "dmesg may tell why", text);
}

/* This program as another process, so that it can be given up. */
static json_t *examine_apart(json_t *report, const struct part *p, int gpus, double seconds, char *output)
{
    char number[16];
    snprintf(number, sizeof number, "%d", gpus);
    double begin = clock_seconds();
    *output = 0;
    int status = child_run((char *[]){"/proc/self/exe", "doctor", "--part", (char *)p->name, number, NULL}, seconds, output, OUTPUT_SIZE);
    bool late = status < 0 && clock_seconds() - begin >= seconds;
    json_t *part = report_add(report, p->title, output);
    if (status != 0)
        tell_end(report, part, status, late, seconds);
    return part;
}

cairn_err doctor_examine(double seconds, json_t **report)
{
    char *output = calloc(1, OUTPUT_SIZE);
    json_t *r = output ? report_new() : NULL;
    long long gpus = 0;
    for (size_t i = 0; r && i < sizeof parts / sizeof parts[0]; i++) {
        const json_t *part = examine_apart(r, &parts[i], (int)gpus, seconds, output);
        long long found = report_number(part, PROCESS_GPUS, PROCESS_GPUS_COUNT);
        gpus = found >= 0 ? found : gpus;
    }
    free(output);
    *report = r;
    return r ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the report");
}
