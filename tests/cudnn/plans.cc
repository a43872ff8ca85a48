/* Whether NVIDIA's cuDNN takes the graphs of attention: its own planner is asked, for a GPU that is described to it in words, so that
 * none need be there (CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION). Skipped where the library is not installed: it is looked for in
 * CAIRN_CUDNN_FOLDER, in the CUDA toolkit's folder, and where the system's libraries are. */
#include "kernels/cuda/attention_graphs.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>

static struct cudnn_calls calls;
static struct cudnn_target device;
static int tests, failed;

static void tell(bool ok, const std::string &name)
{
    printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, name.c_str());
    failed += !ok;
}

/* From now on its name means this one. */
static bool load_from(const char *folder)
{
    return folder != nullptr && *folder != '\0' && dlopen((std::string(folder) + "/libcudnn_graph.so.9").c_str(), RTLD_NOW) != nullptr;
}

static bool load()
{
    return (load_from(getenv("CAIRN_CUDNN_FOLDER")) || load_from(CUDA_FOLDER) || load_from("/usr/local/cuda/lib64") || true) &&
           cudnn_load(&calls);
}

/* An H200, as NVIDIA's data sheet and the programming guide's table of compute capability 9.0 have it. */
static std::string h200()
{
    return "{\"cudnnVersion\": " + std::to_string(calls.cudnnGetVersion()) +
           ", \"deviceName\": \"NVIDIA H200\", \"deviceVer\": 900, \"driverVer\": 13000, \"cudaDeviceId\": 0, \"pciDeviceId\": 0, "
           "\"multiProcessorCount\": 132, \"warpSize\": 32, \"maxThreadsPerBlock\": 1024, \"maxThreadsPerSM\": 2048, "
           "\"maxCtasPerSM\": 32, \"regsPerBlock\": 65536, \"maxRegistersPerSM\": 65536, \"maxSharedMemoryPerBlock\": 49152, "
           "\"maxSharedMemoryPerBlockOptin\": 232448, \"reservedSharedMemoryPerBlock\": 1024, \"l2CacheSize\": 62914560, "
           "\"totalGlobalMem\": 150754820096, \"smClockRateKHz\": 1980000, \"memClockRateKHz\": 3201000, \"isTccDriver\": 0, "
           "\"supportCoopLaunch\": 1, \"maxGridSize\": [2147483647, 65535, 65535], \"maxBlockSize\": [1024, 1024, 64]}";
}

static bool describe(const std::string &words)
{
    return calls.cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &device.properties) == CUDNN_STATUS_SUCCESS &&
           calls.cudnnBackendSetAttribute(device.properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                          static_cast<int64_t>(words.size()), words.data()) == CUDNN_STATUS_SUCCESS &&
           calls.cudnnBackendFinalize(device.properties) == CUDNN_STATUS_SUCCESS;
}

typedef void (*graph)(struct cudnn_plan *, const struct attention_desc *);

/* The workspace that the plan wants; -1: there is none. */
static int64_t workspace_of(graph compose, const struct attention_desc *d)
{
    struct cudnn_plan plan = {};
    plan.call = &calls;
    compose(&plan, d);
    int64_t bytes = plan_finish(&plan, device, static_cast<int64_t>(2) << 30) ? plan.workspace_bytes : -1;
    plan_destroy(&plan);
    return bytes;
}

static void plan(int64_t batch, int64_t context, int64_t heads, int64_t head_size, bool expected)
{
    struct attention_desc d = {};
    d.batch = batch;
    d.context = context;
    d.heads = heads;
    d.head_size = head_size;
    std::string name = "[" + std::to_string(batch) + ", " + std::to_string(context) + ", " + std::to_string(heads) + ", " +
                       std::to_string(head_size) + "]";
    int64_t forward = workspace_of(attention_graph_forward, &d), backward = workspace_of(attention_graph_backward, &d);
    tell((forward >= 0 && backward >= 0) == expected, name + (expected ? " has plans" : " has none") + ", workspaces " +
                                                          std::to_string(forward) + " and " + std::to_string(backward));
    /* What makes it deterministic: d_scores are in memory, and the gradients of queries a product of their own. */
    if (expected)
        tell(backward >= 2 * batch * heads * context * context, name + " backward keeps the gradients of all scores");
}

int main()
{
    if (!load()) {
        printf("1..0 # SKIP there is no cuDNN %d.%d or later\n", CUDNN_VERSION_LEAST / 10000, CUDNN_VERSION_LEAST / 100 % 100);
        return 0;
    }
    if (!describe(h200())) {
        printf("1..0 # SKIP cuDNN %zu wants a GPU described otherwise\n", calls.cudnnGetVersion());
        return 0;
    }
    printf("# cuDNN %zu\n", calls.cudnnGetVersion());
    plan(32, 1024, 12, 64, true);
    plan(2, 130, 3, 128, true);
    plan(1, 33, 2, 256, true);
    plan(1, 64, 2, 60, false);
    plan(1, 32768, 2, 64, false); /* more workspace than is allowed */
    printf("1..%d\n", tests);
    return failed != 0;
}
