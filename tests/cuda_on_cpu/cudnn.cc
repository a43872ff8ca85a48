/* cuDNN's backend API for fused attention: descriptors are kept and checked, graphs interpreted in plain loops (cudnn_run.cc). Stricter
 * than NVIDIA's: what is refused is told on standard error. */
#include "cudnn_private.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>

using namespace cudnn_on_cpu;

struct cudnnContext {
    int device;
    cudaStream_t stream;
};

namespace cudnn_on_cpu {

static std::recursive_mutex lock; /* held by each call */
static std::set<const descriptor *> descriptors;

static unsigned long long environment(const char *name, unsigned long long otherwise)
{
    const char *value = getenv(name);
    return value && *value ? strtoull(value, nullptr, 10) : otherwise;
}

cudnnStatus_t refuse(cudnnStatus_t status, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fprintf(stderr, "cuda_on_cpu: cudnn: ");
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n");
    va_end(list);
    return status;
}

const struct cuda_on_cpu_for_libraries *cuda()
{
    static const struct cuda_on_cpu_for_libraries *found = cuda_on_cpu_find();
    return found;
}

/* ---- which attributes there are ---- */

enum presence { OPTIONAL, REQUIRED, TOLD }; /* TOLD: by the library, when it is finalized */

struct rule {
    cudnnBackendDescriptorType_t of;
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t least, most;
    presence how;
};

enum { MANY = 1 << 20 };

static const rule rules[] = {
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 1, 8, REQUIRED},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 1, 8, REQUIRED},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, 1, REQUIRED},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, 1, REQUIRED},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_MATMUL_DESCRIPTOR, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, CUDNN_ATTR_OPERATION_MATMUL_BDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, CUDNN_ATTR_OPERATION_MATMUL_CDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, CUDNN_ATTR_OPERATION_MATMUL_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1,
     REQUIRED},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, OPTIONAL},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_REDUCTION_DESCRIPTOR, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_REDUCTION_DESCRIPTOR, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, CUDNN_ATTR_OPERATION_REDUCTION_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, MANY, REQUIRED},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, 1, REQUIRED},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, MANY, TOLD},
    {CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, TOLD},
    {CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, 0, MANY, TOLD},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, REQUIRED},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, 1, TOLD},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 1, MANY, REQUIRED},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 1, MANY, REQUIRED},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, 1, OPTIONAL},
};

static const rule *rule_of(const descriptor *d, cudnnBackendAttributeName_t name)
{
    for (const rule &r : rules)
        if (r.of == d->type && r.name == name)
            return &r;
    return nullptr;
}

static size_t bytes_of(cudnnBackendAttributeType_t type)
{
    switch (type) {
    case CUDNN_TYPE_BOOLEAN: return sizeof(bool);
    case CUDNN_TYPE_INT64: return sizeof(int64_t);
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR: return sizeof(void *);
    default: return sizeof(int32_t); /* enumerations */
    }
}

static descriptor *descriptor_of(cudnnBackendDescriptor_t p)
{
    descriptor *d = static_cast<descriptor *>(p);
    return descriptors.count(d) != 0 ? d : nullptr;
}

bool descriptor::has(cudnnBackendAttributeName_t name) const
{
    return attributes.count(name) != 0;
}

const descriptor *descriptor::part(cudnnBackendAttributeName_t name) const
{
    return has(name) ? descriptor_of(one<cudnnBackendDescriptor_t>(name)) : nullptr;
}

static cudnnStatus_t check_attribute(const descriptor *d, const rule *r, int name, cudnnBackendAttributeType_t type)
{
    if (!r)
        return refuse(CUDNN_STATUS_BAD_PARAM, "a descriptor of type %d has no attribute %d", d->type, name);
    if (r->type != type)
        return refuse(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "attribute %d is of type %d, not %d", name, r->type, type);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t check_parts(const void *values, int64_t count, int name)
{
    for (int64_t i = 0; i < count; i++) {
        const descriptor *part = descriptor_of(static_cast<const cudnnBackendDescriptor_t *>(values)[i]);
        if (!part)
            return refuse(CUDNN_STATUS_BAD_PARAM, "attribute %d is set to what is no descriptor, or none any more", name);
        if (!part->finalized)
            return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "attribute %d is set to a descriptor that is not finalized", name);
    }
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finalize_heuristic(descriptor *d)
{
    const descriptor *of = d->part(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    if (!of || !of->as_graph)
        return refuse(CUDNN_STATUS_BAD_PARAM, "the heuristic has no graph");
    if (d->one<cudnnBackendHeurMode_t>(CUDNN_ATTR_ENGINEHEUR_MODE) != CUDNN_HEUR_MODE_A)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "of the heuristics' modes, A alone is emulated");
    d->engines = find_engines(of->as_graph);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finalize_plan(descriptor *d)
{
    const descriptor *config = d->part(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    if (!config || config->engines.size() != 1)
        return refuse(CUDNN_STATUS_BAD_PARAM, "the plan has no engine");
    d->engines = config->engines;
    return d->engines[0].cannot ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finalize_pack(const descriptor *d)
{
    if (d->all<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS).size() != d->all<void *>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS).size())
        return refuse(CUDNN_STATUS_BAD_PARAM, "a variant pack has not as many pointers as ids");
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finalize(descriptor *d)
{
    for (const rule &r : rules)
        if (r.of == d->type && r.how == REQUIRED && !d->has(r.name))
            return refuse(CUDNN_STATUS_BAD_PARAM, "a descriptor of type %d has no attribute %d", d->type, r.name);
    switch (d->type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR: return finalize_tensor(d);
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR: return finalize_operation(d);
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR: return finalize_graph(d);
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR: return finalize_heuristic(d);
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: return finalize_plan(d);
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR: return finalize_pack(d);
    case CUDNN_BACKEND_ENGINE_DESCRIPTOR:
    case CUDNN_BACKEND_ENGINECFG_DESCRIPTOR: return refuse(CUDNN_STATUS_NOT_SUPPORTED, "engines are the heuristic's alone");
    default: return CUDNN_STATUS_SUCCESS;
    }
}

/* Fills those descriptors of the caller's that VALUES names with an engine each. */
static cudnnStatus_t tell_engines(const descriptor *d, cudnnBackendDescriptorType_t type, int64_t most, int64_t *count, void *values)
{
    *count = static_cast<int64_t>(d->engines.size()) < most ? static_cast<int64_t>(d->engines.size()) : most;
    for (int64_t i = 0; i < *count; i++) {
        descriptor *to = descriptor_of(static_cast<cudnnBackendDescriptor_t *>(values)[i]);
        if (!to || to->type != type)
            return refuse(CUDNN_STATUS_BAD_PARAM, "there is no descriptor for an engine");
        to->engines = {d->engines[static_cast<size_t>(i)]};
        to->finalized = true;
    }
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t tell_notes(const descriptor *d, int64_t most, int64_t *count, void *values)
{
    const cudnnBackendNumericalNote_t notes[] = {CUDNN_NUMERICAL_NOTE_TENSOR_CORE, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC};
    *count = d->engines[0].in_any_order ? 2 : 1;
    if (most < *count)
        return refuse(CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT, "there are %lld notes", static_cast<long long>(*count));
    memcpy(values, notes, static_cast<size_t>(*count) * sizeof notes[0]);
    return CUDNN_STATUS_SUCCESS;
}

} // namespace cudnn_on_cpu

#define CUDNN_ON_CPU_CALL() std::lock_guard<std::recursive_mutex> hold(cudnn_on_cpu::lock)

size_t cudnnGetVersion()
{
    return environment("CUDA_ON_CPU_CUDNN_VERSION", CUDNN_VERSION);
}

const char *cudnnGetErrorString(cudnnStatus_t status)
{
    switch (status) {
    case CUDNN_STATUS_SUCCESS: return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_NOT_INITIALIZED: return "CUDNN_STATUS_NOT_INITIALIZED";
    case CUDNN_STATUS_BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
    case CUDNN_STATUS_EXECUTION_FAILED: return "CUDNN_STATUS_EXECUTION_FAILED";
    default: return "a status of cuDNN's";
    }
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    CUDNN_ON_CPU_CALL();
    int device = -1;
    if (environment("CUDA_ON_CPU_NO_CUDNN", 0) || !cuda() || cuda()->current_device(&device) != cudaSuccess)
        return refuse(CUDNN_STATUS_NOT_INITIALIZED, "it does not work here");
    *handle = new cudnnContext{device, nullptr};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    CUDNN_ON_CPU_CALL();
    if (!handle || cuda()->device_of_stream(stream) != handle->device)
        return refuse(CUDNN_STATUS_BAD_PARAM, "no handle, or a stream of another device");
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *made)
{
    CUDNN_ON_CPU_CALL();
    for (const rule &r : rules)
        if (r.of == type) {
            descriptor *d = new descriptor{type};
            descriptors.insert(d);
            *made = d;
            return CUDNN_STATUS_SUCCESS;
        }
    return refuse(CUDNN_STATUS_NOT_SUPPORTED, "descriptors of type %d are not emulated", type);
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t p)
{
    CUDNN_ON_CPU_CALL();
    descriptor *d = descriptor_of(p);
    if (!d)
        return refuse(CUDNN_STATUS_BAD_PARAM, "what is no descriptor, or none any more, is destroyed");
    descriptors.erase(d);
    delete d;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t p, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                       int64_t count, const void *values)
{
    CUDNN_ON_CPU_CALL();
    descriptor *d = descriptor_of(p);
    if (!d || !values)
        return refuse(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "attribute %d of what is no descriptor, or without values", name);
    if (d->finalized)
        return refuse(CUDNN_STATUS_BAD_PARAM, "attribute %d is set when the descriptor is finalized", name);
    const rule *r = rule_of(d, name);
    if (cudnnStatus_t status = check_attribute(d, r, name, type))
        return status;
    if (r->how == TOLD || count < r->least || count > r->most)
        return refuse(CUDNN_STATUS_BAD_PARAM, "attribute %d is set to %lld values", name, static_cast<long long>(count));
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
        if (cudnnStatus_t status = check_parts(values, count, name))
            return status;
    const unsigned char *from = static_cast<const unsigned char *>(values);
    d->attributes[name] = {type, count, std::vector<unsigned char>(from, from + static_cast<size_t>(count) * bytes_of(type))};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t p, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                       int64_t most, int64_t *count, void *values)
{
    CUDNN_ON_CPU_CALL();
    descriptor *d = descriptor_of(p);
    if (!d || !d->finalized)
        return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "attribute %d is asked for before the descriptor is finalized", name);
    const rule *r = rule_of(d, name);
    if (cudnnStatus_t status = check_attribute(d, r, name, type))
        return status;
    switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: return tell_engines(d, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, most, count, values);
    case CUDNN_ATTR_ENGINECFG_ENGINE: return tell_engines(d, CUDNN_BACKEND_ENGINE_DESCRIPTOR, most, count, values);
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE: return tell_notes(d, most, count, values);
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
        *count = 1;
        *static_cast<int64_t *>(values) = d->engines[0].workspace_bytes;
        return CUDNN_STATUS_SUCCESS;
    default: return refuse(CUDNN_STATUS_NOT_SUPPORTED, "attribute %d is not told", name);
    }
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t p)
{
    CUDNN_ON_CPU_CALL();
    descriptor *d = descriptor_of(p);
    if (!d || d->finalized)
        return refuse(CUDNN_STATUS_BAD_PARAM, "what is no descriptor, or one that is finalized, is to be finalized");
    cudnnStatus_t status = finalize(d);
    d->finalized = status == CUDNN_STATUS_SUCCESS;
    return status;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t p, cudnnBackendDescriptor_t q)
{
    CUDNN_ON_CPU_CALL();
    descriptor *plan = descriptor_of(p), *pack = descriptor_of(q);
    int device = -1;
    if (!handle || !handle->stream || cuda()->current_device(&device) != cudaSuccess || device != handle->device)
        return refuse(CUDNN_STATUS_BAD_PARAM, "no handle, one without a stream, or of another device than the current");
    if (!plan || plan->type != CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR || !plan->finalized || !pack ||
        pack->type != CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR || !pack->finalized)
        return refuse(CUDNN_STATUS_BAD_PARAM, "no plan, or no variant pack");
    if (environment("CUDA_ON_CPU_CUDNN_FAILS", 0))
        return refuse(CUDNN_STATUS_EXECUTION_FAILED, "it fails because CUDA_ON_CPU_CUDNN_FAILS says so");
    return run(plan->engines[0], handle->stream, pack);
}
