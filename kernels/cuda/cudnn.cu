#include "kernels/cuda/cudnn.h"

#if HAVE_CUDNN
#include <dlfcn.h>

#include <cstdlib>

/* The library that has the backend API, then the one that loads it with all others. */
static const char *const NAMES[] = {"libcudnn_graph.so.9", "libcudnn.so.9"};
/* So many engines are asked for; the library tells the one that it takes for the fastest first. */
enum { ENGINES_MOST = 16 };
enum { FIRST_BETWEEN = 1000 }; /* ids of what plan_between makes */
enum { ALIGNMENT = 16 };

template <typename Function> static bool look_up(void *library, const char *name, Function *function)
{
    *function = reinterpret_cast<Function>(dlsym(library, name));
    return *function != nullptr;
}

bool cudnn_load(struct cudnn_calls *calls)
{
    void *library = nullptr;
    for (const char *name : NAMES)
        if (library == nullptr)
            library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
        return false;
#define LOOK_UP(name)                                                                                                          \
    if (!look_up(library, #name, &calls->name))                                                                                \
        return false;
    CUDNN_CALLS(LOOK_UP)
#undef LOOK_UP
    return calls->cudnnGetVersion() >= CUDNN_VERSION_LEAST;
}

static bool accepted(struct cudnn_plan *p, cudnnStatus_t status)
{
    if (p->refusal == CUDNN_STATUS_SUCCESS)
        p->refusal = status;
    return p->refusal == CUDNN_STATUS_SUCCESS;
}

/* A descriptor that the plan keeps; NULL: refused. */
static cudnnBackendDescriptor_t make(struct cudnn_plan *p, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t made = nullptr;
    if (!accepted(p, p->made_count < CUDNN_DESCRIPTORS_MOST ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND) ||
        !accepted(p, p->call->cudnnBackendCreateDescriptor(type, &made)))
        return nullptr;
    p->made[p->made_count++] = made;
    return made;
}

static void set(struct cudnn_plan *p, cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    if (p->refusal == CUDNN_STATUS_SUCCESS)
        accepted(p, p->call->cudnnBackendSetAttribute(descriptor, name, type, count, values));
}

static void set_descriptor(struct cudnn_plan *p, cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                           cudnnBackendDescriptor_t value)
{
    set(p, descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void set_number(struct cudnn_plan *p, cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name, int64_t value)
{
    set(p, descriptor, name, CUDNN_TYPE_INT64, 1, &value);
}

static void set_data_type(struct cudnn_plan *p, cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                          cudnnDataType_t value)
{
    set(p, descriptor, name, CUDNN_TYPE_DATA_TYPE, 1, &value);
}

static bool finalize(struct cudnn_plan *p, cudnnBackendDescriptor_t descriptor)
{
    return p->refusal == CUDNN_STATUS_SUCCESS && accepted(p, p->call->cudnnBackendFinalize(descriptor));
}

static cudnn_tensor begin_tensor(struct cudnn_plan *p, int64_t id, cudnnDataType_t type, const struct cudnn_shape &shape)
{
    cudnn_tensor tensor = make(p, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set_data_type(p, tensor, CUDNN_ATTR_TENSOR_DATA_TYPE, type);
    set(p, tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, CUDNN_DIMENSIONS, shape.size);
    set(p, tensor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, CUDNN_DIMENSIONS, shape.stride);
    set_number(p, tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
    set_number(p, tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, ALIGNMENT);
    return tensor;
}

cudnn_tensor plan_array(struct cudnn_plan *p, int64_t id, cudnnDataType_t type, const struct cudnn_shape &shape)
{
    cudnn_tensor tensor = begin_tensor(p, id, type, shape);
    finalize(p, tensor);
    return tensor;
}

cudnn_tensor plan_scalar(struct cudnn_plan *p, int64_t id)
{
    static const struct cudnn_shape one = {{1, 1, 1, 1}, {1, 1, 1, 1}};
    static const bool yes = true;
    cudnn_tensor tensor = begin_tensor(p, id, CUDNN_DATA_FLOAT, one);
    set(p, tensor, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
    finalize(p, tensor);
    return tensor;
}

cudnn_tensor plan_between(struct cudnn_plan *p, cudnnDataType_t type, const struct cudnn_shape &shape)
{
    static const bool yes = true;
    cudnn_tensor tensor = begin_tensor(p, FIRST_BETWEEN + p->made_count, type, shape);
    set(p, tensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
    finalize(p, tensor);
    return tensor;
}

static void add_operation(struct cudnn_plan *p, cudnnBackendDescriptor_t operation)
{
    if (!finalize(p, operation) ||
        !accepted(p, p->operation_count < CUDNN_OPERATIONS_MOST ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND))
        return;
    p->operations[p->operation_count++] = operation;
}

void plan_matmul(struct cudnn_plan *p, cudnn_tensor c, cudnn_tensor a, cudnn_tensor b)
{
    cudnnBackendDescriptor_t how = make(p, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set_data_type(p, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
    finalize(p, how);
    cudnnBackendDescriptor_t operation = make(p, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_descriptor(p, operation, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    set_descriptor(p, operation, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    set_descriptor(p, operation, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    set_descriptor(p, operation, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    add_operation(p, operation);
}

void plan_pointwise(struct cudnn_plan *p, cudnn_tensor y, const struct cudnn_pointwise &f)
{
    cudnnBackendDescriptor_t how = make(p, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(p, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &f.mode);
    set_data_type(p, how, CUDNN_ATTR_POINTWISE_MATH_PREC, f.type);
    if (f.mode == CUDNN_POINTWISE_GEN_INDEX)
        set_number(p, how, CUDNN_ATTR_POINTWISE_AXIS, f.axis);
    finalize(p, how);
    cudnnBackendDescriptor_t operation = make(p, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(p, operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_descriptor(p, operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, f.x);
    if (f.b != nullptr)
        set_descriptor(p, operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, f.b);
    if (f.condition != nullptr)
        set_descriptor(p, operation, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, f.condition);
    set_descriptor(p, operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    add_operation(p, operation);
}

void plan_reduction(struct cudnn_plan *p, cudnn_tensor y, cudnnReduceTensorOp_t by, cudnn_tensor x)
{
    cudnnBackendDescriptor_t how = make(p, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set_data_type(p, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    set(p, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &by);
    finalize(p, how);
    cudnnBackendDescriptor_t operation = make(p, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_descriptor(p, operation, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    set_descriptor(p, operation, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_descriptor(p, operation, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    add_operation(p, operation);
}

void plan_reshape(struct cudnn_plan *p, cudnn_tensor y, cudnn_tensor x)
{
    cudnnBackendDescriptor_t operation = make(p, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_descriptor(p, operation, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_descriptor(p, operation, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    add_operation(p, operation);
}

/* What the heuristic has for the plan's operations, unless it has nothing. */
static cudnnBackendDescriptor_t ask_heuristic(struct cudnn_plan *p, const struct cudnn_target &target)
{
    static const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    cudnnBackendDescriptor_t graph = make(p, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(p, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, p->operation_count, p->operations);
    if (target.handle != nullptr)
        set(p, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle);
    finalize(p, graph);
    cudnnBackendDescriptor_t heuristic = make(p, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_descriptor(p, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(p, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (target.handle == nullptr)
        set_descriptor(p, heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, target.properties);
    finalize(p, heuristic);
    return heuristic;
}

/* Whether the engine of CONFIG says nothing against one order of sums. Those that add in place say nothing either (9.19): it is the graph
 * that must leave them no place to. */
static bool is_deterministic(struct cudnn_plan *p, cudnnBackendDescriptor_t config)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t count = 0;
    cudnnBackendDescriptor_t engine = make(p, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    if (engine == nullptr ||
        p->call->cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &engine) !=
            CUDNN_STATUS_SUCCESS ||
        p->call->cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                          CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, notes) != CUDNN_STATUS_SUCCESS)
        return false;
    for (int64_t i = 0; i < count; i++)
        if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)
            return false;
    return true;
}

/* The plan of CONFIG, unless the library cannot make it or it wants too much. */
static bool take_config(struct cudnn_plan *p, cudnnBackendDescriptor_t config, int64_t workspace_most)
{
    int64_t count = 0;
    cudnnBackendDescriptor_t plan = make(p, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    if (plan == nullptr ||
        p->call->cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config) !=
            CUDNN_STATUS_SUCCESS ||
        p->call->cudnnBackendFinalize(plan) != CUDNN_STATUS_SUCCESS ||
        p->call->cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count,
                                          &p->workspace_bytes) != CUDNN_STATUS_SUCCESS ||
        p->workspace_bytes > workspace_most)
        return false;
    p->plan = plan;
    return true;
}

bool plan_finish(struct cudnn_plan *p, const struct cudnn_target &target, int64_t workspace_most)
{
    cudnnBackendDescriptor_t heuristic = ask_heuristic(p, target), configs[ENGINES_MOST];
    for (cudnnBackendDescriptor_t &config : configs)
        config = make(p, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    int64_t count = 0;
    if (p->refusal != CUDNN_STATUS_SUCCESS ||
        !accepted(p, p->call->cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                                       ENGINES_MOST, &count, configs)))
        return false;
    for (int64_t i = 0; i < count && i < ENGINES_MOST; i++)
        if (is_deterministic(p, configs[i]) && take_config(p, configs[i], workspace_most))
            return true;
    return accepted(p, CUDNN_STATUS_NOT_SUPPORTED);
}

cudnnStatus_t plan_run(const struct cudnn_plan *p, cudnnHandle_t handle, int count, const int64_t ids[], void *pointers[], void *workspace)
{
    const struct cudnn_calls *call = p->call;
    cudnnBackendDescriptor_t pack = nullptr;
    cudnnStatus_t status = call->cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (status != CUDNN_STATUS_SUCCESS)
        return status;
    status = call->cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids);
    if (status == CUDNN_STATUS_SUCCESS)
        status = call->cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, pointers);
    if (status == CUDNN_STATUS_SUCCESS)
        status = call->cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (status == CUDNN_STATUS_SUCCESS)
        status = call->cudnnBackendFinalize(pack);
    if (status == CUDNN_STATUS_SUCCESS)
        status = call->cudnnBackendExecute(handle, p->plan, pack);
    call->cudnnBackendDestroyDescriptor(pack);
    return status;
}

void plan_destroy(struct cudnn_plan *p)
{
    while (p->made_count > 0)
        p->call->cudnnBackendDestroyDescriptor(p->made[--p->made_count]);
    p->plan = nullptr;
}
#endif
