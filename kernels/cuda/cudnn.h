/* Plans by cuDNN's backend API (NVIDIA's manual, "cuDNN Graph API"): operations on tensors of four dimensions are put together to a
 * graph, for which the library chooses an engine. It is looked for when a plan is first wanted and never linked, so that a machine without
 * it lacks its plans alone; where configure found no header of it, there is nothing here. */
#ifndef CUDA_CUDNN_H
#define CUDA_CUDNN_H

#if HAVE_CUDNN
#include <cudnn.h>

#include <cstdint>

/* The functions that are looked up in the library. */
#define CUDNN_CALLS(CALL)                                                                                                      \
    CALL(cudnnGetVersion)                                                                                                      \
    CALL(cudnnGetErrorString)                                                                                                  \
    CALL(cudnnCreate)                                                                                                          \
    CALL(cudnnDestroy)                                                                                                         \
    CALL(cudnnSetStream)                                                                                                       \
    CALL(cudnnBackendCreateDescriptor)                                                                                         \
    CALL(cudnnBackendDestroyDescriptor)                                                                                        \
    CALL(cudnnBackendSetAttribute)                                                                                             \
    CALL(cudnnBackendGetAttribute)                                                                                             \
    CALL(cudnnBackendFinalize)                                                                                                 \
    CALL(cudnnBackendExecute)

struct cudnn_calls {
#define CUDNN_DECLARE(name) decltype(&::name) name;
    CUDNN_CALLS(CUDNN_DECLARE)
#undef CUDNN_DECLARE
};

/* False where the library is not there, or older than VERSION_LEAST. */
bool cudnn_load(struct cudnn_calls *);
/* 9.10.2: those before do attention wrongly or not at all for some shapes (NVIDIA's cudnn-frontend refuses 9.10.0 and 9.10.1). */
enum { CUDNN_VERSION_LEAST = 91002 };

/* A tensor of a plan that is being put together. */
typedef cudnnBackendDescriptor_t cudnn_tensor;
enum { CUDNN_DIMENSIONS = 4, CUDNN_DESCRIPTORS_MOST = 160, CUDNN_OPERATIONS_MOST = 32 };
struct cudnn_shape {
    int64_t size[CUDNN_DIMENSIONS], stride[CUDNN_DIMENSIONS]; /* in elements */
};

/* Putting a plan together cannot fail: after the library's first refusal nothing is added any more, and plan_finish tells. */
struct cudnn_plan {
    const struct cudnn_calls *call;
    cudnnBackendDescriptor_t made[CUDNN_DESCRIPTORS_MOST]; /* all but PLAN, to be destroyed */
    int made_count;
    cudnnBackendDescriptor_t operations[CUDNN_OPERATIONS_MOST];
    int operation_count;
    cudnnStatus_t refusal;
    cudnnBackendDescriptor_t plan;
    int64_t workspace_bytes;
};

/* An array that a run of the plan is given by its ID, a small number above 0; 16-byte aligned. */
cudnn_tensor plan_array(struct cudnn_plan *, int64_t id, cudnnDataType_t, const struct cudnn_shape &);
/* A float in the processor's memory that a run is given. */
cudnn_tensor plan_scalar(struct cudnn_plan *, int64_t id);
/* What lies between operations, and never in memory. */
cudnn_tensor plan_between(struct cudnn_plan *, cudnnDataType_t, const struct cudnn_shape &);
/* c = a b, in float32 */
void plan_matmul(struct cudnn_plan *, cudnn_tensor c, cudnn_tensor a, cudnn_tensor b);
/* y = MODE of x, b and CONDITION, those that the mode has, computed in TYPE; AXIS: of CUDNN_POINTWISE_GEN_INDEX. */
struct cudnn_pointwise {
    cudnnPointwiseMode_t mode;
    cudnnDataType_t type;
    cudnn_tensor x, b = nullptr, condition = nullptr;
    int64_t axis = 0;
};
void plan_pointwise(struct cudnn_plan *, cudnn_tensor y, const struct cudnn_pointwise &);
/* y = x reduced along the dimensions in which y's size is 1, in float32 */
void plan_reduction(struct cudnn_plan *, cudnn_tensor y, cudnnReduceTensorOp_t, cudnn_tensor x);
/* y is x seen with other sizes and strides, and rounded to y's type. */
void plan_reshape(struct cudnn_plan *, cudnn_tensor y, cudnn_tensor x);

/* The GPU that a plan is for: a handle's, or where that is NULL the one of which a finished descriptor tells the properties. */
struct cudnn_target {
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t properties;
};
/* Takes the first engine of the library's heuristic that does not say that its sums have no order, and wants a workspace of at most so many
 * bytes. False: there is none; what is there is to be destroyed all the same. */
bool plan_finish(struct cudnn_plan *, const struct cudnn_target &, int64_t workspace_most);
/* POINTERS of those IDS. */
cudnnStatus_t plan_run(const struct cudnn_plan *, cudnnHandle_t, int count, const int64_t ids[], void *pointers[], void *workspace);
void plan_destroy(struct cudnn_plan *);

#endif
#endif
