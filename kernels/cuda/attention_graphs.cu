/* The operations, their order and the types between them are those that NVIDIA's cudnn-frontend (1.23,
 * include/cudnn_frontend/node/scaled_dot_product_flash_attention.h) lowers its attention to, as the engines know no others: keys and,
 * backward, values come in transposed; what goes into a product that is not the first is of the inputs' type; the sum of d_out . out is an
 * array in memory. The backward pass is its deterministic one: d_query is the product itself, not a float32 array that is added to. */
#include "kernels/cuda/attention_graphs.h"

#if HAVE_CUDNN

static struct cudnn_shape transposed(const struct cudnn_shape &s)
{
    return {{s.size[0], s.size[1], s.size[3], s.size[2]}, {s.stride[0], s.stride[1], s.stride[3], s.stride[2]}};
}

/* [batch, heads, context, head_size] of an array [batch, context, parts, heads, head_size] */
static struct cudnn_shape vectors_of_parts(const struct attention_desc *d, int64_t parts)
{
    int64_t row = parts * d->heads * d->head_size;
    return {{d->batch, d->heads, d->context, d->head_size}, {d->context * row, d->head_size, row, 1}};
}

/* [batch, heads, rows, columns], dense */
static struct cudnn_shape dense(const struct attention_desc *d, int64_t rows, int64_t columns)
{
    return {{d->batch, d->heads, rows, columns}, {d->heads * rows * columns, rows * columns, columns, 1}};
}

/* y = x MODE b, of x's sizes */
static cudnn_tensor combine(struct cudnn_plan *p, cudnnPointwiseMode_t mode, const struct cudnn_shape &shape, cudnn_tensor x,
                            cudnn_tensor b)
{
    cudnn_tensor y = plan_between(p, CUDNN_DATA_FLOAT, shape);
    plan_pointwise(p, y, {mode, CUDNN_DATA_FLOAT, x, b});
    return y;
}

static cudnn_tensor reduce(struct cudnn_plan *p, cudnnReduceTensorOp_t by, const struct cudnn_shape &shape, cudnn_tensor x)
{
    cudnn_tensor y = plan_between(p, CUDNN_DATA_FLOAT, shape);
    plan_reduction(p, y, by, x);
    return y;
}

static cudnn_tensor product(struct cudnn_plan *p, const struct cudnn_shape &shape, cudnn_tensor a, cudnn_tensor b)
{
    cudnn_tensor c = plan_between(p, CUDNN_DATA_FLOAT, shape);
    plan_matmul(p, c, a, b);
    return c;
}

static cudnn_tensor number_along(struct cudnn_plan *p, const struct cudnn_shape &shape, cudnn_tensor scores, int64_t axis)
{
    cudnn_tensor numbers = plan_between(p, CUDNN_DATA_INT32, shape);
    plan_pointwise(p, numbers, {CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, scores, nullptr, nullptr, axis});
    return numbers;
}

/* A query sees keys up to its own number. */
static cudnn_tensor hide_later_keys(struct cudnn_plan *p, const struct cudnn_shape &shape, cudnn_tensor scores)
{
    cudnn_tensor query = number_along(p, shape, scores, 2), key = number_along(p, shape, scores, 3);
    cudnn_tensor seen = plan_between(p, CUDNN_DATA_BOOLEAN, shape), hidden = plan_scalar(p, SCALAR_HIDDEN);
    plan_pointwise(p, seen, {CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, query, key});
    cudnn_tensor y = plan_between(p, CUDNN_DATA_FLOAT, shape);
    plan_pointwise(p, y, {CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, scores, hidden, seen});
    return y;
}

void attention_graph_forward(struct cudnn_plan *p, const struct attention_desc *d)
{
    struct cudnn_shape vectors = vectors_of_parts(d, 3), keys = transposed(vectors), out = vectors_of_parts(d, 1);
    struct cudnn_shape square = dense(d, d->context, d->context), rows = dense(d, d->context, 1);
    cudnn_tensor query = plan_array(p, ARRAY_QUERY, CUDNN_DATA_BFLOAT16, vectors);
    cudnn_tensor key = plan_array(p, ARRAY_KEY, CUDNN_DATA_BFLOAT16, keys);
    cudnn_tensor value = plan_array(p, ARRAY_VALUE, CUDNN_DATA_BFLOAT16, vectors);
    cudnn_tensor scores = combine(p, CUDNN_POINTWISE_MUL, square, product(p, square, query, key), plan_scalar(p, SCALAR_SCALE));
    scores = hide_later_keys(p, square, scores);
    cudnn_tensor greatest = reduce(p, CUDNN_REDUCE_TENSOR_MAX, rows, scores);
    cudnn_tensor weights = combine(p, CUDNN_POINTWISE_SUB, square, scores, greatest);
    weights = combine(p, CUDNN_POINTWISE_EXP, square, weights, nullptr);
    cudnn_tensor sum = reduce(p, CUDNN_REDUCE_TENSOR_ADD, rows, weights);
    cudnn_tensor log_sum = combine(p, CUDNN_POINTWISE_LOG, rows, sum, nullptr);
    plan_pointwise(p, plan_array(p, ARRAY_LOG_SUM, CUDNN_DATA_FLOAT, rows), {CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, greatest, log_sum});
    cudnn_tensor probabilities = plan_between(p, CUDNN_DATA_BFLOAT16, square);
    plan_pointwise(p, probabilities, {CUDNN_POINTWISE_DIV, CUDNN_DATA_FLOAT, weights, sum});
    plan_matmul(p, plan_array(p, ARRAY_OUT, CUDNN_DATA_BFLOAT16, out), probabilities, value);
}

/* Of the backward pass: what its parts share. */
struct backward {
    struct cudnn_shape square, rows;
    cudnn_tensor query, key, value, d_out, scale;
    cudnn_tensor probabilities; /* not rounded */
};

/* A square of queries by keys, as one of keys by queries that goes into a product. */
static cudnn_tensor by_keys(struct cudnn_plan *p, const struct backward *b, cudnn_tensor square)
{
    struct cudnn_shape turned = transposed(b->square);
    cudnn_tensor y = plan_between(p, CUDNN_DATA_BFLOAT16, turned);
    plan_reshape(p, y, square);
    return y;
}

/* delta[query] = d_out . out */
static cudnn_tensor sum_d_out(struct cudnn_plan *p, const struct attention_desc *d, const struct backward *b,
                              const struct cudnn_shape &out)
{
    cudnn_tensor products = combine(p, CUDNN_POINTWISE_MUL, dense(d, d->context, d->head_size), b->d_out,
                                    plan_array(p, ARRAY_OUT, CUDNN_DATA_BFLOAT16, out));
    cudnn_tensor sums = reduce(p, CUDNN_REDUCE_TENSOR_ADD, b->rows, products);
    cudnn_tensor delta = plan_array(p, ARRAY_DELTA, CUDNN_DATA_FLOAT, b->rows);
    plan_pointwise(p, delta, {CUDNN_POINTWISE_MUL, CUDNN_DATA_FLOAT, sums, plan_scalar(p, SCALAR_ONE)});
    return delta;
}

static cudnn_tensor probabilities_again(struct cudnn_plan *p, const struct backward *b)
{
    cudnn_tensor scores = combine(p, CUDNN_POINTWISE_MUL, b->square, product(p, b->square, b->query, b->key), b->scale);
    cudnn_tensor log_sum = plan_array(p, ARRAY_LOG_SUM, CUDNN_DATA_FLOAT, b->rows);
    scores = hide_later_keys(p, b->square, combine(p, CUDNN_POINTWISE_SUB, b->square, scores, log_sum));
    return combine(p, CUDNN_POINTWISE_EXP, b->square, scores, nullptr);
}

static cudnn_tensor d_scores(struct cudnn_plan *p, const struct backward *b, cudnn_tensor delta)
{
    cudnn_tensor d = product(p, b->square, b->d_out, b->value);
    d = combine(p, CUDNN_POINTWISE_SUB, b->square, d, delta);
    d = combine(p, CUDNN_POINTWISE_MUL, b->square, d, b->probabilities);
    return combine(p, CUDNN_POINTWISE_MUL, b->square, d, b->scale);
}

void attention_graph_backward(struct cudnn_plan *p, const struct attention_desc *d)
{
    struct cudnn_shape vectors = vectors_of_parts(d, 3), turned = transposed(vectors), out = vectors_of_parts(d, 1);
    struct backward b = {};
    b.square = dense(d, d->context, d->context);
    b.rows = dense(d, d->context, 1);
    b.query = plan_array(p, ARRAY_QUERY, CUDNN_DATA_BFLOAT16, vectors);
    b.key = plan_array(p, ARRAY_KEY, CUDNN_DATA_BFLOAT16, turned);
    b.value = plan_array(p, ARRAY_VALUE, CUDNN_DATA_BFLOAT16, turned);
    b.d_out = plan_array(p, ARRAY_D_OUT, CUDNN_DATA_BFLOAT16, out);
    b.scale = plan_scalar(p, SCALAR_SCALE);
    cudnn_tensor delta = sum_d_out(p, d, &b, out);
    b.probabilities = probabilities_again(p, &b);
    plan_matmul(p, plan_array(p, ARRAY_D_VALUE, CUDNN_DATA_BFLOAT16, vectors), by_keys(p, &b, b.probabilities), b.d_out);
    cudnn_tensor d_square = d_scores(p, &b, delta);
    plan_matmul(p, plan_array(p, ARRAY_D_KEY, CUDNN_DATA_BFLOAT16, vectors), by_keys(p, &b, d_square), b.query);
    cudnn_tensor key_rows = plan_between(p, CUDNN_DATA_BFLOAT16, vectors);
    plan_reshape(p, key_rows, b.key);
    plan_matmul(p, plan_array(p, ARRAY_D_QUERY, CUDNN_DATA_BFLOAT16, vectors), d_square, key_rows);
}
#endif
