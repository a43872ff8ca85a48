/* Mixture of experts for kernels.inc.c. */

struct router {
    struct router_desc desc;
    double *logits;        /* [experts], of one row; then their gradients */
    double *probabilities; /* [experts]: sums over rows */
};

static void router_destroy(struct router *router)
{
    if (router == NULL)
        return;
    free(router->logits);
    free(router->probabilities);
    free(router);
}

static cairn_err router_create(struct backend *b, const struct router_desc *desc, struct router **out)
{
    (void)b;
    *out = NULL;
    struct router *router = calloc(1, sizeof *router);
    if (router == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for a router's plan");
    router->desc = *desc;
    router->logits = calloc((size_t)desc->experts, sizeof(double));
    router->probabilities = calloc((size_t)desc->experts, sizeof(double));
    if (router->logits == NULL || router->probabilities == NULL) {
        router_destroy(router);
        return FAIL(CAIRN_ENOMEM, "no memory for a router's workspace");
    }
    *out = router;
    return CAIRN_OK;
}

/* Whether expert A comes before B among a row's choices; a NaN comes last, so that each row has all its choices. */
static bool chosen_before(const double *logits, int64_t a, int64_t b)
{
    double x = isnan(logits[a]) ? -INFINITY : logits[a], y = isnan(logits[b]) ? -INFINITY : logits[b];
    return x > y || (x == y && a < b);
}

static void choose(const struct router *router, int32_t *chosen)
{
    for (int64_t c = 0; c < router->desc.choices; c++) {
        int64_t best = -1;
        for (int64_t e = 0; e < router->desc.experts; e++) {
            bool left = c == 0 || chosen_before(router->logits, chosen[c - 1], e);
            if (left && (best < 0 || chosen_before(router->logits, e, best)))
                best = e;
        }
        chosen[c] = (int32_t)best;
    }
}

static void route_row(struct router *router, const struct routing *routing, const REAL *x, const REAL *weight, int64_t r)
{
    const struct router_desc *d = &router->desc;
    int32_t *chosen = routing->expert + r * d->choices;
    REAL *gate = (REAL *)routing->gate + r * d->choices, *probability = (REAL *)routing->probability + r * d->experts;
    double greatest = -INFINITY, sum = 0, chosen_sum = 0;
    for (int64_t e = 0; e < d->experts; e++) {
        router->logits[e] = dot(x + r * d->width, weight + e * d->width, d->width);
        greatest = fmax(greatest, router->logits[e]);
    }
    for (int64_t e = 0; e < d->experts; e++)
        sum += exp(router->logits[e] - greatest);
    for (int64_t e = 0; e < d->experts; e++) {
        double p = exp(router->logits[e] - greatest) / sum;
        router->probabilities[e] += p;
        probability[e] = (REAL)p;
    }
    ((REAL *)routing->log_sum)[r] = (REAL)(greatest + log(sum));
    choose(router, chosen);
    for (int64_t c = 0; c < d->choices; c++)
        chosen_sum += exp(router->logits[chosen[c]] - greatest);
    for (int64_t c = 0; c < d->choices; c++)
        gate[c] = (REAL)(exp(router->logits[chosen[c]] - greatest) / (d->choices > 1 ? chosen_sum : sum));
}

static void router_forward(struct router *router, const struct routing *routing, const void *x, const void *weight)
{
    memset(router->probabilities, 0, (size_t)router->desc.experts * sizeof(double));
    for (int64_t r = 0; r < router->desc.rows; r++)
        route_row(router, routing, x, weight, r);
}

static void router_place(struct router *router, const struct routing *routing, const int32_t *most)
{
    const struct router_desc *d = &router->desc;
    const REAL *log_sum = routing->log_sum;
    double balance = 0, z = 0, rows = (double)router_rows_all(d);
    routing_place(d, routing, most);
    for (int64_t e = 0; e < d->experts; e++)
        balance += (double)routing->load[e] / (rows * (double)d->choices) * (router->probabilities[e] / rows);
    for (int64_t r = 0; r < d->rows; r++)
        z += (double)log_sum[r] * (double)log_sum[r];
    ((REAL *)routing->losses)[0] = (REAL)((double)d->experts * balance);
    ((REAL *)routing->losses)[1] = (REAL)(z / rows);
}

/* Gradients of one row's probabilities, by the gates and the balance, into logits; then of its logits. */
static void row_logits_backward(struct router *router, const struct routing *routing, const REAL *d_gate,
                                const struct router_scales *scales, int64_t r)
{
    const struct router_desc *d = &router->desc;
    const int32_t *chosen = routing->expert + r * d->choices;
    const REAL *gate = (const REAL *)routing->gate + r * d->choices, *p = (const REAL *)routing->probability + r * d->experts;
    double rows = (double)router_rows_all(d), chosen_sum = 0, average_gate = 0, average = 0;
    double d_log_sum = scales->z * 2 * (double)((const REAL *)routing->log_sum)[r] / rows;
    for (int64_t e = 0; e < d->experts; e++)
        router->logits[e] = scales->balance * (double)d->experts * (double)routing->load[e] / (rows * (double)d->choices) / rows;
    for (int64_t c = 0; c < d->choices; c++) {
        chosen_sum += (double)p[chosen[c]];
        average_gate += (double)gate[c] * (double)d_gate[c];
    }
    for (int64_t c = 0; c < d->choices; c++)
        router->logits[chosen[c]] += d->choices > 1 ? ((double)d_gate[c] - average_gate) / chosen_sum : (double)d_gate[c];
    for (int64_t e = 0; e < d->experts; e++)
        average += (double)p[e] * router->logits[e];
    for (int64_t e = 0; e < d->experts; e++)
        router->logits[e] = (double)p[e] * (router->logits[e] - average + d_log_sum);
}

static void router_backward_input(struct router *router, void *d_logits_, void *dx_, const void *d_gate,
                                  const struct routing *routing, const void *weight_, const struct router_scales *scales,
                                  bool add_to_dx)
{
    const struct router_desc *d = &router->desc;
    REAL *d_logits = d_logits_, *dx = dx_;
    const REAL *weight = weight_;
    for (int64_t r = 0; r < d->rows; r++) {
        row_logits_backward(router, routing, (const REAL *)d_gate + r * d->choices, scales, r);
        for (int64_t e = 0; e < d->experts; e++)
            d_logits[r * d->experts + e] = (REAL)router->logits[e];
        for (int64_t i = 0; dx != NULL && i < d->width; i++) {
            double sum = add_to_dx ? (double)dx[r * d->width + i] : 0;
            for (int64_t e = 0; e < d->experts; e++)
                sum += router->logits[e] * (double)weight[e * d->width + i];
            dx[r * d->width + i] = (REAL)sum;
        }
    }
}

static void router_backward_weight(struct router *router, void *d_weight_, const void *d_logits_, const void *x_)
{
    const struct router_desc *d = &router->desc;
    REAL *d_weight = d_weight_;
    const REAL *d_logits = d_logits_, *x = x_;
    for (int64_t e = 0; e < d->experts; e++) {
        for (int64_t i = 0; i < d->width; i++) {
            double sum = 0;
            for (int64_t r = 0; r < d->rows; r++)
                sum += (double)d_logits[r * d->experts + e] * (double)x[r * d->width + i];
            d_weight[e * d->width + i] = (REAL)sum;
        }
    }
}

/* Zeros in the packed rows that no choice has. */
static void clear_rest(const struct router_desc *d, const struct routing *routing, REAL *packed)
{
    for (int64_t e = 0; e < d->experts; e++) {
        int64_t taken = routing->taken[e];
        memset(packed + (e * d->capacity + taken) * d->width, 0, (size_t)((d->capacity - taken) * d->width) * sizeof *packed);
    }
}

static void dispatch(struct router *router, void *packed, const void *x, const struct routing *routing)
{
    const struct router_desc *d = &router->desc;
    for (int64_t i = 0; i < d->rows * d->choices; i++)
        if (routing->place[i] >= 0)
            memcpy((REAL *)packed + routing->place[i] * d->width, (const REAL *)x + i / d->choices * d->width,
                   (size_t)d->width * sizeof(REAL));
    clear_rest(d, routing, packed);
}

/* y (+)= sum over a row's choices of gate * packed row; GATE NULL: of the packed rows. */
static void sum_choices(const struct router_desc *d, REAL *y, const REAL *packed, const REAL *gate, const int32_t *place, bool add_to_y)
{
    for (int64_t r = 0; r < d->rows; r++) {
        for (int64_t i = 0; i < d->width; i++) {
            double sum = add_to_y ? (double)y[r * d->width + i] : 0;
            for (int64_t c = r * d->choices; c < (r + 1) * d->choices; c++)
                if (place[c] >= 0)
                    sum += (gate != NULL ? (double)gate[c] : 1) * (double)packed[place[c] * d->width + i];
            y[r * d->width + i] = (REAL)sum;
        }
    }
}

static void dispatch_backward(struct router *router, void *dx, const void *d_packed, const struct routing *routing, bool add_to_dx)
{
    sum_choices(&router->desc, dx, d_packed, NULL, routing->place, add_to_dx);
}

static void combine(struct router *router, void *y, const void *packed, const struct routing *routing)
{
    sum_choices(&router->desc, y, packed, routing->gate, routing->place, false);
}

static void combine_backward(struct router *router, void *d_packed_, void *d_gate_, const void *dy_, const void *packed_,
                             const struct routing *routing)
{
    const struct router_desc *d = &router->desc;
    REAL *d_packed = d_packed_, *d_gate = d_gate_;
    const REAL *dy = dy_, *packed = packed_, *gate = routing->gate;
    for (int64_t c = 0; c < d->rows * d->choices; c++) {
        const REAL *row = dy + c / d->choices * d->width;
        d_gate[c] = 0;
        if (routing->place[c] < 0)
            continue;
        int64_t at = routing->place[c] * d->width;
        d_gate[c] = (REAL)dot(row, packed + at, d->width);
        for (int64_t i = 0; i < d->width; i++)
            d_packed[at + i] = (REAL)((double)gate[c] * (double)row[i]);
    }
    clear_rest(d, routing, d_packed);
}
