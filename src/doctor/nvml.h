/* What Cairn uses of NVML, NVIDIA's management library, declared here so that it can be built without NVIDIA's headers; the library
 * itself (libnvidia-ml.so.1, a part of the driver) is looked for at run time. Names and values are those of NVML's API reference
 * (https://docs.nvidia.com/deploy/nvml-api/); enums of the library are int or unsigned int in its calls, which is how they are passed. */
#ifndef DOCTOR_NVML_H
#define DOCTOR_NVML_H

#include <stdbool.h>

typedef struct nvmlDevice_st *nvmlDevice_t;
typedef int nvmlReturn_t;
typedef unsigned nvmlEnableState_t;

enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_FUNCTION_NOT_FOUND = 13,
    NVML_ERROR_OPERATING_SYSTEM = 17, /* a control group keeps the GPU from this process */
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18,
};

enum { NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1 };
enum { NVML_VOLATILE_ECC, NVML_AGGREGATE_ECC }; /* since the driver was loaded; in the GPU's life */
enum { NVML_COMPUTEMODE_DEFAULT, NVML_COMPUTEMODE_EXCLUSIVE_THREAD, NVML_COMPUTEMODE_PROHIBITED, NVML_COMPUTEMODE_EXCLUSIVE_PROCESS };
enum { NVML_TEMPERATURE_GPU = 0 };
enum { NVML_NVLINK_DEVICE_TYPE_GPU, NVML_NVLINK_DEVICE_TYPE_IBMNPU, NVML_NVLINK_DEVICE_TYPE_SWITCH };
enum { NVML_NVLINK_MAX_LINKS = 36 };

enum {
    NVML_TOPOLOGY_INTERNAL = 0,
    NVML_TOPOLOGY_SINGLE = 10,
    NVML_TOPOLOGY_MULTIPLE = 20,
    NVML_TOPOLOGY_HOSTBRIDGE = 30,
    NVML_TOPOLOGY_NODE = 40,
    NVML_TOPOLOGY_SYSTEM = 50,
};

/* Bits of nvmlDeviceGetCurrentClocksThrottleReasons: clocks lowered by heat, or by the power supply, not by the usual cap. */
enum {
    nvmlClocksThrottleReasonHwSlowdown = 0x08,
    nvmlClocksThrottleReasonSwThermalSlowdown = 0x20,
    nvmlClocksThrottleReasonHwThermalSlowdown = 0x40,
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 0x80,
};

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;

typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;

/* The functions that are called. */
nvmlReturn_t nvmlInit_v2(void);
nvmlReturn_t nvmlShutdown(void);
const char *nvmlErrorString(nvmlReturn_t);
nvmlReturn_t nvmlSystemGetDriverVersion(char *, unsigned size);
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *);
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *);
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned, nvmlDevice_t *);
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t, char *, unsigned size);
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t, char *, unsigned size);
nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t, nvmlPciInfo_t *);
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t, nvmlMemory_t *);
nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t, int *major, int *minor);
nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t, nvmlEnableState_t *current, nvmlEnableState_t *pending);
nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t, unsigned kind, unsigned counter, unsigned long long *);
nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t, nvmlEnableState_t *);
nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t, unsigned *correctable, unsigned *uncorrectable, unsigned *pending, unsigned *failed);
nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t, unsigned *);
nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t, unsigned *current, unsigned *pending);
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t, unsigned sensor, unsigned *);
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t, unsigned long long *);
nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t, unsigned link, nvmlEnableState_t *);
nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t, unsigned link, unsigned *);
nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t, unsigned link, unsigned *);
nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t, unsigned link, nvmlPciInfo_t *);
nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t, nvmlDevice_t, unsigned *);

#define NVML_FUNCTIONS(each)                                      \
    each(init, nvmlInit_v2)                                       \
    each(shutdown, nvmlShutdown)                                  \
    each(error_string, nvmlErrorString)                           \
    each(driver_version, nvmlSystemGetDriverVersion)              \
    each(cuda_version, nvmlSystemGetCudaDriverVersion_v2)         \
    each(count, nvmlDeviceGetCount_v2)                            \
    each(handle, nvmlDeviceGetHandleByIndex_v2)                   \
    each(name, nvmlDeviceGetName)                                 \
    each(uuid, nvmlDeviceGetUUID)                                 \
    each(pci, nvmlDeviceGetPciInfo_v3)                            \
    each(memory, nvmlDeviceGetMemoryInfo)                         \
    each(capability, nvmlDeviceGetCudaComputeCapability)          \
    each(ecc_mode, nvmlDeviceGetEccMode)                          \
    each(ecc_errors, nvmlDeviceGetTotalEccErrors)                 \
    each(pages_pending, nvmlDeviceGetRetiredPagesPendingStatus)   \
    each(rows, nvmlDeviceGetRemappedRows)                         \
    each(compute_mode, nvmlDeviceGetComputeMode)                  \
    each(mig_mode, nvmlDeviceGetMigMode)                          \
    each(temperature, nvmlDeviceGetTemperature)                   \
    each(throttle, nvmlDeviceGetCurrentClocksThrottleReasons)     \
    each(link_state, nvmlDeviceGetNvLinkState)                    \
    each(link_version, nvmlDeviceGetNvLinkVersion)                \
    each(link_kind, nvmlDeviceGetNvLinkRemoteDeviceType)          \
    each(link_peer, nvmlDeviceGetNvLinkRemotePciInfo_v2)          \
    each(ancestor, nvmlDeviceGetTopologyCommonAncestor)

/* Where they are. A driver may lack some: a stand-in then returns NVML_ERROR_FUNCTION_NOT_FOUND, so that what is not known is not told. */
#define NVML_POINTER(field, function) __typeof__(function) *field;
struct nvml {
    NVML_FUNCTIONS(NVML_POINTER)
};

/* Loads the library; false, and why in WHY, where there is none. It stays loaded. */
bool nvml_load(struct nvml *nvml, char *why, int size);

#endif
