/* Tensors, operations and graphs of the emulated cuDNN, checked, and which graphs its engines take. */
#include "cudnn_private.h"

#include <algorithm>
#include <string>

namespace cudnn_on_cpu {

enum { DIMENSIONS = 4, HEAD_MULTIPLE = 8, HEAD_MOST = 256, ALIGNMENT = 16, TILE = 64, WORKSPACE = 256 };

static long long number(int64_t x)
{
    return static_cast<long long>(x);
}

size_t bytes_of(cudnnDataType_t type)
{
    switch (type) {
    case CUDNN_DATA_HALF:
    case CUDNN_DATA_BFLOAT16: return 2;
    case CUDNN_DATA_DOUBLE:
    case CUDNN_DATA_INT64: return 8;
    case CUDNN_DATA_BOOLEAN: return 1;
    default: return 4;
    }
}

size_t tensor::elements() const
{
    size_t n = 1;
    for (int64_t s : size)
        n *= static_cast<size_t>(s);
    return n;
}

size_t tensor::extent() const
{
    size_t last = 0;
    for (size_t i = 0; i < size.size(); i++)
        last += static_cast<size_t>((size[i] - 1) * stride[i]);
    return last + 1;
}

cudnnStatus_t finalize_tensor(descriptor *d)
{
    tensor &t = d->as_tensor;
    t.id = d->one<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID);
    t.type = d->one<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE);
    t.size = d->all<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS);
    t.stride = d->all<int64_t>(CUDNN_ATTR_TENSOR_STRIDES);
    t.alignment = d->one<int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
    t.between = d->one<bool>(CUDNN_ATTR_TENSOR_IS_VIRTUAL);
    t.by_value = d->one<bool>(CUDNN_ATTR_TENSOR_IS_BY_VALUE);
    if (t.size.size() != DIMENSIONS || t.stride.size() != DIMENSIONS)
        return refuse(CUDNN_STATUS_BAD_PARAM, "tensor %lld has not 4 sizes and strides", number(t.id));
    if (*std::min_element(t.size.begin(), t.size.end()) < 1 || *std::min_element(t.stride.begin(), t.stride.end()) < 1)
        return refuse(CUDNN_STATUS_BAD_PARAM, "tensor %lld has a size or a stride below 1", number(t.id));
    if (t.id < 1 || t.alignment < 1 || (t.alignment & (t.alignment - 1)) != 0 || (t.between && t.by_value))
        return refuse(CUDNN_STATUS_BAD_PARAM, "tensor %lld: its id, its alignment, or it is virtual and by value", number(t.id));
    return CUDNN_STATUS_SUCCESS;
}

/* Makes a tensor an operand; its id, 0: there is none. */
static int64_t take(descriptor *d, cudnnBackendAttributeName_t name)
{
    const descriptor *part = d->part(name);
    if (!part || part->type != CUDNN_BACKEND_TENSOR_DESCRIPTOR)
        return 0;
    d->operands.push_back(part->as_tensor);
    return part->as_tensor.id;
}

static const tensor *operand(const descriptor *d, int64_t id)
{
    for (const tensor &t : d->operands)
        if (t.id == id)
            return &t;
    return nullptr;
}

static cudnnStatus_t take_matmul(descriptor *d)
{
    operation &o = d->as_operation;
    o.kind = MATMUL;
    o.x = take(d, CUDNN_ATTR_OPERATION_MATMUL_ADESC);
    o.b = take(d, CUDNN_ATTR_OPERATION_MATMUL_BDESC);
    o.y = take(d, CUDNN_ATTR_OPERATION_MATMUL_CDESC);
    const tensor *a = operand(d, o.x), *b = operand(d, o.b), *c = operand(d, o.y);
    const descriptor *how = d->part(CUDNN_ATTR_OPERATION_MATMUL_DESC);
    if (!a || !b || !c || !how || how->one<cudnnDataType_t>(CUDNN_ATTR_MATMUL_COMP_TYPE) != CUDNN_DATA_FLOAT)
        return refuse(CUDNN_STATUS_BAD_PARAM, "a product lacks a tensor, or is not computed in float32");
    bool fits = a->size[0] == c->size[0] && a->size[1] == c->size[1] && b->size[0] == c->size[0] && b->size[1] == c->size[1];
    if (!fits || a->size[2] != c->size[2] || a->size[3] != b->size[2] || b->size[3] != c->size[3])
        return refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "a product's shapes do not fit: tensors %lld, %lld, %lld", number(o.x),
                      number(o.b), number(o.y));
    return CUDNN_STATUS_SUCCESS;
}

/* How many inputs there are; 0: the mode is not emulated. */
static int inputs_of(cudnnPointwiseMode_t mode)
{
    switch (mode) {
    case CUDNN_POINTWISE_ADD:
    case CUDNN_POINTWISE_MUL:
    case CUDNN_POINTWISE_DIV:
    case CUDNN_POINTWISE_SUB:
    case CUDNN_POINTWISE_CMP_GT:
    case CUDNN_POINTWISE_CMP_GE: return 2;
    case CUDNN_POINTWISE_EXP:
    case CUDNN_POINTWISE_LOG:
    case CUDNN_POINTWISE_IDENTITY:
    case CUDNN_POINTWISE_GEN_INDEX: return 1;
    case CUDNN_POINTWISE_BINARY_SELECT: return 3;
    }
    return 0;
}

static bool is_comparison(cudnnPointwiseMode_t mode)
{
    return mode == CUDNN_POINTWISE_CMP_GT || mode == CUDNN_POINTWISE_CMP_GE;
}

static bool spreads(const tensor *from, const tensor *to)
{
    for (size_t i = 0; i < DIMENSIONS; i++)
        if (from->size[i] != 1 && from->size[i] != to->size[i])
            return false;
    return true;
}

static cudnnStatus_t check_pointwise_types(const descriptor *d, cudnnDataType_t compute)
{
    const operation &o = d->as_operation;
    const tensor *y = operand(d, o.y), *condition = operand(d, o.condition);
    bool compares = is_comparison(o.mode);
    if ((y->type == CUDNN_DATA_BOOLEAN) != compares || (condition && condition->type != CUDNN_DATA_BOOLEAN) ||
        compute != (compares ? CUDNN_DATA_BOOLEAN : CUDNN_DATA_FLOAT))
        return refuse(CUDNN_STATUS_BAD_PARAM, "a pointwise operation of mode %d is not computed in its type, or gives another", o.mode);
    if (o.mode == CUDNN_POINTWISE_GEN_INDEX && (y->type != CUDNN_DATA_INT32 || o.axis < 0 || o.axis >= DIMENSIONS))
        return refuse(CUDNN_STATUS_BAD_PARAM, "indices are not whole numbers along an axis");
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t take_pointwise(descriptor *d)
{
    operation &o = d->as_operation;
    const descriptor *how = d->part(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    if (!how || how->type != CUDNN_BACKEND_POINTWISE_DESCRIPTOR)
        return refuse(CUDNN_STATUS_BAD_PARAM, "a pointwise operation does not say which");
    o.kind = POINTWISE;
    o.mode = how->one<cudnnPointwiseMode_t>(CUDNN_ATTR_POINTWISE_MODE);
    o.axis = how->has(CUDNN_ATTR_POINTWISE_AXIS) ? how->one<int64_t>(CUDNN_ATTR_POINTWISE_AXIS) : -1;
    o.x = take(d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC);
    o.b = take(d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
    o.condition = take(d, CUDNN_ATTR_OPERATION_POINTWISE_TDESC);
    o.y = take(d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
    int inputs = (o.x != 0) + (o.b != 0) + (o.condition != 0);
    if (inputs_of(o.mode) == 0 || inputs != inputs_of(o.mode) || o.y == 0)
        return refuse(CUDNN_STATUS_BAD_PARAM, "a pointwise operation of mode %d has %d inputs", o.mode, inputs);
    const tensor *y = operand(d, o.y);
    for (const tensor &t : d->operands)
        if (!spreads(&t, y))
            return refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "tensor %lld does not spread to the shape of %lld", number(t.id),
                          number(o.y));
    return check_pointwise_types(d, how->one<cudnnDataType_t>(CUDNN_ATTR_POINTWISE_MATH_PREC));
}

static cudnnStatus_t take_reduction(descriptor *d)
{
    operation &o = d->as_operation;
    const descriptor *how = d->part(CUDNN_ATTR_OPERATION_REDUCTION_DESC);
    o.kind = REDUCTION;
    o.x = take(d, CUDNN_ATTR_OPERATION_REDUCTION_XDESC);
    o.y = take(d, CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
    const tensor *x = operand(d, o.x), *y = operand(d, o.y);
    if (!x || !y || !how || how->one<cudnnDataType_t>(CUDNN_ATTR_REDUCTION_COMP_TYPE) != CUDNN_DATA_FLOAT)
        return refuse(CUDNN_STATUS_BAD_PARAM, "a reduction lacks a tensor, or is not computed in float32");
    o.reduce = how->one<cudnnReduceTensorOp_t>(CUDNN_ATTR_REDUCTION_OPERATOR);
    if (!spreads(y, x) || (o.reduce != CUDNN_REDUCE_TENSOR_ADD && o.reduce != CUDNN_REDUCE_TENSOR_MAX))
        return refuse(CUDNN_STATUS_BAD_PARAM, "a reduction to another shape, or by %d", o.reduce);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t take_reshape(descriptor *d)
{
    operation &o = d->as_operation;
    o.kind = RESHAPE;
    o.x = take(d, CUDNN_ATTR_OPERATION_RESHAPE_XDESC);
    o.y = take(d, CUDNN_ATTR_OPERATION_RESHAPE_YDESC);
    const tensor *x = operand(d, o.x), *y = operand(d, o.y);
    if (!x || !y || x->elements() != y->elements() || x->extent() != y->extent())
        return refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "a reshape to a tensor that is not as large");
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finalize_operation(descriptor *d)
{
    switch (d->type) {
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR: return take_matmul(d);
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR: return take_pointwise(d);
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR: return take_reduction(d);
    default: return take_reshape(d);
    }
}

static bool same(const tensor &a, const tensor &b)
{
    return a.type == b.type && a.size == b.size && a.stride == b.stride && a.alignment == b.alignment && a.between == b.between &&
           a.by_value == b.by_value;
}

/* Adds an operation: what lies between operations is made once, and before it is read. */
static cudnnStatus_t add(graph *g, std::map<int64_t, int> *made, const descriptor *d)
{
    const operation &o = d->as_operation;
    for (const tensor &t : d->operands) {
        auto [at, added] = g->tensors.insert({t.id, t});
        if (!added && !same(at->second, t))
            return refuse(CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES, "two tensors have the id %lld", number(t.id));
        if (t.id != o.y && t.between && (*made)[t.id] == 0)
            return refuse(CUDNN_STATUS_BAD_PARAM, "tensor %lld is read before it is made", number(t.id));
    }
    if ((*made)[o.y]++ > 0 || g->tensors[o.y].by_value)
        return refuse(CUDNN_STATUS_BAD_PARAM, "tensor %lld is made twice, or by value", number(o.y));
    g->operations.push_back(o);
    return CUDNN_STATUS_SUCCESS;
}

static bool is_read(const graph &g, int64_t id)
{
    for (const operation &o : g.operations)
        if (o.x == id || o.b == id || o.condition == id)
            return true;
    return false;
}

cudnnStatus_t finalize_graph(descriptor *d)
{
    auto g = std::make_shared<graph>();
    std::map<int64_t, int> made;
    for (cudnnBackendDescriptor_t p : d->all<cudnnBackendDescriptor_t>(CUDNN_ATTR_OPERATIONGRAPH_OPS)) {
        const descriptor *part = static_cast<const descriptor *>(p);
        if (part->operands.empty())
            return refuse(CUDNN_STATUS_BAD_PARAM, "a graph has a part that is no operation");
        if (cudnnStatus_t status = add(g.get(), &made, part))
            return status;
    }
    for (const auto &[id, t] : g->tensors)
        if (t.between && !is_read(*g, id))
            return refuse(CUDNN_STATUS_BAD_PARAM, "nothing reads tensor %lld, which is nowhere else", number(id));
    d->as_graph = g;
    return CUDNN_STATUS_SUCCESS;
}

/* ---- fused attention ---- */

static char letter_of(const operation &o)
{
    if (o.kind != POINTWISE)
        return o.kind == MATMUL ? 'P' : o.kind == RESHAPE ? 'R' : o.reduce == CUDNN_REDUCE_TENSOR_MAX ? 'G' : 'S';
    switch (o.mode) {
    case CUDNN_POINTWISE_MUL: return '*';
    case CUDNN_POINTWISE_DIV: return '/';
    case CUDNN_POINTWISE_ADD: return '+';
    case CUDNN_POINTWISE_SUB: return '-';
    case CUDNN_POINTWISE_EXP: return 'e';
    case CUDNN_POINTWISE_LOG: return 'l';
    case CUDNN_POINTWISE_IDENTITY: return '=';
    case CUDNN_POINTWISE_CMP_GT:
    case CUDNN_POINTWISE_CMP_GE: return '>';
    case CUDNN_POINTWISE_GEN_INDEX: return 'i';
    case CUDNN_POINTWISE_BINARY_SELECT: return '?';
    }
    return 'x';
}

/* The operations without their order, a letter each. */
static std::string letters_of(const graph &g)
{
    std::string letters;
    for (const operation &o : g.operations)
        letters += letter_of(o);
    std::sort(letters.begin(), letters.end());
    return letters;
}

static std::string sorted(std::string letters)
{
    std::sort(letters.begin(), letters.end());
    return letters;
}

/* An array of rows: one of its last two strides is 1, all others keep rows aligned. */
static bool has_aligned_rows(const tensor &t)
{
    int ones = 0;
    for (size_t i = 0; i < DIMENSIONS; i++) {
        ones += t.stride[i] == 1 && i >= 2;
        if (t.stride[i] != 1 && t.stride[i] * static_cast<int64_t>(bytes_of(t.type)) % ALIGNMENT != 0)
            return false;
    }
    return ones == 1;
}

/* Why the engines do not take the arrays; NULL: they do. */
static const char *unfit(const graph &g, bool backward)
{
    const tensor &query = g.tensors.at(g.operations[0].kind == MATMUL ? g.operations[0].x : g.operations[0].b);
    if (query.size[3] % HEAD_MULTIPLE != 0 || (backward && query.size[3] > HEAD_MOST))
        return "the size of heads";
    for (const auto &[id, t] : g.tensors) {
        if (t.between || t.by_value)
            continue;
        bool statistic = t.type == CUDNN_DATA_FLOAT && t.size[3] == 1;
        if (!statistic && t.type != CUDNN_DATA_BFLOAT16)
            return "an array's type";
        if (t.alignment < ALIGNMENT || (!statistic && !has_aligned_rows(t)))
            return "an array's alignment";
    }
    for (const operation &o : g.operations)
        if (o.kind == MATMUL && !backward && g.tensors.at(o.x).between && g.tensors.at(o.x).type == CUDNN_DATA_FLOAT)
            return "probabilities that are not rounded to the inputs' type before a product";
    return nullptr;
}

std::vector<engine> find_engines(const std::shared_ptr<const graph> &g)
{
    const std::string letters = letters_of(*g);
    bool forward = letters == sorted("P*ii>?G-eSl+/P"), backward = letters == sorted("*S*P*-ii>?eRPP-**RPRP");
    if (!forward && !backward) {
        refuse(CUDNN_STATUS_NOT_SUPPORTED, "no engine knows the operations %s", letters.c_str());
        return {};
    }
    if (const char *why = unfit(*g, backward)) {
        refuse(CUDNN_STATUS_NOT_SUPPORTED, "no engine: %s", why);
        return {};
    }
    int64_t workspace = WORKSPACE;
    for (const auto &[id, t] : g->tensors)
        if (backward && t.between && t.size[2] == t.size[3]) {
            int64_t tiles = (t.size[2] + TILE - 1) / TILE * TILE;
            workspace = WORKSPACE + t.size[0] * t.size[1] * tiles * tiles * static_cast<int64_t>(bytes_of(CUDNN_DATA_BFLOAT16));
        }
    return {{g, true, false, WORKSPACE}, {g, false, true, WORKSPACE}, {g, false, false, workspace}, {g, false, false, 0}};
}

} // namespace cudnn_on_cpu
