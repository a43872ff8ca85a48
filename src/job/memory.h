/* The memory that a node has for its ranks. */
#ifndef JOB_MEMORY_H
#define JOB_MEMORY_H

#include <stdint.h>

/* Bytes that all ranks of this node may take together: what the machine has, or less if its control group or Slurm
 * (SLURM_MEM_PER_NODE, or SLURM_MEM_PER_CPU x SLURM_CPUS_ON_NODE) grants less. 0: not known. */
int64_t memory_of_node(void);

/* Keeps what Slurm grants for memory_of_node of the programs that are started from now on, where Slurm's own variables, which srun takes for
 * options, are removed. */
void memory_pass_on(void);

#endif
