/* Layer norm (Ba et al., arXiv 1607.06450) and RMS norm (Zhang and Sennrich, arXiv 1910.07467) for kernels.inc.c. */

static void layer_norm_forward(struct backend *b, void *y_, void *mean_, void *rstd_, const void *x_, const void *gain_,
                               const void *bias_, int64_t rows, int64_t width, double epsilon)
{
    (void)b;
    REAL *y = y_, *mean = mean_, *rstd = rstd_;
    const REAL *x = x_, *gain = gain_, *bias = bias_;
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < width; i++)
            sum += (double)x[r * width + i];
        double m = sum / (double)width;
        for (int64_t i = 0; i < width; i++)
            squares += ((double)x[r * width + i] - m) * ((double)x[r * width + i] - m);
        double s = 1 / sqrt(squares / (double)width + (double)epsilon);
        for (int64_t i = 0; i < width; i++)
            y[r * width + i] = (REAL)(((double)x[r * width + i] - m) * s * (double)gain[i] + (double)bias[i]);
        mean[r] = (REAL)m;
        rstd[r] = (REAL)s;
    }
}

/* With n = (x - mean) rstd and g = dy gain: dx = rstd (g - average(g) - n average(g n)), averages over the row. */
static void layer_norm_backward_input(struct backend *b, void *dx_, const void *dy_, const void *x_, const void *gain_,
                                      const void *mean_, const void *rstd_, int64_t rows, int64_t width, bool add_to_dx)
{
    (void)b;
    REAL *dx = dx_;
    const REAL *dy = dy_, *x = x_, *gain = gain_, *mean = mean_, *rstd = rstd_;
    for (int64_t r = 0; r < rows; r++) {
        double m = (double)mean[r], s = (double)rstd[r];
        double sum_g = 0, sum_gn = 0;
        for (int64_t i = 0; i < width; i++) {
            double g = (double)dy[r * width + i] * (double)gain[i];
            sum_g += g;
            sum_gn += g * ((double)x[r * width + i] - m) * s;
        }
        for (int64_t i = 0; i < width; i++) {
            double g = (double)dy[r * width + i] * (double)gain[i];
            double normal = ((double)x[r * width + i] - m) * s;
            double d = s * (g - sum_g / (double)width - normal * sum_gn / (double)width);
            dx[r * width + i] = (REAL)(add_to_dx ? (double)dx[r * width + i] + d : d);
        }
    }
}

static void layer_norm_backward_weight(struct backend *b, void *d_gain_, void *d_bias_, const void *dy_, const void *x_,
                                       const void *mean_, const void *rstd_, int64_t rows, int64_t width)
{
    (void)b;
    REAL *d_gain = d_gain_, *d_bias = d_bias_;
    const REAL *dy = dy_, *x = x_, *mean = mean_, *rstd = rstd_;
    for (int64_t i = 0; i < width; i++) {
        double sum_gain = 0, sum_bias = 0;
        for (int64_t r = 0; r < rows; r++) {
            double d = (double)dy[r * width + i];
            sum_gain += d * ((double)x[r * width + i] - (double)mean[r]) * (double)rstd[r];
            sum_bias += d;
        }
        d_gain[i] = (REAL)sum_gain;
        d_bias[i] = (REAL)sum_bias;
    }
}

static void rms_norm_forward(struct backend *b, void *y_, void *rstd_, const void *x_, const void *gain_, int64_t rows, int64_t width,
                             double epsilon)
{
    (void)b;
    REAL *y = y_, *rstd = rstd_;
    const REAL *x = x_, *gain = gain_;
    for (int64_t r = 0; r < rows; r++) {
        double squares = 0;
        for (int64_t i = 0; i < width; i++)
            squares += (double)x[r * width + i] * (double)x[r * width + i];
        double s = 1 / sqrt(squares / (double)width + epsilon);
        for (int64_t i = 0; i < width; i++)
            y[r * width + i] = (REAL)((double)x[r * width + i] * s * (double)gain[i]);
        rstd[r] = (REAL)s;
    }
}

/* With n = x rstd and g = dy gain: dx = rstd (g - n average(g n)), the average over the row. */
static void rms_norm_backward_input(struct backend *b, void *dx_, const void *dy_, const void *x_, const void *gain_, const void *rstd_,
                                    int64_t rows, int64_t width, bool add_to_dx)
{
    (void)b;
    REAL *dx = dx_;
    const REAL *dy = dy_, *x = x_, *gain = gain_, *rstd = rstd_;
    for (int64_t r = 0; r < rows; r++) {
        double s = (double)rstd[r], sum_gn = 0;
        for (int64_t i = 0; i < width; i++)
            sum_gn += (double)dy[r * width + i] * (double)gain[i] * (double)x[r * width + i] * s;
        for (int64_t i = 0; i < width; i++) {
            double g = (double)dy[r * width + i] * (double)gain[i];
            double d = s * (g - (double)x[r * width + i] * s * sum_gn / (double)width);
            dx[r * width + i] = (REAL)(add_to_dx ? (double)dx[r * width + i] + d : d);
        }
    }
}

static void rms_norm_backward_weight(struct backend *b, void *d_gain_, const void *dy_, const void *x_, const void *rstd_, int64_t rows,
                                     int64_t width)
{
    (void)b;
    REAL *d_gain = d_gain_;
    const REAL *dy = dy_, *x = x_, *rstd = rstd_;
    for (int64_t i = 0; i < width; i++) {
        double sum = 0;
        for (int64_t r = 0; r < rows; r++)
            sum += (double)dy[r * width + i] * (double)x[r * width + i] * (double)rstd[r];
        d_gain[i] = (REAL)sum;
    }
}
