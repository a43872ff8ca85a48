#include "base/config_table.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const devices[] = {"auto", "cpu", "cuda", "reference", NULL};
static const char *const precisions[] = {"float32", "bfloat16", "float64", NULL};
static const char *const float8s[] = {"none", "linear", NULL};
static const char *const instruction_sets[] = {"auto", "baseline", "v3", "v4", NULL};
static const char *const families[] = {"gpt", NULL};
static const char *const full_choices[] = {"continue", "stop", NULL};
static const char *const launchers[] = {"auto", "srun", "mpiexec", NULL};
static const char *const mpis[] = {"pmix", "pmi2", NULL};
static const char *const schedules[] = {"gpipe", "1f1b", "interleaved", "zero-bubble", NULL};
static const char *const recomputes[] = {"none", "attention", "block", NULL};
static const char *const reduces[] = {"canonical", "fast", NULL};
static const char *const algorithms[] = {"timed", "first", NULL};
static const char *const links[] = {"auto", "nccl", "host", NULL};
static const char *const syncs[] = {"bulk", "local", "server", NULL};
static const char *const outers[] = {"average", "nesterov", NULL};
static const char *const roundings[] = {"nearest", "stochastic", NULL};
static const char *const compressions[] = {"none", "bf16", "topk", "powersgd", NULL};

/* Counts that no memory could hold are typing errors; these bounds say so before an allocation does. */
enum { MILLION = 1000000, WIDTH_MOST = 65536, LAYERS_MOST = 4096, RANKS_MOST = 1048576 };

#define FIELD(section_, name_) .section = #section_, .name = #name_, .offset = offsetof(struct config, section_.name_)
#define TOP(name_) .section = "", .name = #name_, .offset = offsetof(struct config, name_)
#define INT(standard_, least_, most_) .kind = CONFIG_INT, .standard = standard_, .least = least_, .most = most_
#define REAL(standard_, low_, high_) .kind = CONFIG_REAL, .standard = standard_, .low = low_, .high = high_
#define CHOICE(standard_, choices_) .kind = CONFIG_CHOICE, .standard = standard_, .choices = choices_

const struct config_section config_sections[] = {
    {"", "the run"},
    {"data", "what is trained on"},
    {"batch", "what a step is made of; belongs to the experiment, whatever the number of ranks"},
    {"model", "what is trained"},
    {"optimizer", "AdamW with warm-up and cosine decay"},
    {"parallel", "how the ranks share the work; a checkpoint goes on under any other layout; auto: the planner chooses"},
    {"validation", "loss on data that is not trained on"},
    {"log", "progress lines and metrics.jsonl"},
    {"checkpoint", "what a restart begins from"},
    {"supervise", "how cairn run starts, watches and restarts the ranks"},
};

const struct config_key config_keys[] = {
    {TOP(name), .kind = CONFIG_STRING, .help = "the run's name: letters, digits, '.', '_', '-'; default: the config file's name without its ending"},
    {TOP(run_dir), .kind = CONFIG_STRING, .help = "folder for everything the run writes; default: runs/NAME"},
    {TOP(seed), INT("1", 0, INT64_MAX), .help = "seed of initial weights, dropout and the order of samples"},
    {TOP(steps), INT("1000", 1, INT64_MAX / 2), .help = "optimizer steps of the whole training"},
    {TOP(device), CHOICE("auto", devices), .help = "what computes; cuda: NVIDIA's GPUs, one for each rank if there are as many; auto: those where every rank has its own, else cpu, and what its checkpoint was made on; reference: plain loops, for tests"},
    {TOP(precision), CHOICE("float32", precisions), .help = "of activations and matrix products; master weights are float32 or wider"},
    {TOP(float8), CHOICE("none", float8s), .help = "linear: linear layers multiply in 8 bits, each array scaled by its greatest value: E4M3, gradients E5M2; needs precision bfloat16 and GPUs of compute capability 9.0 or later"},
    {TOP(threads), INT("0", 0, 4096), .help = "threads of a rank; 0: as many as its checkpoint was made with, at first the fewest that any rank is bound to or has as its share of its node"},
    {TOP(instruction_set), .kind = CONFIG_STRING, .standard = "auto", .choices = instruction_sets,
     .help = "highest x86-64 level the CPU kernels and their products use"},
    {TOP(algorithms), CHOICE("timed", algorithms), .help = "of matrix products on GPUs, which differ in the last bits; timed: the fastest, found by trying once for each GPU model and kept in products.json of run_dir and in ~/.cache/cairn; first: the library's own first choice"},
    {TOP(trace), .kind = CONFIG_BOOL, .standard = "false", .help = "write what each rank and its GPU do when to trace.json in run_dir, for chrome://tracing and ui.perfetto.dev"},

    {FIELD(data, path), .kind = CONFIG_STRING, .help = "dataset file made by cairn data import; must be given"},
    {FIELD(data, prefetch), INT("4", 1, 4096), .help = "microbatches read ahead by each rank"},

    {FIELD(batch, microbatches), INT("8", 1, RANKS_MOST), .help = "microbatches of a step over all ranks; at most so many ranks can work"},
    {FIELD(batch, samples), INT("4", 1, MILLION), .help = "samples of a microbatch"},

    {FIELD(model, family), .kind = CONFIG_STRING, .standard = "gpt", .choices = families, .help = "kind of model"},
    {FIELD(model, layers), INT("4", 1, LAYERS_MOST), .help = "transformer blocks"},
    {FIELD(model, width), INT("256", 1, WIDTH_MOST), .help = "numbers in a token's vector"},
    {FIELD(model, heads), INT("4", 1, WIDTH_MOST), .help = "attention heads; must divide model.width"},
    {FIELD(model, context), INT("128", 1, MILLION), .help = "tokens of a sample"},
    {FIELD(model, vocabulary), INT("0", 0, 16 * MILLION), .help = "different tokens; 0: the dataset's"},
    {FIELD(model, tied), .kind = CONFIG_BOOL, .standard = "true", .help = "output weights are the token embedding"},
    {FIELD(model, dropout), REAL("0", 0, 1), .open_high = true, .help = "share of activations set to zero in training"},

    {FIELD(model, experts), INT("0", 0, RANKS_MOST), .help = "experts in each block, in the place of its MLP; 0: none"},
    {FIELD(model, expert_choices), INT("2", 1, RANKS_MOST), .help = "experts that work on a token; at most model.experts"},
    {FIELD(model, capacity_factor), REAL("1.25", 0, MILLION), .open_low = true, .help = "tokens of a microbatch that an expert takes, as a multiple of an even share; the others pass by"},
    {FIELD(model, balance_loss), REAL("0.01", 0, 1000), .help = "coefficient of the loss that makes the router use all experts alike"},
    {FIELD(model, router_z_loss), REAL("0", 0, 1000), .help = "coefficient of the loss that keeps the router's logits small"},

    {FIELD(optimizer, learning_rate), REAL("1e-3", 0, 1000), .open_low = true, .help = "after warm-up"},
    {FIELD(optimizer, min_learning_rate), REAL("1e-4", 0, 1000), .help = "at the end of the decay; at most optimizer.learning_rate"},
    {FIELD(optimizer, warmup_steps), INT("100", 0, INT64_MAX / 2), .help = "steps of linear rise from zero; at most the steps of the decay"},
    {FIELD(optimizer, decay_steps), INT("0", 0, INT64_MAX / 2), .help = "step at which the minimum is reached; 0: steps"},
    {FIELD(optimizer, beta1), REAL("0.9", 0, 1), .open_high = true, .help = "decay of the mean of gradients"},
    {FIELD(optimizer, beta2), REAL("0.95", 0, 1), .open_high = true, .help = "decay of the mean of squared gradients"},
    {FIELD(optimizer, epsilon), REAL("1e-8", 1e-30, 1), .help = "added to the root of the squared gradients' mean"},
    {FIELD(optimizer, weight_decay), REAL("0.1", 0, 1000), .help = "decoupled from the gradient; times the learning rate"},
    {FIELD(optimizer, clip_norm), REAL("1", 0, 1e30), .help = "largest norm of the whole gradient; 0: not clipped"},
    {FIELD(optimizer, rounding), CHOICE("nearest", roundings), .help = "precision bfloat16: of the float32 weights to those that are computed with; stochastic: up or down by chance, so that the mean is the weight itself"},

    {.section = "parallel", .name = "auto", .offset = offsetof(struct config, parallel.automatic), .kind = CONFIG_STRING, .standard = "none",
     .help = "the keys of this section that the planner chooses before the first step: all that are not given, none, or a list of data, tensor, context, pipeline, expert, chunks, schedule, zero, sequence and recompute; parallel: auto alone is auto: all; a run writes down the list, with what was chosen beside it"},
    {FIELD(parallel, memory), INT("0", 0, 1LL << 40), .help = "MB that a rank may take where the planner chooses; 0: what its GPU has free, or its node's memory, or what of it Slurm grants, divided by the node's ranks"},
    {FIELD(parallel, data), .chosen = true, INT("auto", 0, RANKS_MOST), .automatic = true, .help = "copies of the model, which share the microbatches; auto: as many as the other axes leave ranks for"},
    {FIELD(parallel, tensor), .chosen = true, INT("1", 1, RANKS_MOST), .help = "ranks that share every product: heads, columns and vocabulary"},
    {FIELD(parallel, context), .chosen = true, INT("1", 1, RANKS_MOST), .help = "ranks that share every sequence"},
    {FIELD(parallel, pipeline), .chosen = true, INT("1", 1, RANKS_MOST), .help = "stages that the blocks are dealt out to"},
    {FIELD(parallel, expert), .chosen = true, INT("1", 1, RANKS_MOST), .help = "data-parallel ranks that share each block's experts; divides the data axis and model.experts"},
    {FIELD(parallel, chunks), .chosen = true, INT("1", 1, LAYERS_MOST), .help = "pieces of the model that a stage holds; more than 1 needs the interleaved schedule"},
    {FIELD(parallel, schedule), .chosen = true, CHOICE("1f1b", schedules), .help = "order of a pipeline's forward and backward passes"},
    {FIELD(parallel, zero), .chosen = true, INT("0", 0, 3), .help = "what the data-parallel ranks share instead of repeating it: 1 the optimizer's state, 2 the gradients too, 3 the parameters too"},
    {FIELD(parallel, sequence), .chosen = true, .kind = CONFIG_BOOL, .standard = "false", .help = "norms, dropout and residuals shared along the sequence by the tensor ranks"},
    {FIELD(parallel, recompute), .chosen = true, CHOICE("none", recomputes), .help = "activations computed again in the backward pass instead of kept"},
    {FIELD(parallel, reduce), CHOICE("canonical", reduces), .help = "gradients summed in one order, for the same bits on any number of ranks; fast: in MPI's or NCCL's"},
    {FIELD(parallel, links), CHOICE("auto", links), .help = "how GPUs exchange: by NCCL, or by way of their hosts and MPI; auto: NCCL where it is there and each rank has a GPU of its own, else host; the bits are the same"},
    {FIELD(parallel, overlap), .kind = CONFIG_BOOL, .standard = "true", .help = "exchange gradients while the backward pass goes on"},
    {FIELD(parallel, compress), CHOICE("none", compressions), .help = "gradients sent in fewer bytes, what is left out added to the next step's"},
    {FIELD(parallel, compress_ratio), REAL("0.01", 0, 1), .open_low = true, .help = "topk: share of a gradient's elements that each replica sends, the largest ones"},
    {FIELD(parallel, compress_rank), INT("4", 1, 1024), .help = "powersgd: rank of the product of two matrices that is sent in place of each"},
    {FIELD(parallel, sync), CHOICE("bulk", syncs), .help = "bulk: all replicas take each step together; local: each trains alone on its own microbatches for some steps, then their weights are joined; server: workers send gradients to servers that hold the parameters"},
    {FIELD(parallel, local_steps), INT("16", 1, INT64_MAX / 2), .help = "sync local: steps from one joining to the next; the last step joins too"},
    {FIELD(parallel, outer), CHOICE("average", outers), .help = "sync local: the mean of the weights (federated averaging), or a step of Nesterov momentum towards it (DiLoCo)"},
    {FIELD(parallel, outer_rate), REAL("0", 0, 1000), .help = "sync local: how far towards the mean; 0: 1 for average, 0.7 for nesterov"},
    {FIELD(parallel, outer_momentum), REAL("0.9", 0, 1), .open_high = true, .help = "outer nesterov: its momentum"},
    {FIELD(parallel, servers), INT("1", 1, RANKS_MOST), .help = "sync server: ranks that hold a share of the parameters each; all other ranks are workers"},
    {FIELD(parallel, staleness), INT("0", 0, CONFIG_ENDLESS), .endless = true, .help = "sync server: steps that a worker may be ahead of the slowest; 0: all train each step together, to the bits of bulk"},

    {FIELD(validation, every), INT("100", 0, INT64_MAX / 2), .help = "steps between validations; 0: never"},
    {FIELD(validation, microbatches), INT("8", 1, MILLION), .help = "microbatches of a validation over all ranks"},

    {FIELD(log, every), INT("10", 1, INT64_MAX / 2), .help = "steps between progress lines"},

    {FIELD(checkpoint, every), INT("100", 0, INT64_MAX / 2), .help = "steps between checkpoints; 0: only at the end and on a signal"},
    {FIELD(checkpoint, keep), INT("3", 0, MILLION), .help = "newest checkpoints kept; 0: all"},
    {FIELD(checkpoint, on_full), CHOICE("continue", full_choices), .help = "when the disk is full: go on without, or stop"},

    {FIELD(supervise, launcher), CHOICE("auto", launchers), .help = "what starts the ranks; auto: srun inside a Slurm job, else mpiexec"},
    {FIELD(supervise, mpi), CHOICE("pmix", mpis), .help = "srun's --mpi"},
    {FIELD(supervise, ranks), INT("0", 0, RANKS_MOST), .help = "ranks without Slurm; 0: as few as the layout under parallel needs, by default one (in Slurm: its number of tasks)"},
    {FIELD(supervise, min_ranks), INT("1", 1, RANKS_MOST), .help = "with fewer the run is not started again; where the layout under parallel needs more, that counts"},
    {FIELD(supervise, max_restarts), INT("3", 0, MILLION), .help = "restarts in a row without a newer checkpoint before the run is held; of a parameter server's worker: without a step, before it is given up"},
    {FIELD(supervise, heartbeat_seconds), REAL("1", 0.01, 3600), .help = "seconds between a rank's signs of life"},
    {FIELD(supervise, start_seconds), REAL("120", 1, 86400), .help = "seconds that may pass until every rank has given a first sign of life"},
    {FIELD(supervise, silent_seconds), REAL("5", 0.1, 86400), .help = "seconds without a sign of life before a rank's node is probed"},
    {FIELD(supervise, hang_factor), REAL("20", 1, MILLION), .help = "a step so many times longer than the median is a hang"},
    {FIELD(supervise, hang_seconds), REAL("10", 0.1, 86400), .help = "but never before so many seconds"},
};

const int config_section_count = sizeof config_sections / sizeof config_sections[0];
const int config_key_count = sizeof config_keys / sizeof config_keys[0];

_Static_assert(sizeof config_keys / sizeof config_keys[0] <= CONFIG_KEYS_MAX, "config.c keeps an origin for each key");

char *config_key_name(const struct config_key *key, char *out)
{
    snprintf(out, CONFIG_NAME_SIZE, "%s%s%s", key->section, *key->section ? "." : "", key->name);
    return out;
}

static void expected_choices(const struct config_key *key, char *out)
{
    size_t used = 0;
    for (int i = 0; key->choices[i]; i++) {
        const char *between = i == 0 ? "" : key->choices[i + 1] ? ", " : " or ";
        used += (size_t)snprintf(out + used, CONFIG_NAME_SIZE - used, "%s%s", between, key->choices[i]);
    }
}

char *config_key_expected(const struct config_key *key, char *out)
{
    switch (key->kind) {
    case CONFIG_BOOL: snprintf(out, CONFIG_NAME_SIZE, "true or false"); break;
    case CONFIG_INT:
        if (key->most >= INT64_MAX / 2 || key->endless)
            snprintf(out, CONFIG_NAME_SIZE, "%sa whole number from %" PRId64, key->endless ? "inf or " : "", key->least);
        else
            snprintf(out, CONFIG_NAME_SIZE, "%sa whole number from %" PRId64 " to %" PRId64, key->automatic ? "auto or " : "",
                     key->least + key->automatic, key->most);
        break;
    case CONFIG_REAL:
        snprintf(out, CONFIG_NAME_SIZE, "a number %s %g %s %g", key->open_low ? "above" : "from", key->low,
                 key->open_high ? "to below" : "to", key->high);
        break;
    case CONFIG_STRING:
    case CONFIG_CHOICE:
        if (key->choices)
            expected_choices(key, out);
        else
            snprintf(out, CONFIG_NAME_SIZE, "text");
        break;
    }
    return out;
}

static size_t skip_digits(const char *text, size_t i)
{
    while (text[i] >= '0' && text[i] <= '9')
        i++;
    return i;
}

/* Whether TEXT is [+-]digits, for reals also with a fraction and an exponent. strtod alone would take hexadecimals and "nan". */
static bool is_number(const char *text, bool real)
{
    size_t i = text[0] == '-' || text[0] == '+', begin = i;
    i = skip_digits(text, i);
    size_t digits = i - begin;
    if (real && text[i] == '.') {
        size_t end = skip_digits(text, i + 1);
        digits += end - i - 1;
        i = end;
    }
    if (digits == 0)
        return false;
    if (real && (text[i] == 'e' || text[i] == 'E')) {
        begin = i + 1 + (text[i + 1] == '-' || text[i + 1] == '+');
        i = skip_digits(text, begin);
        if (i == begin)
            return false;
    }
    return text[i] == 0;
}

static bool parse_int(const struct config_key *key, const char *text, int64_t *value)
{
    if (key->automatic && strcmp(text, "auto") == 0) {
        *value = 0;
        return true;
    }
    if (key->endless && strcmp(text, "inf") == 0) {
        *value = key->most;
        return true;
    }
    if (!is_number(text, false))
        return false;
    errno = 0;
    long long number = strtoll(text, NULL, 10);
    if (errno || number < key->least + key->automatic || number > key->most - key->endless)
        return false;
    *value = number;
    return true;
}

static bool parse_real(const struct config_key *key, const char *text, double *value)
{
    if (!is_number(text, true))
        return false;
    double number = strtod(text, NULL);
    if (!isfinite(number) || number < key->low || number > key->high)
        return false;
    if ((key->open_low && number == key->low) || (key->open_high && number == key->high))
        return false;
    *value = number == 0 ? 0 : number; /* no negative zero: it would be another config that means the same */
    return true;
}

static int choice_index(const struct config_key *key, const char *text)
{
    for (int i = 0; key->choices[i]; i++)
        if (strcmp(key->choices[i], text) == 0)
            return i;
    return -1;
}

static bool parse_string(const struct config_key *key, const char *text, char **value, bool *memory)
{
    if (!*text || (key->choices && choice_index(key, text) < 0))
        return false;
    char *copy = strdup(text);
    if (!copy) {
        *memory = false;
        return false;
    }
    free(*value);
    *value = copy;
    return true;
}

bool config_key_parse(struct config *config, const struct config_key *key, const char *text, bool *memory)
{
    void *field = config_field(config, key);
    int index;
    switch (key->kind) {
    case CONFIG_STRING: return parse_string(key, text, field, memory);
    case CONFIG_INT: return parse_int(key, text, field);
    case CONFIG_REAL: return parse_real(key, text, field);
    case CONFIG_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return false;
        *(bool *)field = *text == 't';
        return true;
    case CONFIG_CHOICE:
        index = choice_index(key, text);
        if (index >= 0)
            *(int *)field = index;
        return index >= 0;
    }
    return false;
}

/* Insertions, deletions, replacements and swaps of neighbours that turn A into B (optimal string alignment). */
static int edit_distance(const char *a, const char *b)
{
    int rows[3][CONFIG_NAME_SIZE + 1];
    int *before = rows[0], *last = rows[1], *now = rows[2];
    int la = (int)strlen(a), lb = (int)strlen(b);
    for (int j = 0; j <= lb; j++)
        last[j] = j;
    for (int i = 1; i <= la; i++) {
        now[0] = i;
        for (int j = 1; j <= lb; j++) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = last[j] + 1 < best ? last[j] + 1 : best;
            best = now[j - 1] + 1 < best ? now[j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
        int *free_row = before;
        before = last, last = now, now = free_row;
    }
    return last[lb];
}

const char *config_nearest(const char *name, char *out)
{
    char candidate[CONFIG_NAME_SIZE];
    size_t length = strlen(name);
    if (length >= CONFIG_NAME_SIZE)
        return NULL;
    const char *dot = strrchr(name, '.'), *last = dot ? dot + 1 : name;
    int best = length > 8 ? 4 : 3; /* one more than the most that still looks like a slip */
    const char *found = NULL;
    for (int i = 0; i < config_key_count; i++) {
        int distance = edit_distance(name, config_key_name(&config_keys[i], candidate));
        int elsewhere = edit_distance(last, config_keys[i].name) + 1; /* right key, wrong section */
        distance = elsewhere < distance ? elsewhere : distance;
        if (distance < best) {
            best = distance;
            found = strcpy(out, candidate);
        }
    }
    for (int i = 1; i < config_section_count; i++) {
        int distance = edit_distance(name, config_sections[i].name);
        if (distance < best) {
            best = distance;
            found = strcpy(out, config_sections[i].name);
        }
    }
    return found;
}
