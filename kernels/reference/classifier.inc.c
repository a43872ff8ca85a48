/* Linear layer to the vocabulary and softmax cross-entropy for kernels.inc.c. */

struct classifier {
    struct classifier_desc desc;
    double *logits;     /* [vocabulary], of one row; then their gradients */
    double *d_x;        /* [width] */
    double *d_weight;   /* [vocabulary, width] */
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
    c->logits = calloc((size_t)desc->vocabulary, sizeof(double));
    c->d_x = calloc((size_t)desc->width, sizeof(double));
    c->d_weight = calloc((size_t)(desc->vocabulary * desc->width), sizeof(double));
    if (c->logits == NULL || c->d_x == NULL || c->d_weight == NULL) {
        classifier_destroy(c);
        return FAIL(CAIRN_ENOMEM, "no memory for the classifier's workspace");
    }
    *classifier = c;
    return CAIRN_OK;
}

/* The row's logits; returns the logarithm of the sum of their exponentials. */
static double row_logits(struct classifier *c, const REAL *x, const REAL *weight)
{
    double greatest = -INFINITY, sum = 0;
    for (int64_t v = 0; v < c->desc.vocabulary; v++) {
        c->logits[v] = dot(x, weight + v * c->desc.width, c->desc.width);
        greatest = fmax(greatest, c->logits[v]);
    }
    for (int64_t v = 0; v < c->desc.vocabulary; v++)
        sum += exp(c->logits[v] - greatest);
    return greatest + log(sum);
}

static void classifier_loss(struct classifier *c, void *losses_, const void *x, const void *weight, const int32_t *targets)
{
    REAL *losses = losses_;
    for (int64_t r = 0; r < c->desc.rows; r++) {
        double log_sum = row_logits(c, (const REAL *)x + r * c->desc.width, weight);
        losses[r] = (REAL)(log_sum - c->logits[targets[r]]);
    }
}

/* Adds the row's share to d_weight and sets the row of dx. */
static void row_gradients(struct classifier *c, REAL *dx, const REAL *x, const REAL *weight, double log_sum, int32_t target,
                          double scale)
{
    int64_t width = c->desc.width;
    memset(c->d_x, 0, (size_t)width * sizeof(double));
    for (int64_t v = 0; v < c->desc.vocabulary; v++) {
        double d_logit = scale * (exp(c->logits[v] - log_sum) - (v == target ? 1 : 0));
        for (int64_t i = 0; i < width; i++) {
            c->d_x[i] += d_logit * (double)weight[v * width + i];
            c->d_weight[v * width + i] += d_logit * (double)x[i];
        }
    }
    for (int64_t i = 0; i < width; i++)
        dx[i] = (REAL)c->d_x[i];
}

static void classifier_loss_and_gradients(struct classifier *c, void *losses_, void *dx, void *d_weight_, const void *x,
                                          const void *weight, const int32_t *targets, double scale)
{
    REAL *losses = losses_, *d_weight = d_weight_;
    int64_t width = c->desc.width, size = c->desc.vocabulary * width;
    memset(c->d_weight, 0, (size_t)size * sizeof(double));
    for (int64_t r = 0; r < c->desc.rows; r++) {
        const REAL *row = (const REAL *)x + r * width;
        double log_sum = row_logits(c, row, weight);
        losses[r] = (REAL)(log_sum - c->logits[targets[r]]);
        row_gradients(c, (REAL *)dx + r * width, row, weight, log_sum, targets[r], scale);
    }
    for (int64_t i = 0; i < size; i++)
        d_weight[i] = (REAL)c->d_weight[i];
}
