#include "plan/checkpoint_interval.h"

#include <math.h>

double checkpoint_interval_daly(double write, double mtbf)
{
    if (write >= 2 * mtbf)
        return mtbf;
    double part = write / (2 * mtbf);
    return sqrt(2 * write * mtbf) * (1 + sqrt(part) / 3 + part / 9) - write;
}

double checkpoint_interval_loss(double interval, double write, double restart, double mtbf)
{
    double turn = interval + write;
    return write / turn + (restart + turn / 2) / mtbf;
}
