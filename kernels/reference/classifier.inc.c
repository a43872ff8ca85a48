/* Linear layer to the vocabulary and softmax cross-entropy for kernels.inc.c. */

enum { BLOCK_ROWS = 16 };

struct classifier {
    struct classifier_desc desc;
    double *logits;     /* [BLOCK_ROWS, vocabulary] */
    double *d_x;        /* [width] */
    double *d_weight;   /* [vocabulary, width] */
};

/* Of the logits of one row: backend.h's stats. */
struct row_stats {
    double greatest, sum, target;
};

static void classifier_destroy(struct classifier *c)
{
    if (c == NULL)
        return;
    free(c->logits);
    free(c->d_x);
    free(c->d_weight);
    free(c);
}

static cairn_err classifier_create(struct backend *b, const struct classifier_desc *desc, struct classifier **classifier)
{
    (void)b;
    *classifier = NULL;
    struct classifier *c = calloc(1, sizeof *c);
    if (c == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for the classifier's plan");
    c->desc = *desc;
    c->logits = calloc((size_t)(BLOCK_ROWS * desc->vocabulary), sizeof(double));
    c->d_x = calloc((size_t)desc->width, sizeof(double));
    c->d_weight = calloc((size_t)(desc->vocabulary * desc->width), sizeof(double));
    if (c->logits == NULL || c->d_x == NULL || c->d_weight == NULL) {
        classifier_destroy(c);
        return FAIL(CAIRN_ENOMEM, "no memory for the classifier's workspace");
    }
    *classifier = c;
    return CAIRN_OK;
}

static struct row_stats row_logits(const struct classifier *c, double *logits, const REAL *x, const REAL *weight, int32_t target)
{
    struct row_stats s = {-INFINITY, 0, 0};
    for (int64_t v = 0; v < c->desc.vocabulary; v++) {
        logits[v] = dot(x, weight + v * c->desc.width, c->desc.width);
        s.greatest = fmax(s.greatest, logits[v]);
        if (v == target - c->desc.word_first)
            s.target = logits[v];
    }
    for (int64_t v = 0; v < c->desc.vocabulary; v++)
        s.sum += exp(logits[v] - s.greatest);
    return s;
}

/* Adds the row's share to the workspace's d_weight and sets the row of dx. */
static void row_gradients(struct classifier *c, const double *logits, REAL *dx, const REAL *x, const REAL *weight, double log_sum,
                          int32_t target, double scale)
{
    int64_t width = c->desc.width;
    memset(c->d_x, 0, (size_t)width * sizeof(double));
    for (int64_t v = 0; v < c->desc.vocabulary; v++) {
        double d_logit = scale * (exp(logits[v] - log_sum) - (v == target - c->desc.word_first ? 1 : 0));
        for (int64_t i = 0; i < width; i++) {
            c->d_x[i] += d_logit * (double)weight[v * width + i];
            c->d_weight[v * width + i] += d_logit * (double)x[i];
        }
    }
    for (int64_t i = 0; i < width; i++)
        dx[i] = (REAL)c->d_x[i];
}

static void clear_d_weight(struct classifier *c)
{
    memset(c->d_weight, 0, (size_t)(c->desc.vocabulary * c->desc.width) * sizeof(double));
}

static void round_d_weight(const struct classifier *c, REAL *d_weight)
{
    for (int64_t i = 0; i < c->desc.vocabulary * c->desc.width; i++)
        d_weight[i] = (REAL)c->d_weight[i];
}

static void classifier_loss_and_gradients(struct classifier *c, void *losses_, void *dx, void *d_weight, const void *x,
                                          const void *weight, const int32_t *targets, double scale)
{
    REAL *losses = losses_;
    int64_t width = c->desc.width;
    clear_d_weight(c);
    for (int64_t r = 0; r < c->desc.rows; r++) {
        const REAL *row = (const REAL *)x + r * width;
        struct row_stats s = row_logits(c, c->logits, row, weight, targets[r]);
        double log_sum = s.greatest + log(s.sum);
        losses[r] = (REAL)(log_sum - s.target);
        if (dx != NULL)
            row_gradients(c, c->logits, (REAL *)dx + r * width, row, weight, log_sum, targets[r], scale);
    }
    if (dx != NULL)
        round_d_weight(c, d_weight);
}

static void classifier_loss(struct classifier *c, void *losses, const void *x, const void *weight, const int32_t *targets)
{
    classifier_loss_and_gradients(c, losses, NULL, NULL, x, weight, targets, 0);
}

static int64_t rows_of(const struct classifier *c, int64_t block)
{
    int64_t left = c->desc.rows - block * BLOCK_ROWS;
    return left < BLOCK_ROWS ? left : BLOCK_ROWS;
}

static int64_t classifier_blocks(const struct classifier *c, int64_t *rows)
{
    *rows = BLOCK_ROWS;
    return (c->desc.rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
}

static void classifier_block_logits(struct classifier *c, int64_t block, void *stats_, const void *x, const void *weight,
                                    const int32_t *targets, bool keep)
{
    (void)keep;
    REAL *stats = stats_;
    for (int64_t r = 0; r < rows_of(c, block); r++) {
        int64_t row = block * BLOCK_ROWS + r;
        struct row_stats s = row_logits(c, c->logits + r * c->desc.vocabulary, (const REAL *)x + row * c->desc.width, weight,
                                        targets[row]);
        stats[3 * r] = (REAL)s.greatest;
        stats[3 * r + 1] = (REAL)s.sum;
        stats[3 * r + 2] = (REAL)s.target;
    }
}

static void classifier_join(struct backend *b, void *joined_, const void *stats_, int64_t slices, int64_t rows)
{
    (void)b;
    REAL *joined = joined_;
    const REAL *stats = stats_;
    for (int64_t r = 0; r < rows; r++) {
        double greatest = -INFINITY, sum = 0, target = 0;
        for (int64_t s = 0; s < slices; s++)
            greatest = fmax(greatest, (double)stats[3 * (s * rows + r)]);
        for (int64_t s = 0; s < slices; s++) {
            const REAL *of_slice = stats + 3 * (s * rows + r);
            sum += (double)of_slice[1] * exp((double)of_slice[0] - greatest);
            target += (double)of_slice[2];
        }
        joined[2 * r] = (REAL)(greatest + log(sum));
        joined[2 * r + 1] = (REAL)target;
    }
}

static void classifier_block_finish(struct classifier *c, int64_t block, void *losses_, void *dx, void *d_weight, const void *joined_,
                                    const void *x, const void *weight, const int32_t *targets, double scale)
{
    REAL *losses = losses_;
    const REAL *joined = joined_;
    int64_t width = c->desc.width;
    if (block == 0)
        clear_d_weight(c);
    for (int64_t r = 0; r < rows_of(c, block); r++) {
        int64_t row = block * BLOCK_ROWS + r;
        double log_sum = (double)joined[2 * r];
        losses[row] = (REAL)(log_sum - (double)joined[2 * r + 1]);
        if (dx != NULL)
            row_gradients(c, c->logits + r * c->desc.vocabulary, (REAL *)dx + row * width, (const REAL *)x + row * width, weight,
                          log_sum, targets[row], scale);
    }
    if (dx != NULL)
        round_d_weight(c, d_weight); /* the sum of the blocks so far */
}
