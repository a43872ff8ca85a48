/* Stands for NVIDIA's management library where the doctor is tested. The environment says how the GPUs are:
 *   NVML_GPUS=N (2)          how many
 *   NVML_INIT=CODE           what nvmlInit returns
 *   NVML_BAD=WORD            what is wrong with GPU 1: errors, pending, failed, pages, lost, denied, prohibited, hot, off
 *   NVML_LINKS=WORD          what joins them: pcie (the usual), peers (four NVLinks each way), switch (18, on GPU 1 16)
 *   NVML_HANGS, NVML_DIES    nvmlDeviceGetCount never returns; ends the process */
#include "doctor/nvml.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct nvmlDevice_st {
    unsigned number;
};

enum { DEVICES = 8 };

static struct nvmlDevice_st devices[DEVICES];

static unsigned gpu_count(void)
{
    const char *count = getenv("NVML_GPUS");
    return count ? (unsigned)atoi(count) : 2;
}

static bool is(const char *variable, const char *word)
{
    const char *value = getenv(variable);
    return value && strcmp(value, word) == 0;
}

static bool bad(nvmlDevice_t d, const char *word)
{
    return d->number == 1 && is("NVML_BAD", word);
}

static nvmlReturn_t put(unsigned *where, unsigned value)
{
    *where = value;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit_v2(void)
{
    return getenv("NVML_INIT") ? atoi(getenv("NVML_INIT")) : NVML_SUCCESS;
}

nvmlReturn_t nvmlShutdown(void)
{
    return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t code)
{
    static char text[32];
    snprintf(text, sizeof text, "NVML's error %d", code);
    return text;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *text, unsigned size)
{
    snprintf(text, size, "580.65.06");
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    *version = 13000;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count)
{
    if (getenv("NVML_DIES"))
        raise(SIGKILL);
    while (getenv("NVML_HANGS"))
        pause();
    return put(count, gpu_count());
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned number, nvmlDevice_t *device)
{
    if (number >= gpu_count() || number >= DEVICES)
        return 2; /* NVML_ERROR_INVALID_ARGUMENT */
    *device = &devices[number];
    (*device)->number = number;
    if (bad(*device, "lost"))
        return 15; /* NVML_ERROR_GPU_IS_LOST */
    return bad(*device, "denied") ? NVML_ERROR_NO_PERMISSION : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char *text, unsigned size)
{
    (void)d;
    snprintf(text, size, "Emulated GPU");
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *text, unsigned size)
{
    snprintf(text, size, "GPU-%uf00-beef", d->number);
    return NVML_SUCCESS;
}

static nvmlReturn_t place_of(unsigned number, nvmlPciInfo_t *pci)
{
    *pci = (nvmlPciInfo_t){.bus = number + 1};
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", pci->bus);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t d, nvmlPciInfo_t *pci)
{
    return place_of(d->number, pci);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t *memory)
{
    (void)d;
    *memory = (nvmlMemory_t){.total = 80000000000, .free = 79000000000, .used = 1000000000};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t d, int *major, int *minor)
{
    (void)d;
    *major = 9;
    *minor = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t d, nvmlEnableState_t *current, nvmlEnableState_t *pending)
{
    *current = *pending = !bad(d, "off");
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t d, unsigned kind, unsigned counter, unsigned long long *count)
{
    *count = 900; /* of those that were corrected */
    if (kind == NVML_MEMORY_ERROR_TYPE_UNCORRECTED)
        *count = !bad(d, "errors") ? 0 : counter == NVML_VOLATILE_ECC ? 3 : 5;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t d, nvmlEnableState_t *pending)
{
    return put(pending, bad(d, "pages"));
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t d, unsigned *correctable, unsigned *uncorrectable, unsigned *pending, unsigned *failed)
{
    if (bad(d, "pages"))
        return NVML_ERROR_NOT_SUPPORTED;
    *correctable = 0;
    *uncorrectable = bad(d, "pending") || bad(d, "failed");
    *pending = bad(d, "pending");
    *failed = bad(d, "failed");
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t d, unsigned *mode)
{
    return put(mode, bad(d, "prohibited") ? NVML_COMPUTEMODE_PROHIBITED : NVML_COMPUTEMODE_DEFAULT);
}

/* nvmlDeviceGetMigMode is not here: drivers differ in what they have. */

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t d, unsigned sensor, unsigned *degrees)
{
    return sensor == NVML_TEMPERATURE_GPU ? put(degrees, bad(d, "hot") ? 93 : 41) : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t d, unsigned long long *reasons)
{
    *reasons = bad(d, "hot") ? nvmlClocksThrottleReasonSwThermalSlowdown : 1; /* else it is idle */
    return NVML_SUCCESS;
}

/* ---- links ---- */

static unsigned link_count(void)
{
    return is("NVML_LINKS", "switch") ? 18 : is("NVML_LINKS", "peers") ? 4 : 0;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t d, unsigned link, nvmlEnableState_t *up)
{
    if (link >= link_count())
        return link_count() ? 2 : NVML_ERROR_NOT_SUPPORTED;
    return put(up, link < 16 || d->number != 1);
}

nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t d, unsigned link, unsigned *version)
{
    (void)d, (void)link;
    return put(version, is("NVML_LINKS", "switch") ? 6 : 4); /* NVML's numbers of 4.0 and 3.0 */
}

nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t d, unsigned link, unsigned *kind)
{
    (void)d, (void)link;
    return put(kind, is("NVML_LINKS", "switch") ? NVML_NVLINK_DEVICE_TYPE_SWITCH : NVML_NVLINK_DEVICE_TYPE_GPU);
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t d, unsigned link, nvmlPciInfo_t *pci)
{
    (void)link;
    return place_of(is("NVML_LINKS", "switch") ? 100 : d->number ^ 1, pci);
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t a, nvmlDevice_t b, unsigned *level)
{
    return put(level, a->number / 2 == b->number / 2 ? NVML_TOPOLOGY_HOSTBRIDGE : NVML_TOPOLOGY_SYSTEM);
}
