/* A graph's operations one after the other, in loops: what is computed is float64, rounded to each tensor's type. */
#include "cudnn_private.h"

#include "cuda_bf16.h"

#include <cmath>
#include <cstring>

namespace cudnn_on_cpu {

enum { WORKSPACE_ALIGNMENT = 256, NOT_WRITTEN = 0xff };

typedef std::map<int64_t, std::vector<double>> numbers; /* of each tensor, dense */

/* What a run is given, checked. */
struct given {
    std::map<int64_t, unsigned char *> arrays;
    numbers scalars;
    unsigned char *workspace;
};

static double rounded(cudnnDataType_t type, double x)
{
    switch (type) {
    case CUDNN_DATA_BFLOAT16: return static_cast<double>(static_cast<float>(__nv_bfloat16(static_cast<float>(x))));
    case CUDNN_DATA_BOOLEAN: return x != 0;
    case CUDNN_DATA_INT32: return std::trunc(x);
    default: return static_cast<double>(static_cast<float>(x));
    }
}

static double load(cudnnDataType_t type, const unsigned char *p)
{
    float x;
    if (type == CUDNN_DATA_BFLOAT16) {
        __nv_bfloat16 narrow;
        memcpy(&narrow, p, sizeof narrow);
        return static_cast<double>(static_cast<float>(narrow));
    }
    memcpy(&x, p, sizeof x);
    return static_cast<double>(x);
}

static void store(cudnnDataType_t type, unsigned char *p, double value)
{
    float x = static_cast<float>(value);
    __nv_bfloat16 narrow(x);
    if (type == CUDNN_DATA_BFLOAT16)
        memcpy(p, &narrow, sizeof narrow);
    else
        memcpy(p, &x, sizeof x);
}

/* Calls F with each place's number in dense order and its four indices. */
template <typename F> static void each(const tensor &t, F f)
{
    size_t number = 0;
    int64_t i[4];
    for (i[0] = 0; i[0] < t.size[0]; i[0]++)
        for (i[1] = 0; i[1] < t.size[1]; i[1]++)
            for (i[2] = 0; i[2] < t.size[2]; i[2]++)
                for (i[3] = 0; i[3] < t.size[3]; i[3]++)
                    f(number++, i);
}

/* The dense number of a place in T, which is spread along its sizes of 1. */
static size_t place_in(const tensor &t, const int64_t i[4])
{
    int64_t at = 0;
    for (size_t d = 0; d < 4; d++)
        at = at * t.size[d] + (t.size[d] == 1 ? 0 : i[d]);
    return static_cast<size_t>(at);
}

static size_t place_in_memory(const tensor &t, const int64_t i[4])
{
    int64_t at = 0;
    for (size_t d = 0; d < 4; d++)
        at += i[d] * t.stride[d];
    return static_cast<size_t>(at) * bytes_of(t.type);
}

/* One run: values of what was read or made so far. */
class interpreter {
  public:
    interpreter(const engine &e, const given &g) : how(e), of(*e.of), in(g), values(g.scalars) {}

    void carry_out()
    {
        for (const operation &o : of.operations) {
            switch (o.kind) {
            case MATMUL: multiply(o); break;
            case POINTWISE: combine(o); break;
            case REDUCTION: reduce(o); break;
            case RESHAPE: reshape(o); break;
            }
            finish(of.tensors.at(o.y));
        }
    }

  private:
    const engine how;
    const graph &of;
    const given &in;
    numbers values;

    const std::vector<double> &read(int64_t id)
    {
        const tensor &t = of.tensors.at(id);
        std::vector<double> &to = values[id];
        if (to.empty()) {
            to.resize(t.elements());
            const unsigned char *from = in.arrays.at(id);
            each(t, [&](size_t n, const int64_t i[4]) { to[n] = load(t.type, from + place_in_memory(t, i)); });
        }
        return to;
    }

    std::vector<double> &make(int64_t id)
    {
        std::vector<double> &to = values[id];
        to.assign(of.tensors.at(id).elements(), 0.0);
        return to;
    }

    /* Rounds what was made and puts it into its array. One that adds in any order gives other bits each time. */
    void finish(const tensor &t)
    {
        static unsigned times = 0;
        std::vector<double> &made = values[t.id];
        double factor = how.in_any_order ? 1 + 1e-2 * (++times % 11) : 1;
        for (double &x : made)
            x = rounded(t.type, t.between ? x : x * factor);
        if (t.between)
            return;
        unsigned char *to = in.arrays.at(t.id);
        each(t, [&](size_t n, const int64_t i[4]) { store(t.type, to + place_in_memory(t, i), made[n]); });
    }

    void multiply(const operation &o)
    {
        const tensor &a = of.tensors.at(o.x), &b = of.tensors.at(o.b), &c = of.tensors.at(o.y);
        const std::vector<double> &x = read(o.x), &y = read(o.b);
        std::vector<double> &z = make(o.y);
        size_t batches = static_cast<size_t>(c.size[0] * c.size[1]), m = static_cast<size_t>(c.size[2]);
        size_t n = static_cast<size_t>(c.size[3]), k = static_cast<size_t>(a.size[3]);
        (void)b;
        for (size_t i = 0; i < batches * m; i++)
            for (size_t l = 0; l < k; l++)
                for (size_t j = 0; j < n; j++)
                    z[i * n + j] += x[i * k + l] * y[(i / m * k + l) * n + j];
    }

    static double apply(const operation &o, double x, double b, double condition, const int64_t i[4])
    {
        switch (o.mode) {
        case CUDNN_POINTWISE_ADD: return x + b;
        case CUDNN_POINTWISE_MUL: return x * b;
        case CUDNN_POINTWISE_DIV: return x / b;
        case CUDNN_POINTWISE_SUB: return x - b;
        case CUDNN_POINTWISE_EXP: return std::exp(x);
        case CUDNN_POINTWISE_LOG: return std::log(x);
        case CUDNN_POINTWISE_IDENTITY: return x;
        case CUDNN_POINTWISE_CMP_GT: return x > b;
        case CUDNN_POINTWISE_CMP_GE: return x >= b;
        case CUDNN_POINTWISE_GEN_INDEX: return static_cast<double>(i[o.axis]);
        case CUDNN_POINTWISE_BINARY_SELECT: return condition != 0 ? x : b;
        }
        return NAN;
    }

    void combine(const operation &o)
    {
        static const std::vector<double> none;
        const std::vector<double> &x = read(o.x), &b = o.b ? read(o.b) : none, &condition = o.condition ? read(o.condition) : none;
        std::vector<double> &y = make(o.y);
        each(of.tensors.at(o.y), [&](size_t n, const int64_t i[4]) {
            y[n] = apply(o, x[place_in(of.tensors.at(o.x), i)], o.b ? b[place_in(of.tensors.at(o.b), i)] : 0,
                         o.condition ? condition[place_in(of.tensors.at(o.condition), i)] : 0, i);
        });
    }

    void reduce(const operation &o)
    {
        const std::vector<double> &x = read(o.x);
        const tensor &to = of.tensors.at(o.y);
        std::vector<double> &y = make(o.y);
        bool greatest = o.reduce == CUDNN_REDUCE_TENSOR_MAX;
        if (greatest)
            y.assign(y.size(), -INFINITY);
        each(of.tensors.at(o.x), [&](size_t n, const int64_t i[4]) {
            double &sum = y[place_in(to, i)];
            sum = greatest ? std::fmax(sum, x[n]) : sum + x[n];
        });
    }

    /* As if X were in memory as its strides say, seen through Y's. */
    void reshape(const operation &o)
    {
        const tensor &from = of.tensors.at(o.x), &to = of.tensors.at(o.y);
        const std::vector<double> &x = read(o.x);
        std::vector<double> &y = make(o.y), memory(from.extent(), NAN);
        each(from, [&](size_t n, const int64_t i[4]) { memory[place_in_memory(from, i) / bytes_of(from.type)] = x[n]; });
        each(to, [&](size_t n, const int64_t i[4]) { y[n] = memory[place_in_memory(to, i) / bytes_of(to.type)]; });
    }
};

static bool overlap(const unsigned char *a, size_t a_bytes, const unsigned char *b, size_t b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes;
}

static cudnnStatus_t check_array(const engine &e, const tensor &t, unsigned char *p, given *g)
{
    size_t bytes = t.extent() * bytes_of(t.type);
    long long id = static_cast<long long>(t.id);
    if (reinterpret_cast<uintptr_t>(p) % static_cast<size_t>(t.alignment) != 0)
        return refuse(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER, "array %lld is not aligned as was promised", id);
    if (cuda()->device_of_memory(p, bytes) < 0)
        return refuse(CUDNN_STATUS_BAD_PARAM, "array %lld is not all within one allocation of the device's memory", id);
    if (overlap(p, bytes, g->workspace, static_cast<size_t>(e.workspace_bytes)))
        return refuse(CUDNN_STATUS_BAD_PARAM, "array %lld lies in the workspace", id);
    g->arrays[t.id] = p;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t check_workspace(const engine &e, const descriptor *pack, given *g)
{
    g->workspace = static_cast<unsigned char *>(pack->one<void *>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE));
    if (e.workspace_bytes > 0 && (reinterpret_cast<uintptr_t>(g->workspace) % WORKSPACE_ALIGNMENT != 0 ||
                                  cuda()->device_of_memory(g->workspace, static_cast<size_t>(e.workspace_bytes)) < 0))
        return refuse(CUDNN_STATUS_BAD_PARAM, "there is no workspace of %lld bytes", static_cast<long long>(e.workspace_bytes));
    return CUDNN_STATUS_SUCCESS;
}

/* By value: read now. */
static cudnnStatus_t take(const engine &e, const descriptor *pack, given *g)
{
    std::vector<int64_t> ids = pack->all<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    std::vector<void *> pointers = pack->all<void *>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    for (size_t i = 0; i < ids.size(); i++) {
        auto found = e.of->tensors.find(ids[i]);
        if (found == e.of->tensors.end() || found->second.between || !pointers[i])
            return refuse(CUDNN_STATUS_BAD_PARAM, "the graph has no array %lld, or it is NULL", static_cast<long long>(ids[i]));
        const tensor &t = found->second;
        unsigned char *p = static_cast<unsigned char *>(pointers[i]);
        if (!t.by_value) {
            if (cudnnStatus_t status = check_array(e, t, p, g))
                return status;
        } else if (cuda()->device_of_memory(p, 1) >= 0)
            return refuse(CUDNN_STATUS_BAD_PARAM, "scalar %lld is in the device's memory", static_cast<long long>(t.id));
        else
            g->scalars[t.id] = {load(t.type, p)};
    }
    for (const auto &[id, t] : e.of->tensors)
        if (!t.between && g->arrays.count(id) + g->scalars.count(id) == 0)
            return refuse(CUDNN_STATUS_BAD_PARAM, "array %lld is not given", static_cast<long long>(id));
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t run(const engine &e, cudaStream_t stream, const descriptor *pack)
{
    given g = {};
    if (cudnnStatus_t status = check_workspace(e, pack, &g))
        return status;
    if (cudnnStatus_t status = take(e, pack, &g))
        return status;
    cudaError_t error = cuda()->launch(stream, [e, g] {
        memset(g.workspace, NOT_WRITTEN, static_cast<size_t>(e.workspace_bytes));
        interpreter(e, g).carry_out();
    });
    return error == cudaSuccess ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_EXECUTION_FAILED;
}

} // namespace cudnn_on_cpu
