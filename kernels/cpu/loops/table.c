#include "kernels/cpu/loops/parts.h"

void PART(fill)(struct cpu_loops *loops)
{
    PART(elementwise)(loops);
    PART(experts)(loops);
    PART(norm)(loops);
    PART(pack)(loops);
    PART(product)(loops);
    PART(softmax)(loops);
    PART(update)(loops);
}
