/* Causal attention for kernels.inc.c, over whole sequences and by pieces of them. */

static double dropout_factor(const struct dropout *, uint64_t element);

struct attention {
    struct attention_desc desc;
    struct attention_piece whole;
    int64_t columns;       /* the most of queries or keys */
    double *probabilities; /* [columns], of one query's row */
    double *gradients;     /* [3, columns, head_size], of one head's queries, keys and values */
};

/* One head of one sequence: the vectors of its columns and how far apart they are. */
struct head {
    const struct attention_piece *piece;
    int64_t number; /* b * heads + h */
    int64_t queries, keys;
    const REAL *query, *key, *value;
    int64_t query_stride, key_stride, out, out_stride; /* out: of the first vector */
};

/* Where the vectors of a head begin in an array [batch, columns, parts, heads, head_size]. */
static int64_t vectors_at(const struct attention_desc *d, int64_t number, int64_t columns, int parts, int part)
{
    return ((number / d->heads * columns * parts + part) * d->heads + number % d->heads) * d->head_size;
}

/* KV is NULL where keys and values are those of QKV. */
static struct head head_of(const struct attention *a, const struct attention_piece *piece, int64_t number, const REAL *qkv,
                           const REAL *kv)
{
    const struct attention_desc *d = &a->desc;
    int parts = kv != NULL ? 2 : 3;
    struct head h = {.piece = piece, .number = number, .queries = span_columns(&piece->query), .keys = span_columns(&piece->key)};
    kv = kv != NULL ? kv : qkv;
    h.query = qkv + vectors_at(d, number, h.queries, 3, 0);
    h.key = kv + vectors_at(d, number, h.keys, parts, parts - 2);
    h.value = kv + vectors_at(d, number, h.keys, parts, parts - 1);
    h.query_stride = 3 * d->heads * d->head_size;
    h.key_stride = parts * d->heads * d->head_size;
    h.out = vectors_at(d, number, h.queries, 1, 0);
    h.out_stride = d->heads * d->head_size;
    return h;
}

static double probability_factor(const struct attention *a, const struct head *h, const struct dropout *dropout, int64_t query,
                                 int64_t key)
{
    int64_t of_query = span_position(&h->piece->query, query), of_key = span_position(&h->piece->key, key);
    return dropout_factor(dropout, dropout_head(&a->desc, h->number) + (uint64_t)(of_query * a->desc.context + of_key));
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
    free(a->gradients);
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
    a->whole = (struct attention_piece){{1, {{0, desc->context}}}, {1, {{0, desc->context}}}};
    a->columns = desc->columns > 0 ? desc->columns : desc->context;
    a->probabilities = calloc((size_t)a->columns, sizeof(double));
    a->gradients = calloc((size_t)(3 * a->columns * desc->head_size), sizeof(double));
    if (a->probabilities == NULL || a->gradients == NULL) {
        attention_destroy(a);
        return FAIL(CAIRN_ENOMEM, "no memory for attention's workspace");
    }
    *attention = a;
    return CAIRN_OK;
}

static int64_t keys_seen(const struct head *h, int64_t query)
{
    return span_seen(&h->piece->key, span_position(&h->piece->query, query));
}

/* Scaled scores of QUERY against the keys that it sees, into PROBABILITIES; returns the greatest. */
static double scores(struct attention *a, const struct head *h, int64_t query)
{
    double scale = 1 / sqrt((double)a->desc.head_size), greatest = -INFINITY;
    for (int64_t key = 0; key < keys_seen(h, query); key++) {
        double s = scale * dot(h->query + query * h->query_stride, h->key + key * h->key_stride, a->desc.head_size);
        a->probabilities[key] = s;
        greatest = fmax(greatest, s);
    }
    return greatest;
}

/* Element I of the sum over keys of exp(score - GREATEST) / DIVISOR, dropped, times the value. */
static double weighted_values(const struct attention *a, const struct head *h, const struct dropout *dropout, int64_t query,
                              double greatest, double divisor, int64_t i)
{
    double sum = 0;
    for (int64_t key = 0; key < keys_seen(h, query); key++) {
        double p = exp(a->probabilities[key] - greatest) / divisor;
        sum += p * probability_factor(a, h, dropout, query, key) * (double)h->value[key * h->key_stride + i];
    }
    return sum;
}

static double sum_of_weights(const struct attention *a, const struct head *h, int64_t query, double greatest)
{
    double sum = 0;
    for (int64_t key = 0; key < keys_seen(h, query); key++)
        sum += exp(a->probabilities[key] - greatest);
    return sum;
}

static void head_forward(struct attention *a, const struct head *h, REAL *out, REAL *log_sum, const struct dropout *dropout)
{
    for (int64_t query = 0; query < h->queries; query++) {
        double greatest = scores(a, h, query), sum = sum_of_weights(a, h, query, greatest);
        for (int64_t i = 0; i < a->desc.head_size; i++)
            out[h->out + query * h->out_stride + i] = (REAL)weighted_values(a, h, dropout, query, greatest, sum, i);
        log_sum[h->number * h->queries + query] = (REAL)(greatest + log(sum));
    }
}

static void attention_forward(struct attention *a, void *out, void *log_sum, const void *qkv, const struct dropout *dropout)
{
    for (int64_t number = 0; number < a->desc.batch * a->desc.heads; number++) {
        struct head h = head_of(a, &a->whole, number, qkv, NULL);
        head_forward(a, &h, out, log_sum, dropout);
    }
}

/* Adds what one query's row gives to the gradients of its head. Uses that the sum over keys of p dp is d_out . out. */
static void query_backward(struct attention *a, const struct head *h, const REAL *d_out, const REAL *out, const REAL *log_sum,
                           const struct dropout *dropout, int64_t query)
{
    int64_t size = a->desc.head_size, at = h->out + query * h->out_stride;
    double *d_query = a->gradients + query * size;
    double scale = 1 / sqrt((double)size), p_dp = dot(d_out + at, out + at, size);
    scores(a, h, query);
    for (int64_t key = 0; key < keys_seen(h, query); key++) {
        double *d_key = a->gradients + (a->columns + key) * size, *d_value = d_key + a->columns * size;
        double p = exp(a->probabilities[key] - (double)log_sum[h->number * h->queries + query]);
        double factor = probability_factor(a, h, dropout, query, key);
        double dp = factor * dot(d_out + at, h->value + key * h->key_stride, size);
        double ds = scale * p * (dp - p_dp);
        for (int64_t i = 0; i < size; i++) {
            d_query[i] += ds * (double)h->key[key * h->key_stride + i];
            d_key[i] += ds * (double)h->query[query * h->query_stride + i];
            d_value[i] += p * factor * (double)d_out[at + i];
        }
    }
}

/* The workspace's gradients of one head. */
static void head_backward(struct attention *a, const struct head *h, const REAL *d_out, const REAL *out, const REAL *log_sum,
                          const struct dropout *dropout)
{
    memset(a->gradients, 0, (size_t)(3 * a->columns * a->desc.head_size) * sizeof(double));
    for (int64_t query = 0; query < h->queries; query++)
        query_backward(a, h, d_out, out, log_sum, dropout, query);
}

static void attention_backward(struct attention *a, void *d_qkv_, const void *d_out, const void *out, const void *qkv,
                               const void *log_sum, const struct dropout *dropout)
{
    REAL *d_qkv = d_qkv_;
    int64_t size = a->desc.head_size;
    for (int64_t number = 0; number < a->desc.batch * a->desc.heads; number++) {
        struct head h = head_of(a, &a->whole, number, qkv, NULL);
        head_backward(a, &h, d_out, out, log_sum, dropout);
        for (int part = 0; part < 3; part++)
            for (int64_t t = 0; t < h.queries; t++)
                for (int64_t i = 0; i < size; i++)
                    d_qkv[vectors_at(&a->desc, number, h.queries, 3, part) + t * h.query_stride + i] =
                        (REAL)a->gradients[(part * a->columns + t) * size + i];
    }
}

/* ---- by pieces ---- */

static void attention_keys_values(struct attention *a, void *kv, const void *qkv, int64_t columns)
{
    int64_t width = a->desc.heads * a->desc.head_size;
    for (int64_t r = 0; r < a->desc.batch * columns; r++)
        memcpy((REAL *)kv + 2 * r * width, (const REAL *)qkv + (3 * r + 1) * width, (size_t)(2 * width) * sizeof(REAL));
}

static void attention_pieces_begin(struct attention *a, void *running, int64_t columns)
{
    int64_t length = a->desc.head_size + 2;
    for (int64_t i = 0; i < a->desc.batch * a->desc.heads * columns * length; i++)
        ((REAL *)running)[i] = i % length == a->desc.head_size ? -(REAL)INFINITY : 0;
}

/* ROW: the query's running sums. */
static void query_forward(struct attention *a, const struct head *h, REAL *row, const struct dropout *dropout, int64_t query)
{
    int64_t size = a->desc.head_size;
    double before = (double)row[size], greatest = fmax(before, scores(a, h, query)), factor = exp(before - greatest);
    for (int64_t i = 0; i < size; i++)
        row[i] = (REAL)((double)row[i] * factor + weighted_values(a, h, dropout, query, greatest, 1, i));
    row[size] = (REAL)greatest;
    row[size + 1] = (REAL)((double)row[size + 1] * factor + sum_of_weights(a, h, query, greatest));
}

static void attention_piece_forward(struct attention *a, void *running, const void *qkv, const void *kv,
                                    const struct attention_piece *piece, const struct dropout *dropout)
{
    for (int64_t number = 0; number < a->desc.batch * a->desc.heads; number++) {
        struct head h = head_of(a, piece, number, qkv, kv);
        for (int64_t query = 0; query < h.queries; query++)
            if (keys_seen(&h, query) > 0)
                query_forward(a, &h, (REAL *)running + (number * h.queries + query) * (a->desc.head_size + 2), dropout, query);
    }
}

static void attention_pieces_end(struct attention *a, void *out, void *log_sum, const void *running, int64_t columns)
{
    int64_t size = a->desc.head_size;
    for (int64_t number = 0; number < a->desc.batch * a->desc.heads; number++) {
        for (int64_t column = 0; column < columns; column++) {
            const REAL *row = (const REAL *)running + (number * columns + column) * (size + 2);
            REAL *y = (REAL *)out + vectors_at(&a->desc, number, columns, 1, 0) + column * a->desc.heads * size;
            for (int64_t i = 0; i < size; i++)
                y[i] = row[i] / row[size + 1];
            ((REAL *)log_sum)[number * columns + column] = (REAL)((double)row[size] + log((double)row[size + 1]));
        }
    }
}

static void attention_pieces_backward_begin(struct attention *a, void *d_query, void *d_kv, int64_t columns)
{
    size_t bytes = (size_t)(a->desc.batch * columns * a->desc.heads * a->desc.head_size) * sizeof(REAL);
    memset(d_query, 0, bytes);
    memset(d_kv, 0, 2 * bytes);
}

/* Adds PART of the workspace's gradients to COLUMNS vectors at SUM, STRIDE apart. */
static void add_gradients(const struct attention *a, REAL *sum, int64_t stride, int part, int64_t columns)
{
    int64_t size = a->desc.head_size;
    for (int64_t t = 0; t < columns; t++)
        for (int64_t i = 0; i < size; i++)
            sum[t * stride + i] += (REAL)a->gradients[(part * a->columns + t) * size + i];
}

static void attention_piece_backward(struct attention *a, void *d_query, void *d_kv, const void *d_out, const void *out,
                                     const void *qkv, const void *kv, const void *log_sum, const struct attention_piece *piece,
                                     const struct dropout *dropout)
{
    for (int64_t number = 0; number < a->desc.batch * a->desc.heads; number++) {
        struct head h = head_of(a, piece, number, qkv, kv);
        head_backward(a, &h, d_out, out, log_sum, dropout);
        add_gradients(a, (REAL *)d_query + h.out, h.out_stride, 0, h.queries);
        for (int part = 0; part < 2; part++)
            add_gradients(a, (REAL *)d_kv + vectors_at(&a->desc, number, h.keys, 2, part), h.key_stride, 1 + part, h.keys);
    }
}

static void attention_pieces_backward_end(struct attention *a, void *d_qkv, const void *d_query, const void *d_kv, int64_t columns)
{
    int64_t width = a->desc.heads * a->desc.head_size;
    for (int64_t r = 0; r < a->desc.batch * columns; r++) {
        REAL *row = (REAL *)d_qkv + 3 * r * width;
        memcpy(row, (const REAL *)d_query + r * width, (size_t)width * sizeof(REAL));
        memcpy(row + width, (const REAL *)d_kv + 2 * r * width, (size_t)(2 * width) * sizeof(REAL));
    }
}
