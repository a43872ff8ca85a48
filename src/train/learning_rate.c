#include "train/learning_rate.h"

#include <math.h>

double learning_rate_at(const struct config *config, int64_t step)
{
    double peak = config->optimizer.learning_rate, lowest = config->optimizer.min_learning_rate;
    int64_t warmup = config->optimizer.warmup_steps;
    int64_t decay = config->optimizer.decay_steps ? config->optimizer.decay_steps : config->steps;
    if (step < warmup)
        return peak * (double)(step + 1) / (double)warmup;
    if (step >= decay)
        return lowest;
    double part = (double)(step - warmup) / (double)(decay - warmup);
    return lowest + (peak - lowest) * 0.5 * (1 + cos(M_PI * part));
}
