/* A run's config: YAML read against one table, which gives each key's type, default, range and meaning. */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

/* Names of choices; the enum's values are the indices of the names in the table. */
enum config_device { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA, DEVICE_REFERENCE };
enum config_precision { PRECISION_FLOAT32, PRECISION_BFLOAT16, PRECISION_FLOAT64 };
enum config_float8 { CONFIG_FLOAT8_NONE, CONFIG_FLOAT8_LINEAR };
enum config_on_full { ON_FULL_CONTINUE, ON_FULL_STOP };
enum config_launcher { LAUNCHER_AUTO, LAUNCHER_SRUN, LAUNCHER_MPIEXEC };
enum config_mpi { CONFIG_MPI_PMIX, CONFIG_MPI_PMI2 };
enum config_schedule { CONFIG_GPIPE, CONFIG_1F1B, CONFIG_INTERLEAVED, CONFIG_ZERO_BUBBLE };
enum config_recompute { RECOMPUTE_NONE, RECOMPUTE_ATTENTION, RECOMPUTE_BLOCK };
enum config_algorithms { ALGORITHMS_TIMED, ALGORITHMS_FIRST };
enum config_links { LINKS_AUTO, LINKS_NCCL, LINKS_HOST };
enum config_rounding { ROUNDING_NEAREST, ROUNDING_STOCHASTIC };
enum config_reduce { REDUCE_CANONICAL, REDUCE_FAST };
enum config_sync { SYNC_BULK, SYNC_LOCAL, SYNC_SERVER };
enum config_outer { OUTER_AVERAGE, OUTER_NESTEROV };
enum config_compress { CONFIG_COMPRESS_NONE, CONFIG_COMPRESS_BF16, CONFIG_COMPRESS_TOPK, CONFIG_COMPRESS_POWERSGD };

enum { CONFIG_ENDLESS = INT32_MAX }; /* what "inf" reads as */

/* The merged config. Strings are owned by the struct. */
struct config {
    char *name;     /* of the run; default: the file's name without ending */
    char *run_dir;  /* where everything of the run is written; default runs/NAME */
    int64_t seed;
    int64_t steps;  /* optimizer steps of the whole training */
    int device;     /* enum config_device */
    int precision;  /* enum config_precision */
    int float8;     /* enum config_float8 */
    int64_t threads;/* a rank; 0: the cores it is bound to, divided among the node's ranks if it is not bound */
    char *instruction_set; /* auto, baseline, v3, v4 */
    int algorithms; /* enum config_algorithms */
    bool trace;     /* what each rank does when is written down */

    struct {
        char *path;
        int64_t prefetch; /* microbatches read ahead */
    } data;

    struct {
        int64_t microbatches; /* V: a step's microbatches over all ranks */
        int64_t samples;      /* b: samples of a microbatch */
    } batch;

    struct {
        char *family; /* gpt */
        int64_t layers, width, heads, context;
        int64_t vocabulary; /* 0: the dataset's */
        bool tied;
        double dropout;
        int64_t experts;        /* of each block; 0: none */
        int64_t expert_choices; /* of a row */
        double capacity_factor, balance_loss, router_z_loss;
    } model;

    struct {
        double learning_rate, min_learning_rate;
        int64_t warmup_steps;
        int64_t decay_steps; /* 0: steps */
        double beta1, beta2, epsilon, weight_decay;
        double clip_norm; /* 0: none */
        int rounding;     /* enum config_rounding: of the weights that are computed with */
    } optimizer;

    struct {
        char *automatic;  /* "none", or the keys of this section that the planner chooses, with spaces between them (config_chooses) */
        int64_t memory;   /* MB of a rank, for the planner; 0: what the machine has */
        int64_t data;     /* replicas; 0: what the other axes leave of the ranks */
        int64_t tensor, context, pipeline, expert;
        int64_t chunks;   /* pieces of the model that a pipeline stage holds */
        int schedule;     /* enum config_schedule */
        int64_t zero;     /* sharded over data: 1 optimizer state, 2 and gradients, 3 and parameters */
        bool sequence;    /* what tensor ranks repeat is shared along the sequence */
        int recompute;    /* enum config_recompute */
        int reduce;       /* enum config_reduce */
        int links;        /* enum config_links */
        bool overlap;     /* gradients are exchanged under the backward pass */
        int compress;     /* enum config_compress: what of gradients is sent */
        double compress_ratio;
        int64_t compress_rank;
        int sync;         /* enum config_sync */
        int64_t local_steps; /* that replicas train apart */
        int outer;        /* enum config_outer: what joins them */
        double outer_rate;   /* 0: what is usual for outer */
        double outer_momentum;
        int64_t servers;     /* ranks that hold the parameters and apply the optimizer */
        int64_t staleness;   /* steps that a worker may be ahead of the slowest; CONFIG_ENDLESS: any number */
    } parallel;

    struct {
        int64_t every; /* steps; 0: never */
        int64_t microbatches;
    } validation;

    struct {
        int64_t every; /* steps between progress lines */
    } log;

    struct {
        int64_t every; /* steps; 0: only at the end and on a signal */
        int64_t keep;  /* newest checkpoints kept; 0: all */
        int on_full;   /* enum config_on_full: when the disk is full */
    } checkpoint;

    struct {
        int launcher;           /* enum config_launcher */
        int mpi;                /* enum config_mpi: srun's --mpi */
        int64_t ranks;          /* without Slurm: processes; 0: one. In Slurm: SLURM_NTASKS */
        int64_t min_ranks;      /* fewer are not started */
        int64_t max_restarts;   /* in a row without a newer checkpoint */
        double heartbeat_seconds; /* a rank says it lives this often */
        double start_seconds;     /* ranks may take so long until all are heard */
        double silent_seconds;    /* a rank that says nothing for so long is probed */
        double hang_factor;       /* a step this many times the median is a hang ... */
        double hang_seconds;      /* ... but never before so many seconds */
    } supervise;
};

/* Reads FILE (or, if TEXT is not NULL, TEXT as the contents of FILE), applies the COUNT OVERRIDES ("section.key=value"),
 * checks everything, fills *CONFIG. Fails with CAIRN_ECONFIG (also for a missing file: starting again would not help) and a
 * message such as
 *   gpt.yaml:12:3: unknown key 'model.layer'; did you mean 'model.layers'?
 *   gpt.yaml:14:12: model.width: expected a whole number from 1 to 65536, found 'wide'
 * *CONFIG needs config_free only after success. */
cairn_err config_load(struct config *config, const char *file, const char *text, int count, char *const *overrides);

/* The whole file FILE as a NUL-ended string; the caller frees. "-" is standard input. CAIRN_ECONFIG for a missing file and
 * for one that holds zero bytes or is larger than a config can be. */
cairn_err config_read_file(const char *file, char **text);

void config_free(struct config *config);

/* Whether the planner is to choose parallel.KEY; its value is then what was chosen before, if anything was. KEY may be NULL: any of them. */
bool config_chooses(const struct config *config, const char *key);

/* The merged config as YAML text that config_load reads back to an equal config; the caller frees. NULL: no memory. */
char *config_to_yaml(const struct config *config);

/* The keys of NOW that decide what comes out of a run and differ from BEFORE, as "seed 2 (was 1), model.dropout 0.1 (was 0)"; "" if
 * none does. The caller frees; NULL: no memory. */
char *config_changes(const struct config *before, const struct config *now);

/* The reference of all keys, for `cairn config --help` (plain text) and the manual (roff for man page cairn-config(5)). */
void config_print_reference(FILE *out);
void config_print_roff(FILE *out);

#endif
