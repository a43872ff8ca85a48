#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "doctor/parts.h"
#include "kernels/plugin.h"

#define RESET_ADVICE "reset the GPU (nvidia-smi --gpu-reset, or a reboot)"
#define REPLACE_ADVICE "take the node out of use and reset the GPU (nvidia-smi --gpu-reset, or a reboot); replace it if this comes again"

/* "GPU 3, ECC"; valid until the next call. */
static const char *name_of(const struct gpu *g, const char *what)
{
    static char name[64];
    snprintf(name, sizeof name, "GPU %u%s%s", g->number, *what ? ", " : "", what);
    return name;
}

static void tell_identity(struct facts *f, const struct nvml *nvml, const struct gpu *g)
{
    nvmlMemory_t memory = {0};
    int major = 0, minor = 0;
    char room[64] = "", capability[64] = "";
    if (nvml->memory(g->device, &memory) == NVML_SUCCESS) {
        snprintf(room, sizeof room, ", %.1f GB of memory, %.1f GB in use", (double)memory.total / 1e9, (double)memory.used / 1e9);
        fact_number(f, "memory", (long long)memory.total);
        fact_number(f, "memory_used", (long long)memory.used);
    }
    if (nvml->capability(g->device, &major, &minor) == NVML_SUCCESS)
        snprintf(capability, sizeof capability, ", compute capability %d.%d", major, minor);
    fact_tell(f, MARK_OK, name_of(g, ""), NULL, "%s, %04X:%02X:%02X.0%s%s", g->name, g->pci.domain, g->pci.bus, g->pci.device, room,
              capability);
}

static void tell_errors(struct facts *f, const struct nvml *nvml, const struct gpu *g)
{
    nvmlEnableState_t on = 0, later = 0;
    unsigned long long fresh = 0, all = 0;
    const char *name = name_of(g, "ECC");
    nvmlReturn_t status = nvml->ecc_mode(g->device, &on, &later);
    if (status == NVML_ERROR_NOT_SUPPORTED) {
        fact_tell(f, MARK_OK, name, NULL, "this GPU has none");
        return;
    }
    if (status != NVML_SUCCESS || !on) {
        fact_tell(f, MARK_WARNING, name, "nvidia-smi --ecc-config=1 and a reset turn it on; without it wrong bits in memory go unseen",
                  "%s", status != NVML_SUCCESS ? nvml->error_string(status) : later ? "off until the next reset" : "off");
        return;
    }
    nvmlReturn_t told = nvml->ecc_errors(g->device, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC, &fresh);
    if (told == NVML_SUCCESS)
        told = nvml->ecc_errors(g->device, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_AGGREGATE_ECC, &all);
    if (told != NVML_SUCCESS) {
        fact_tell(f, MARK_OK, name, NULL, "on%s; errors are not told: %s", later ? "" : " until the next reset", nvml->error_string(told));
        return;
    }
    fact_number(f, "uncorrected_since_driver", (long long)fresh);
    fact_number(f, "uncorrected_in_life", (long long)all);
    fact_tell(f, fresh ? MARK_TROUBLE : MARK_OK, name, REPLACE_ADVICE,
              "on%s, %llu uncorrected errors since the driver was loaded, %llu in the GPU's life", later ? "" : " until the next reset",
              fresh, all);
}

/* Memory that is to be replaced by spare one: retired pages before compute capability 8.0, remapped rows since. */
static void tell_repairs(struct facts *f, const struct nvml *nvml, const struct gpu *g)
{
    unsigned correctable = 0, uncorrectable = 0, pending = 0, failed = 0;
    nvmlEnableState_t pages = 0;
    const char *name = name_of(g, "memory repair");
    if (nvml->rows(g->device, &correctable, &uncorrectable, &pending, &failed) == NVML_SUCCESS) {
        fact_number(f, "rows_uncorrectable", uncorrectable);
        fact_number(f, "pending", pending != 0);
        fact_number(f, "failed", failed != 0);
        fact_tell(f, pending || failed ? MARK_TROUBLE : MARK_OK, name,
                  failed ? "no spare row was left: have the GPU replaced" : RESET_ADVICE,
                  "%u rows remapped for correctable errors, %u for uncorrectable ones%s%s", correctable, uncorrectable,
                  pending ? ", one waits for a reset" : "", failed ? ", one failed" : "");
    } else if (nvml->pages_pending(g->device, &pages) == NVML_SUCCESS) {
        fact_number(f, "pending", pages != 0);
        fact_tell(f, pages ? MARK_TROUBLE : MARK_OK, name, RESET_ADVICE, "%s",
                  pages ? "pages wait for a reset to be retired" : "no page waits to be retired");
    }
}

static void tell_modes(struct facts *f, const struct nvml *nvml, const struct gpu *g)
{
    unsigned mode = 0, mig = 0, later = 0;
    if (nvml->compute_mode(g->device, &mode) == NVML_SUCCESS) {
        static const char *const names[] = {"default", "one thread", "prohibited", "one process"};
        const char *advice = "ranks cannot share it: as many ranks on a node as GPUs, or nvidia-smi --compute-mode=0";
        if (mode == NVML_COMPUTEMODE_PROHIBITED)
            advice = "no process can compute on it: nvidia-smi --compute-mode=0 allows it";
        enum mark mark = mode == NVML_COMPUTEMODE_DEFAULT ? MARK_OK : mode == NVML_COMPUTEMODE_PROHIBITED ? MARK_TROUBLE : MARK_WARNING;
        fact_tell(f, mark, name_of(g, "compute mode"), advice, "%s",
                  mode < sizeof names / sizeof names[0] ? names[mode] : "unknown");
    }
    if (nvml->mig_mode(g->device, &mig, &later) == NVML_SUCCESS && mig)
        fact_tell(f, MARK_OK, name_of(g, "MIG"), NULL, "on: a process sees one instance of those that the GPU is divided in");
}

static void tell_clocks(struct facts *f, const struct nvml *nvml, const struct gpu *g)
{
    static const struct {
        unsigned long long bit;
        const char *name;
    } reasons[] = {{nvmlClocksThrottleReasonHwSlowdown, "hardware slowdown"},
                   {nvmlClocksThrottleReasonSwThermalSlowdown, "heat"},
                   {nvmlClocksThrottleReasonHwThermalSlowdown, "heat (hardware)"},
                   {nvmlClocksThrottleReasonHwPowerBrakeSlowdown, "power brake"}};
    unsigned degrees = 0;
    unsigned long long bits = 0;
    char heat[32] = "", why[128] = "";
    if (nvml->temperature(g->device, NVML_TEMPERATURE_GPU, &degrees) == NVML_SUCCESS)
        snprintf(heat, sizeof heat, "%u C, ", degrees);
    if (nvml->throttle(g->device, &bits) != NVML_SUCCESS)
        return;
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        if (bits & reasons[i].bit)
            snprintf(why + strlen(why), sizeof why - strlen(why), "%s%s", *why ? ", " : "lowered: ", reasons[i].name);
    fact_tell(f, *why ? MARK_WARNING : MARK_OK, name_of(g, "clocks"),
              "look after cooling and power supply: one slow GPU holds up all ranks", "%s%s",
              heat, *why ? why : "not lowered by heat or power supply");
}

static void tell_gpu(struct facts *f, const struct nvml *nvml, const struct gpu *g)
{
    tell_identity(f, nvml, g);
    tell_errors(f, nvml, g);
    tell_repairs(f, nvml, g);
    tell_modes(f, nvml, g);
    tell_clocks(f, nvml, g);
}

/* ---- those of this process ---- */

static int find_gpu(const char *entry, size_t length, const struct gpu *gpus, int count)
{
    char *end;
    int found = -1;
    if (isdigit((unsigned char)*entry)) {
        unsigned long number = strtoul(entry, &end, 10);
        return end == entry + length && number < (unsigned long)count ? (int)number : -1;
    }
    for (int i = 0; i < count && length > strlen("GPU-"); i++)
        if (strncmp(gpus[i].uuid, entry, length) == 0) {
            if (found >= 0) /* the beginning of several */
                return -1;
            found = i;
        }
    return found;
}

int visible_gpus(const char *list, const struct gpu *gpus, int count, int *numbers)
{
    int used = 0;
    for (; used < count; list++) {
        list += strspn(list, " ");
        size_t length = strcspn(list, ", ");
        int found = find_gpu(list, length, gpus, count);
        for (int i = 0; i < used; i++)
            found = numbers[i] == found ? -1 : found;
        if (found < 0)
            break;
        numbers[used++] = found;
        list += length;
        list += strspn(list, " ");
        if (*list != ',')
            break;
    }
    return used;
}

static void tell_process(struct facts *f, const struct gpu *gpus, int count)
{
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    int numbers[GPUS_MOST], used = count;
    char text[512] = "";
    if (list && strncmp(list, "MIG-", 4) == 0) {
        fact_number(f, PROCESS_GPUS_COUNT, 1);
        fact_tell(f, MARK_OK, PROCESS_GPUS, NULL, "CUDA_VISIBLE_DEVICES=%s: an instance of a divided GPU", list);
        return;
    }
    if (list)
        used = visible_gpus(list, gpus, count, numbers);
    for (int i = 0; i < used && strlen(text) < sizeof text - 32; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%u", i ? ", " : "", gpus[list ? numbers[i] : i].number);
    fact_number(f, PROCESS_GPUS_COUNT, used);
    fact_tell(f, used || !count ? MARK_OK : MARK_WARNING, PROCESS_GPUS,
              "trainings will find no GPU: unset CUDA_VISIBLE_DEVICES, or ask Slurm for GPUs (--gpus-per-task=1)",
              "%s (CUDA_VISIBLE_DEVICES%s%s)", used ? text : "none", list ? "=" : " is not set", list ? list : "");
}

/* ---- the driver ---- */

/* No driver is as it should be on a node without GPUs; where the cuda backend is installed GPUs may be expected. */
static void tell_no_driver(struct facts *f, const char *why)
{
    fact_tell(f, plugin_is_there("cuda") ? MARK_WARNING : MARK_OK, "driver",
              "if this node has NVIDIA GPUs, install their driver; in a container, pass it in", "no NVIDIA driver: %s", why);
}

static bool open_driver(struct facts *f, struct nvml *nvml)
{
    char why[512], version[80] = "?";
    int cuda = 0;
    if (!nvml_load(nvml, why, sizeof why)) {
        tell_no_driver(f, why);
        return false;
    }
    nvmlReturn_t status = nvml->init();
    if (status == NVML_ERROR_DRIVER_NOT_LOADED) {
        tell_no_driver(f, nvml->error_string(status));
        return false;
    }
    if (status != NVML_SUCCESS) {
        fact_tell(f, MARK_TROUBLE, "driver",
                  status == NVML_ERROR_LIB_RM_VERSION_MISMATCH ? "its library was updated and its kernel module was not: reboot the node"
                                                              : "see what nvidia-smi and dmesg tell",
                  "it cannot be used: %s", nvml->error_string(status));
        return false;
    }
    nvml->driver_version(version, sizeof version);
    nvml->cuda_version(&cuda);
    fact_tell(f, MARK_OK, "driver", NULL, "%s, for CUDA up to %d.%d", version, cuda / 1000, cuda % 1000 / 10);
    return true;
}

/* False: it is not to be used, which is told. */
static bool find_device(struct facts *f, const struct nvml *nvml, unsigned number, struct gpu *g)
{
    *g = (struct gpu){.number = number, .name = "?"};
    nvmlReturn_t status = nvml->handle(number, &g->device);
    if (status == NVML_ERROR_NO_PERMISSION || status == NVML_ERROR_OPERATING_SYSTEM) {
        fact_tell(f, MARK_OK, name_of(g, ""), NULL, "not for this process: %s", nvml->error_string(status));
        return false;
    }
    if (status != NVML_SUCCESS) {
        fact_tell(f, MARK_TROUBLE, name_of(g, ""), REPLACE_ADVICE, "it does not answer: %s", nvml->error_string(status));
        return false;
    }
    nvml->name(g->device, g->name, sizeof g->name);
    nvml->uuid(g->device, g->uuid, sizeof g->uuid);
    nvml->pci(g->device, &g->pci);
    return true;
}

void examine_gpus(struct facts *f, int unused)
{
    (void)unused;
    struct nvml nvml;
    struct gpu gpus[GPUS_MOST];
    unsigned all = 0;
    int count = 0;
    if (!open_driver(f, &nvml))
        return;
    nvmlReturn_t status = nvml.count(&all);
    if (status != NVML_SUCCESS)
        fact_tell(f, MARK_TROUBLE, "driver", "see what nvidia-smi and dmesg tell", "GPUs cannot be counted: %s", nvml.error_string(status));
    for (unsigned i = 0; i < all && count < GPUS_MOST; i++)
        if (find_device(f, &nvml, i, &gpus[count])) {
            tell_gpu(f, &nvml, &gpus[count]);
            count++;
        }
    examine_links(f, &nvml, gpus, count);
    tell_process(f, gpus, count);
    nvml.shutdown();
}
