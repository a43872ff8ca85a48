/* The parts, each in a file of its name. */
#ifndef DOCTOR_PARTS_H
#define DOCTOR_PARTS_H

#include "doctor/nvml.h"
#include "doctor/report.h"

/* A GPU that the driver answers for. */
struct gpu {
    unsigned number; /* the driver's, which is by PCI bus */
    nvmlDevice_t device;
    nvmlPciInfo_t pci;
    char name[96], uuid[96];
};

enum { GPUS_MOST = 64 };

/* The fact whose number PROCESS_GPUS_COUNT is how many GPUs this process would use. */
#define PROCESS_GPUS "GPUs of this process"
#define PROCESS_GPUS_COUNT "count"

/* The driver, and what it tells of each GPU. */
void examine_gpus(struct facts *facts, int gpus);

/* What joins the GPUs, one fact for each. */
void examine_links(struct facts *facts, const struct nvml *nvml, const struct gpu *gpus, int count);

/* Which of the COUNT GPUs a process sees where CUDA_VISIBLE_DEVICES is LIST, in its order: numbers, or the beginnings of UUIDs, by commas;
 * the first that fits no GPU, or one that is there already, ends the list. Returns how many; NUMBERS takes COUNT. */
int visible_gpus(const char *list, const struct gpu *gpus, int count, int *numbers);

/* The cuda backend, and the libraries it can do without. */
void examine_cuda(struct facts *facts, int gpus);

/* MPI, HDF5, Slurm. */
void examine_software(struct facts *facts, int gpus);

/* Processor, memory, file systems. */
void examine_machine(struct facts *facts, int gpus);

#endif
