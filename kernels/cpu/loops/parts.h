/* The parts that one instruction set's table is put together from. Their names carry the table's. */
#ifndef LOOPS_PARTS_H
#define LOOPS_PARTS_H

#include "kernels/cpu/loops.h"

#define PARTS_JOIN2(a, b) a##_##b
#define PARTS_JOIN(a, b) PARTS_JOIN2(a, b)
#define PART(name) PARTS_JOIN(LOOPS, name)

/* Each fills its members. */
void PART(fill)(struct cpu_loops *); /* all */
void PART(elementwise)(struct cpu_loops *);
void PART(experts)(struct cpu_loops *);
void PART(norm)(struct cpu_loops *);
void PART(pack)(struct cpu_loops *);
void PART(product)(struct cpu_loops *);
void PART(softmax)(struct cpu_loops *);
void PART(update)(struct cpu_loops *);

#endif
