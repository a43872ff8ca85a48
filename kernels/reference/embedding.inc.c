/* Tokens to vectors for kernels.inc.c. */

static void embedding_forward(struct backend *b, void *y_, const int32_t *tokens, const void *token_table_,
                              const void *position_table_, const struct embedding_desc *d)
{
    (void)b;
    REAL *y = y_;
    const REAL *token_table = token_table_, *position_table = position_table_;
    for (int64_t r = 0; r < d->rows; r++) {
        int64_t row = tokens[r] - d->token_first, column = r % d->context;
        int64_t position = d->positions != NULL ? d->positions[column] : column;
        for (int64_t i = 0; i < d->width; i++) {
            REAL token = row >= 0 && row < d->token_count ? token_table[row * d->width + i] : 0;
            y[r * d->width + i] = token + (position_table != NULL ? position_table[position * d->width + i] : 0);
        }
    }
}

static void position_gradients(REAL *d_position, const REAL *dy, const struct embedding_desc *d)
{
    memset(d_position, 0, (size_t)(d->position_count * d->width) * sizeof *d_position);
    for (int64_t column = 0; column < d->context; column++) {
        int64_t position = d->positions != NULL ? d->positions[column] : column;
        for (int64_t i = 0; i < d->width; i++) {
            double sum = 0;
            for (int64_t r = column; r < d->rows; r += d->context)
                sum += (double)dy[r * d->width + i];
            d_position[position * d->width + i] = (REAL)sum;
        }
    }
}

static void embedding_backward(struct backend *b, void *d_token_, void *d_position, const void *dy_, const int32_t *tokens,
                               const struct embedding_desc *d)
{
    (void)b;
    REAL *d_token = d_token_;
    const REAL *dy = dy_;
    if (d_position != NULL)
        position_gradients(d_position, dy, d);
    for (int64_t v = 0; v < d->token_count; v++) {
        for (int64_t i = 0; i < d->width; i++) {
            double sum = 0;
            bool occurs = false;
            for (int64_t r = 0; r < d->rows; r++) {
                if (tokens[r] == d->token_first + v) {
                    sum += (double)dy[r * d->width + i];
                    occurs = true;
                }
            }
            if (!occurs)
                break;
            d_token[v * d->width + i] += (REAL)sum;
        }
    }
}
