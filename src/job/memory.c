#include "job/memory.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/least.h"

/* The whole number in file PATH, INT64_MAX if there is none ("max", no such file). */
static int64_t number_in(const char *path)
{
    long long number;
    FILE *f = fopen(path, "r");
    if (!f)
        return INT64_MAX;
    int found = fscanf(f, "%lld", &number);
    fclose(f);
    return found == 1 && number > 0 ? number : INT64_MAX;
}

/* The whole number that VARIABLE of the environment gives, INT64_MAX if it gives none, or 0, which stands for all there is. */
static int64_t number_given(const char *variable)
{
    const char *text = getenv(variable);
    long long number = text ? strtoll(text, NULL, 10) : 0;
    return number > 0 ? number : INT64_MAX;
}

/* The least of file NAME in folder PATH and those above it, as far as ROOT_LENGTH. PATH is cut. */
static int64_t least_above(char *path, size_t root_length, const char *name)
{
    char file[PATH_MAX + 64];
    int64_t bytes = INT64_MAX;
    while (strlen(path) >= root_length) {
        snprintf(file, sizeof file, "%s/%s", path, name);
        bytes = least(bytes, number_in(file));
        char *slash = strrchr(path, '/');
        if (!slash)
            break;
        *slash = 0;
    }
    return bytes;
}

/* What control groups allow this process: of version 2, or version 1's for memory (man 7 cgroups). */
static int64_t group_limit(void)
{
    char line[PATH_MAX], path[PATH_MAX + 64];
    int64_t bytes = INT64_MAX;
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f)) {
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        group[strcspn(group, "\n")] = 0;
        bool second = controllers[1] == 0, first = strstr(controllers, "memory") != NULL;
        const char *root = second ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
        snprintf(path, sizeof path, "%s%s", root, strcmp(group, "/") == 0 ? "" : group);
        if (first || second)
            bytes = least(bytes, least_above(path, strlen(root), second ? "memory.max" : "memory.limit_in_bytes"));
    }
    if (f)
        fclose(f);
    return bytes;
}

static int64_t bytes_of(int64_t megabytes)
{
    return megabytes < INT64_MAX >> 20 ? megabytes << 20 : INT64_MAX;
}

static const struct {
    const char *slurm, *own;
} kept[] = {{"SLURM_MEM_PER_NODE", "CAIRN_MEM_PER_NODE"}, {"SLURM_MEM_PER_CPU", "CAIRN_MEM_PER_CPU"}};

/* What Slurm grants on this node, to all (--mem) or to each CPU (--mem-per-cpu, DefMemPerCPU), in MB of 2^20. */
static int64_t slurm_limit(void)
{
    int64_t node = least(number_given(kept[0].slurm), number_given(kept[0].own));
    int64_t cpu = least(number_given(kept[1].slurm), number_given(kept[1].own)), cpus = number_given("SLURM_CPUS_ON_NODE"), all;
    if (__builtin_mul_overflow(cpu, cpus, &all))
        all = INT64_MAX;
    return bytes_of(least(node, all));
}

void memory_pass_on(void)
{
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        const char *value = getenv(kept[i].slurm);
        if (value)
            setenv(kept[i].own, value, 1);
        else
            unsetenv(kept[i].own);
    }
}

int64_t memory_of_node(void)
{
    int64_t pages = sysconf(_SC_PHYS_PAGES), bytes = pages > 0 ? pages * sysconf(_SC_PAGESIZE) : INT64_MAX;
    bytes = least(bytes, slurm_limit());
    bytes = least(bytes, group_limit());
    return bytes == INT64_MAX ? 0 : bytes;
}
