/* Causal attention for kernels.inc.c. */

static double dropout_factor(const struct dropout *, uint64_t element);

struct attention {
    struct attention_desc desc;
    double *probabilities; /* [context], of one query's row */
    double *d_query;       /* [3, context, head_size]: gradients of one head's queries, keys and values */
};

/* One head of one sequence. */
struct head {
    const struct attention_desc *desc;
    int64_t b, h;
};

/* Position of the head's vector at time T; PART is 0 query, 1 key, 2 value. */
static int64_t qkv_at(const struct head *head, int64_t t, int part)
{
    const struct attention_desc *d = head->desc;
    return (((head->b * d->context + t) * 3 + part) * d->heads + head->h) * d->head_size;
}

static int64_t out_at(const struct head *head, int64_t t)
{
    const struct attention_desc *d = head->desc;
    return ((head->b * d->context + t) * d->heads + head->h) * d->head_size;
}

static int64_t log_sum_at(const struct head *head, int64_t t)
{
    const struct attention_desc *d = head->desc;
    return (head->b * d->heads + head->h) * d->context + t;
}

static double probability_factor(const struct head *head, const struct dropout *dropout, int64_t query, int64_t key)
{
    const struct attention_desc *d = head->desc;
    return dropout_factor(dropout, dropout_head(d, head->b * d->heads + head->h) + (uint64_t)(query * d->context + key));
}

static double dot(const REAL *a, const REAL *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static void attention_destroy(struct attention *a)
{
    if (a == NULL)
        return;
    free(a->probabilities);
    free(a->d_query);
    free(a);
}

static cairn_err attention_create(struct backend *b, const struct attention_desc *desc, struct attention **attention)
{
    (void)b;
    *attention = NULL;
    struct attention *a = calloc(1, sizeof *a);
    if (a == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for attention's plan");
    a->desc = *desc;
    a->probabilities = calloc((size_t)desc->context, sizeof(double));
    a->d_query = calloc((size_t)(3 * desc->context * desc->head_size), sizeof(double));
    if (a->probabilities == NULL || a->d_query == NULL) {
        attention_destroy(a);
        return FAIL(CAIRN_ENOMEM, "no memory for attention's workspace");
    }
    *attention = a;
    return CAIRN_OK;
}

/* Scaled scores of QUERY against the keys up to it, into PROBABILITIES; returns the greatest. */
static double scores(struct attention *a, const struct head *head, const REAL *qkv, int64_t query)
{
    double scale = 1 / sqrt((double)a->desc.head_size), greatest = -INFINITY;
    for (int64_t key = 0; key <= query; key++) {
        double s = scale * dot(qkv + qkv_at(head, query, 0), qkv + qkv_at(head, key, 1), a->desc.head_size);
        a->probabilities[key] = s;
        greatest = fmax(greatest, s);
    }
    return greatest;
}

static void head_forward(struct attention *a, const struct head *head, REAL *out, REAL *log_sum, const REAL *qkv,
                         const struct dropout *dropout)
{
    int64_t size = a->desc.head_size;
    for (int64_t query = 0; query < a->desc.context; query++) {
        double greatest = scores(a, head, qkv, query), sum = 0;
        for (int64_t key = 0; key <= query; key++)
            sum += exp(a->probabilities[key] - greatest);
        for (int64_t i = 0; i < size; i++) {
            double o = 0;
            for (int64_t key = 0; key <= query; key++) {
                double p = exp(a->probabilities[key] - greatest) / sum;
                o += p * probability_factor(head, dropout, query, key) * (double)qkv[qkv_at(head, key, 2) + i];
            }
            out[out_at(head, query) + i] = (REAL)o;
        }
        log_sum[log_sum_at(head, query)] = (REAL)(greatest + log(sum));
    }
}

static void attention_forward(struct attention *a, void *out, void *log_sum, const void *qkv, const struct dropout *dropout)
{
    for (int64_t b = 0; b < a->desc.batch; b++)
        for (int64_t h = 0; h < a->desc.heads; h++)
            head_forward(a, &(struct head){&a->desc, b, h}, out, log_sum, qkv, dropout);
}

/* Adds what one query's row gives to the gradients of its head. Uses that the sum over keys of p dp is d_out . out. */
static void query_backward(struct attention *a, const struct head *head, const REAL *d_out, const REAL *out, const REAL *qkv,
                           const REAL *log_sum, const struct dropout *dropout, int64_t query)
{
    int64_t size = a->desc.head_size;
    double *d_query = a->d_query + query * size;
    double scale = 1 / sqrt((double)size);
    double p_dp = dot(d_out + out_at(head, query), out + out_at(head, query), size);
    scores(a, head, qkv, query);
    for (int64_t key = 0; key <= query; key++) {
        double *d_key = a->d_query + (a->desc.context + key) * size, *d_value = d_key + a->desc.context * size;
        double p = exp(a->probabilities[key] - (double)log_sum[log_sum_at(head, query)]);
        double factor = probability_factor(head, dropout, query, key);
        double dp = factor * dot(d_out + out_at(head, query), qkv + qkv_at(head, key, 2), size);
        double ds = scale * p * (dp - p_dp);
        for (int64_t i = 0; i < size; i++) {
            d_query[i] += ds * (double)qkv[qkv_at(head, key, 1) + i];
            d_key[i] += ds * (double)qkv[qkv_at(head, query, 0) + i];
            d_value[i] += p * factor * (double)d_out[out_at(head, query) + i];
        }
    }
}

static void attention_backward(struct attention *a, void *d_qkv_, const void *d_out, const void *out, const void *qkv,
                               const void *log_sum, const struct dropout *dropout)
{
    REAL *d_qkv = d_qkv_;
    int64_t size = a->desc.head_size, context = a->desc.context;
    for (int64_t b = 0; b < a->desc.batch; b++) {
        for (int64_t h = 0; h < a->desc.heads; h++) {
            struct head head = {&a->desc, b, h};
            memset(a->d_query, 0, (size_t)(3 * context * size) * sizeof(double));
            for (int64_t query = 0; query < context; query++)
                query_backward(a, &head, d_out, out, qkv, log_sum, dropout, query);
            for (int part = 0; part < 3; part++)
                for (int64_t t = 0; t < context; t++)
                    for (int64_t i = 0; i < size; i++)
                        d_qkv[qkv_at(&head, t, part) + i] = (REAL)a->d_query[(part * context + t) * size + i];
        }
    }
}
