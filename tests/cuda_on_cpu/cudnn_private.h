/* What the parts of the emulated cuDNN share. */
#ifndef CUDA_ON_CPU_CUDNN_PRIVATE_H
#define CUDA_ON_CPU_CUDNN_PRIVATE_H

#include "cudnn.h"
#include "for_libraries.h"

#include <map>
#include <memory>
#include <vector>

#pragma GCC visibility push(hidden)
namespace cudnn_on_cpu {

struct tensor {
    int64_t id;
    cudnnDataType_t type;
    std::vector<int64_t> size, stride;
    int64_t alignment;
    bool between, by_value; /* virtual; in the processor's memory */
    size_t elements() const;
    size_t extent() const; /* elements from the first to behind the last */
};

enum operation_kind { MATMUL, POINTWISE, REDUCTION, RESHAPE };

/* y of x, b and condition, by id; 0: there is none. */
struct operation {
    operation_kind kind;
    cudnnPointwiseMode_t mode;
    cudnnReduceTensorOp_t reduce;
    int64_t axis, x, b, condition, y;
};

struct graph {
    std::map<int64_t, tensor> tensors;
    std::vector<operation> operations; /* each behind those whose results it reads */
};

/* One of those that the heuristic finds for a graph. */
struct engine {
    std::shared_ptr<const graph> of;
    bool in_any_order; /* says so, and its results change from run to run */
    bool cannot;       /* turns out to be unable when its plan is made */
    int64_t workspace_bytes;
};

struct attribute {
    cudnnBackendAttributeType_t type;
    int64_t count;
    std::vector<unsigned char> values;
};

struct descriptor {
    cudnnBackendDescriptorType_t type;
    bool finalized = false;
    std::map<cudnnBackendAttributeName_t, attribute> attributes = {};
    tensor as_tensor = {};
    operation as_operation = {};
    std::vector<tensor> operands = {};        /* of an operation */
    std::shared_ptr<const graph> as_graph = {};
    std::vector<engine> engines = {};         /* the heuristic's, or one */

    bool has(cudnnBackendAttributeName_t) const;
    template <typename T> std::vector<T> all(cudnnBackendAttributeName_t name) const
    {
        std::vector<T> values;
        auto found = attributes.find(name);
        if (found != attributes.end())
            values.assign(reinterpret_cast<const T *>(found->second.values.data()),
                          reinterpret_cast<const T *>(found->second.values.data()) + found->second.count);
        return values;
    }
    template <typename T> T one(cudnnBackendAttributeName_t name) const { return has(name) ? all<T>(name)[0] : T(); }
    const descriptor *part(cudnnBackendAttributeName_t name) const;
};

/* Tells standard error why, and returns STATUS. */
cudnnStatus_t refuse(cudnnStatus_t, const char *format, ...) __attribute__((format(printf, 2, 3)));
const struct cuda_on_cpu_for_libraries *cuda();
size_t bytes_of(cudnnDataType_t);

/* ---- cudnn_graph.cc: of descriptors whose attributes are all there ---- */
cudnnStatus_t finalize_tensor(descriptor *);
cudnnStatus_t finalize_operation(descriptor *);
cudnnStatus_t finalize_graph(descriptor *);
/* Those that take the graph, the best first; why there is none goes to standard error. */
std::vector<engine> find_engines(const std::shared_ptr<const graph> &);

/* ---- cudnn_run.cc ---- */
cudnnStatus_t run(const engine &, cudaStream_t, const descriptor *pack);

} // namespace cudnn_on_cpu
#pragma GCC visibility pop

#endif
