/* What the planner computes with: kinds of GPU, networks, and what is known of the software that trains. Read from YAML files: the one
 * that is installed (share/cairn/hardware.yaml), and one of the site's own, whose entries come after and replace those of the same
 * name. doc/planning.md describes the keys; each entry names its source. */
#ifndef PLAN_HARDWARE_H
#define PLAN_HARDWARE_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "plan/model.h"

enum { HARDWARE_NAME_SIZE = 64 };

/* Generations of fused attention: FlashAttention 1, 2, and 3 or cuDNN's on the H100. */
enum { HARDWARE_FLASHES = 3 };

struct hardware_gpu {
    char name[HARDWARE_NAME_SIZE];
    double memory_gib;           /* what a program can take */
    double memory_gb_s;          /* peak */
    double tflops[PLAN_TYPES];   /* peak of dense products, sums in float32; 0: the GPU has none of this type */
    double processors;           /* streaming multiprocessors */
    double nvlink_gb_s;          /* a GPU's links to its node's others, one direction; 0: none, PCIe instead */
    double pcie_gb_s;            /* one direction */
    double matmul_efficiency;    /* of the peak, that a large product sustains at the clock that power allows */
    double flash_efficiency[HARDWARE_FLASHES]; /* of the peak, that fused attention of each generation sustains, forward and backward,
                                                * heads of 128, long contexts; 0: none of its own, the one before */
    double memory_efficiency;    /* of the peak, that a copy sustains */
    double link_efficiency;      /* of the links' peak, after the protocol, that collectives sustain */
    double kernel_us;            /* from a kernel's end to the next one's work */
    char network[HARDWARE_NAME_SIZE]; /* that nodes of it usually have */
};

struct hardware_network {
    char name[HARDWARE_NAME_SIZE];
    double nic_gbit_s;   /* a NIC, one direction */
    double nics_per_gpu;
    double efficiency;   /* of that, that collectives sustain */
    double latency_us;   /* of a message between two nodes' GPUs */
};

/* Conventions of the software that trains, so that other people's published runs can be planned too. */
struct hardware_software {
    char name[HARDWARE_NAME_SIZE];
    double flash;             /* generation of fused attention; 0: scores are in memory, and kept for the backward pass */
    bool keeps_masks;         /* dropout's masks are kept instead of drawn again, and what only residuals read is not kept */
    bool keeps_copy;          /* a rounded copy of all weights is kept, not of the block at work alone (zero 3) */
    bool keeps_logits;        /* of a microbatch, in the compute type and in float32 */
    double gradient_vectors;  /* of float32, in which several microbatches' are summed; 0: partial sums in one order (mesh/tree.h) */
    bool fused_sums;          /* products of the backward pass add to that sum themselves */
    bool direct_reduce;       /* every rank sends to every owner, for the tree's sake; else rings */
    bool even_stages;         /* stages are cut by blocks alone, not by cost */
    bool recomputes_qkv;      /* recompute attention begins at the norm before it, not at its own products */
    bool scatters_stages;     /* tensor ranks send a stage's result in parts */
    double data_overlap;      /* share of the data group's exchange that may pass under the computation */
    double tensor_overlap;    /* of the tensor group's */
    double pipeline_overlap;  /* of what stages send */
    double optimizer_bytes;   /* read and written a parameter by the update and all around it, in the compute type of 2 bytes */
    double reserved_gib;      /* a GPU's memory that libraries and fragments take */
};

struct hardware;

/* The installed table and FILE (may be NULL). CAIRN_ECONFIG with FILE:LINE:COLUMN for what cannot be read. */
cairn_err hardware_open(const char *file, struct hardware **out);
void hardware_close(struct hardware *hardware);

/* By name, capitals or not. CAIRN_ECONFIG, with the names that there are, if there is none. The table keeps what it returns. */
cairn_err hardware_find_gpu(const struct hardware *hardware, const char *name, const struct hardware_gpu **out);
/* The entry that is named as a GPU's driver names it (DEVICE: "NVIDIA A100-SXM4-80GB"), or else, of those that are named after a word of it
 * ("A100-80"), the one whose memory is nearest to BYTES. */
cairn_err hardware_find_device(const struct hardware *hardware, const char *device, int64_t bytes, const struct hardware_gpu **out);
cairn_err hardware_find_network(const struct hardware *hardware, const char *name, const struct hardware_network **out);
cairn_err hardware_find_software(const struct hardware *hardware, const char *name, const struct hardware_software **out);

/* Which GPUs, on how many nodes, running what. */
struct machine {
    const struct hardware_gpu *gpu;
    const struct hardware_network *network;
    const struct hardware_software *software;
    int nodes, gpus_per_node;
    enum plan_type type;
};

static inline int machine_gpus(const struct machine *m)
{
    return m->nodes * m->gpus_per_node;
}

#endif
