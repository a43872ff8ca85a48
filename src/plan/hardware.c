#include "plan/hardware.h"

#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/config.h"
#include "base/yaml.h"

/* ---- the table of keys ---- */

enum entry_kind { ENTRY_GPU, ENTRY_NETWORK, ENTRY_SOFTWARE, ENTRY_KINDS };

enum value_kind { VALUE_REAL, VALUE_BOOL, VALUE_TEXT };

struct hardware_key {
    enum entry_kind entry;
    const char *name;
    enum value_kind kind;
    size_t offset;
    double low, high; /* of reals */
    bool optional;    /* 0, false or "" then */
};

static const struct {
    const char *section; /* in the file */
    const char *one;     /* in messages */

} entry_kinds[ENTRY_KINDS] = {
    {"gpus", "GPU"},
    {"networks", "network"},
    {"software", "software"},
};

#define KEY(entry_, struct_, name_, kind_) .entry = entry_, .name = #name_, .kind = kind_, .offset = offsetof(struct struct_, name_)
#define GPU(name_) KEY(ENTRY_GPU, hardware_gpu, name_, VALUE_REAL)
#define NETWORK(name_) KEY(ENTRY_NETWORK, hardware_network, name_, VALUE_REAL)
#define SOFTWARE(name_, kind_) KEY(ENTRY_SOFTWARE, hardware_software, name_, kind_)
#define TFLOPS(type_) .entry = ENTRY_GPU, .kind = VALUE_REAL, .optional = true, .offset = offsetof(struct hardware_gpu, tflops[type_])

#define FLASH(i_) .entry = ENTRY_GPU, .kind = VALUE_REAL, .offset = offsetof(struct hardware_gpu, flash_efficiency[i_])

static const struct hardware_key keys[] = {
    {GPU(memory_gib), .low = 0.1, .high = 1e5},
    {GPU(memory_gb_s), .low = 1, .high = 1e6},
    {TFLOPS(PLAN_FLOAT32), .name = "float32_tflops", .high = 1e6},
    {TFLOPS(PLAN_FLOAT16), .name = "float16_tflops", .high = 1e6},
    {TFLOPS(PLAN_BFLOAT16), .name = "bfloat16_tflops", .high = 1e6},
    {GPU(processors), .low = 1, .high = 1e5},
    {GPU(nvlink_gb_s), .high = 1e5, .optional = true},
    {GPU(pcie_gb_s), .low = 1, .high = 1e5},
    {GPU(matmul_efficiency), .low = 0.01, .high = 1},
    {FLASH(0), .name = "flash1_efficiency", .low = 0.01, .high = 1},
    {FLASH(1), .name = "flash2_efficiency", .high = 1, .optional = true},
    {FLASH(2), .name = "flash3_efficiency", .high = 1, .optional = true},
    {GPU(memory_efficiency), .low = 0.01, .high = 1},
    {GPU(link_efficiency), .low = 0.01, .high = 1},
    {GPU(kernel_us), .high = 1e4},
    {KEY(ENTRY_GPU, hardware_gpu, network, VALUE_TEXT)},
    {NETWORK(nic_gbit_s), .low = 0.1, .high = 1e5},
    {NETWORK(nics_per_gpu), .low = 0.001, .high = 100},
    {NETWORK(efficiency), .low = 0.01, .high = 1},
    {NETWORK(latency_us), .high = 1e6},
    {SOFTWARE(flash, VALUE_REAL), .high = HARDWARE_FLASHES},
    {SOFTWARE(keeps_copy, VALUE_BOOL)},
    {SOFTWARE(keeps_masks, VALUE_BOOL)},
    {SOFTWARE(keeps_logits, VALUE_BOOL)},
    {SOFTWARE(gradient_vectors, VALUE_REAL), .high = 4},
    {SOFTWARE(fused_sums, VALUE_BOOL)},
    {SOFTWARE(direct_reduce, VALUE_BOOL)},
    {SOFTWARE(even_stages, VALUE_BOOL)},
    {SOFTWARE(recomputes_qkv, VALUE_BOOL)},
    {SOFTWARE(scatters_stages, VALUE_BOOL)},
    {SOFTWARE(data_overlap, VALUE_REAL), .high = 1},
    {SOFTWARE(tensor_overlap, VALUE_REAL), .high = 1},
    {SOFTWARE(pipeline_overlap, VALUE_REAL), .high = 1},
    {SOFTWARE(optimizer_bytes, VALUE_REAL), .low = 1, .high = 1e4},
    {SOFTWARE(reserved_gib, VALUE_REAL), .high = 1e5},
};

enum { KEY_COUNT = sizeof keys / sizeof keys[0] };

union entry { /* each begins with its name */
    char name[HARDWARE_NAME_SIZE];
    struct hardware_gpu gpu;
    struct hardware_network network;
    struct hardware_software software;
};

struct hardware {
    struct list {
        union entry **entries; /* each its own, since callers keep them */
        int count;
    } lists[ENTRY_KINDS];
};

static union entry *find(const struct hardware *h, enum entry_kind kind, const char *name)
{
    for (int i = 0; i < h->lists[kind].count; i++)
        if (strcasecmp(h->lists[kind].entries[i]->name, name) == 0)
            return h->lists[kind].entries[i];
    return NULL;
}

/* ---- reading ---- */

struct reader {
    struct hardware *hardware;
    const char *file;
};

static const struct hardware_key *find_key(enum entry_kind kind, const char *name)
{
    for (int i = 0; i < KEY_COUNT; i++)
        if (keys[i].entry == kind && strcmp(keys[i].name, name) == 0)
            return &keys[i];
    return NULL;
}

static cairn_err set_value(const struct reader *r, const struct hardware_key *key, const char *owner, struct yaml_place at,
                           const char *text, union entry *entry)
{
    char shown[YAML_SHOWN_SIZE], *end;
    void *field = (char *)entry + key->offset;
    yaml_shown(text, shown);
    if (key->kind == VALUE_TEXT) {
        if (!*text || strlen(text) >= HARDWARE_NAME_SIZE)
            return yaml_fail(r->file, at, "%s: %s: expected a name of at most %d bytes, found '%s'", owner, key->name, HARDWARE_NAME_SIZE - 1, shown);
        strcpy(field, text);
        return CAIRN_OK;
    }
    if (key->kind == VALUE_BOOL) {
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return yaml_fail(r->file, at, "%s: %s: expected true or false, found '%s'", owner, key->name, shown);
        *(bool *)field = *text == 't';
        return CAIRN_OK;
    }
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value < key->low || value > key->high)
        return yaml_fail(r->file, at, "%s: %s: expected a number from %g to %g, found '%s'", owner, key->name, key->low, key->high, shown);
    *(double *)field = value;
    return CAIRN_OK;
}

/* The text of NODE, a plain scalar. */
static cairn_err scalar(const struct reader *r, struct fy_node *node, struct yaml_place at, const char *what, const char **text)
{
    TRY(yaml_check_plain(r->file, node, at, what));
    *text = node && fy_node_is_scalar(node) ? fy_node_get_scalar0(node) : NULL;
    return *text ? CAIRN_OK : yaml_fail(r->file, at, "%s: expected a value", what);
}

/* The pairs of NODE, a mapping, one after another. */
static cairn_err mapping(const struct reader *r, struct fy_node *node, struct yaml_place at, const char *what)
{
    TRY(yaml_check_plain(r->file, node, at, what));
    return node && fy_node_is_mapping(node) ? CAIRN_OK : yaml_fail(r->file, at, "%s: expected keys with values", what);
}

static cairn_err pair_key(const struct reader *r, struct fy_node_pair *pair, struct yaml_place *at, const char **name)
{
    *at = yaml_place_of(fy_node_pair_key(pair), *at);
    return scalar(r, fy_node_pair_key(pair), *at, "the name of a key", name);
}

static cairn_err check_complete(const struct reader *r, enum entry_kind kind, struct yaml_place at, const char *owner, const bool *given)
{
    for (int i = 0; i < KEY_COUNT; i++)
        if (keys[i].entry == kind && !given[i] && !keys[i].optional)
            return yaml_fail(r->file, at, "%s: %s is missing", owner, keys[i].name);
    if (!given[KEY_COUNT])
        return yaml_fail(r->file, at, "%s: source is missing: where its figures are from", owner);
    return CAIRN_OK;
}

static cairn_err read_keys(const struct reader *r, enum entry_kind kind, struct fy_node *node, struct yaml_place at, union entry *entry)
{
    bool given[KEY_COUNT + 1] = {false}; /* the last one is the source, which is for people */
    const char *owner = entry->name, *name, *text;
    void *position = NULL;
    struct fy_node_pair *pair;
    struct yaml_place begin = at;
    TRY(mapping(r, node, at, owner));
    while ((pair = fy_node_mapping_iterate(node, &position))) {
        TRY(pair_key(r, pair, &at, &name));
        const struct hardware_key *key = find_key(kind, name);
        bool is_source = strcmp(name, "source") == 0;
        char shown[YAML_SHOWN_SIZE];
        if (!key && !is_source)
            return yaml_fail(r->file, at, "%s: unknown key '%s'", owner, yaml_shown(name, shown));
        bool *seen = &given[is_source ? KEY_COUNT : key - keys];
        if (*seen)
            return yaml_fail(r->file, at, "%s: %s is given twice", owner, name);
        *seen = true;
        at = yaml_place_of(fy_node_pair_value(pair), at);
        TRY(scalar(r, fy_node_pair_value(pair), at, name, &text));
        if (key)
            TRY(set_value(r, key, owner, at, text, entry));
    }
    return check_complete(r, kind, begin, owner, given);
}

/* The entry of this name, new or emptied. */
static union entry *take_entry(struct hardware *h, enum entry_kind kind, const char *name)
{
    struct list *list = &h->lists[kind];
    union entry *entry = find(h, kind, name);
    if (!entry) {
        union entry **grown = realloc(list->entries, (size_t)(list->count + 1) * sizeof(*grown));
        if (!grown)
            return NULL;
        list->entries = grown;
        entry = calloc(1, sizeof *entry);
        if (!entry)
            return NULL;
        list->entries[list->count++] = entry;
    }
    memset(entry, 0, sizeof *entry);
    strcpy(entry->name, name);
    return entry;
}

static cairn_err read_section(const struct reader *r, enum entry_kind kind, struct fy_node *node, struct yaml_place at)
{
    void *position = NULL;
    struct fy_node_pair *pair;
    const char *name;
    TRY(mapping(r, node, at, entry_kinds[kind].section));
    while ((pair = fy_node_mapping_iterate(node, &position))) {
        TRY(pair_key(r, pair, &at, &name));
        if (!*name || strlen(name) >= HARDWARE_NAME_SIZE)
            return yaml_fail(r->file, at, "expected a name of at most %d bytes", HARDWARE_NAME_SIZE - 1);
        union entry *entry = take_entry(r->hardware, kind, name);
        if (!entry)
            return FAIL(CAIRN_ENOMEM, "no memory for the hardware table");
        TRY(read_keys(r, kind, fy_node_pair_value(pair), at, entry));
    }
    return CAIRN_OK;
}

static cairn_err read_root(struct fy_document *document, void *context)
{
    const struct reader *r = context;
    struct yaml_place at = {true, 1, 1};
    struct fy_node *root = fy_document_root(document);
    void *position = NULL;
    struct fy_node_pair *pair;
    const char *name;
    TRY(mapping(r, root, at, "the hardware table"));
    while ((pair = fy_node_mapping_iterate(root, &position))) {
        char shown[YAML_SHOWN_SIZE];
        int kind = 0;
        TRY(pair_key(r, pair, &at, &name));
        while (kind < ENTRY_KINDS && strcmp(name, entry_kinds[kind].section) != 0)
            kind++;
        if (kind == ENTRY_KINDS)
            return yaml_fail(r->file, at, "unknown section '%s'; there are gpus, networks and software", yaml_shown(name, shown));
        TRY(read_section(r, (enum entry_kind)kind, fy_node_pair_value(pair), at));
    }
    return CAIRN_OK;
}

static cairn_err read_file(struct hardware *hardware, const char *file)
{
    struct reader reader = {hardware, file};
    char *text;
    TRY(config_read_file(file, &text));
    cairn_err err = yaml_read(file, "hardware table", text, read_root, &reader);
    free(text);
    return err;
}

/* ---- opening and finding ---- */

/* The folder that the running program lies in; OUT has PATH_MAX bytes. "" if it cannot be told. */
static void program_folder(char *out)
{
    ssize_t length = readlink("/proc/self/exe", out, PATH_MAX - 1);
    out[length > 0 ? length : 0] = 0;
    char *slash = strrchr(out, '/');
    if (slash)
        *slash = 0;
}

/* Where the table is: what the environment says; beside the program, as in an installation that was moved or where it was built; where it
 * was to be installed. The caller frees. NULL: no memory. */
static char *installed_table(void)
{
    static const char *const beside[] = {"../share/cairn", "src/plan"};
    const char *folder = getenv("CAIRN_DATA_DIR");
    char program[PATH_MAX], *file = NULL;
    if (folder && *folder)
        return asprintf(&file, "%s/hardware.yaml", folder) < 0 ? NULL : file;
    program_folder(program);
    for (int i = 0; i < 2; i++) {
        if (asprintf(&file, "%s/%s/hardware.yaml", program, beside[i]) < 0)
            return NULL;
        if (access(file, R_OK) == 0)
            return file;
        free(file);
    }
    return strdup(CAIRN_DATA_DIR "/hardware.yaml");
}

static cairn_err read_installed(struct hardware *hardware)
{
    char *file = installed_table();
    if (!file)
        return FAIL(CAIRN_ENOMEM, "no memory for the hardware table");
    cairn_err err = read_file(hardware, file);
    free(file);
    return err;
}

cairn_err hardware_open(const char *file, struct hardware **out)
{
    struct hardware *h = calloc(1, sizeof *h);
    cairn_err err = CAIRN_OK;
    if (!h)
        return FAIL(CAIRN_ENOMEM, "no memory for the hardware table");
    TRY_GOTO(err, read_installed(h), failed);
    if (file)
        TRY_GOTO(err, read_file(h, file), failed);
    *out = h;
    return CAIRN_OK;
failed:
    hardware_close(h);
    return err;
}

void hardware_close(struct hardware *h)
{
    for (int kind = 0; h && kind < ENTRY_KINDS; kind++) {
        for (int i = 0; i < h->lists[kind].count; i++)
            free(h->lists[kind].entries[i]);
        free(h->lists[kind].entries);
    }
    free(h);
}

static cairn_err look_up(const struct hardware *h, enum entry_kind kind, const char *name, const void **out)
{
    char names[1024] = "";
    size_t used = 0;
    *out = find(h, kind, name);
    if (*out)
        return CAIRN_OK;
    for (int i = 0; i < h->lists[kind].count && used < sizeof names; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", h->lists[kind].entries[i]->name);
    return FAIL(CAIRN_ECONFIG, "no %s '%s' in the hardware table; there are %s", entry_kinds[kind].one, name, names);
}

cairn_err hardware_find_gpu(const struct hardware *h, const char *name, const struct hardware_gpu **out)
{
    const void *found;
    TRY(look_up(h, ENTRY_GPU, name, &found));
    *out = found;
    return CAIRN_OK;
}

/* Whether DEVICE has a word that is what NAME has before its '-'. */
static bool has_word(const char *device, const char *name)
{
    size_t length = strcspn(name, "-");
    for (const char *word = device; *word; word += strcspn(word, " -"), word += strspn(word, " -"))
        if (strcspn(word, " -") == length && strncasecmp(word, name, length) == 0)
            return true;
    return false;
}

cairn_err hardware_find_device(const struct hardware *h, const char *device, int64_t bytes, const struct hardware_gpu **out)
{
    const struct hardware_gpu *nearest = NULL;
    double gib = (double)bytes / (double)(1 << 30);
    for (int i = 0; i < h->lists[ENTRY_GPU].count && !find(h, ENTRY_GPU, device); i++) {
        const struct hardware_gpu *g = (const void *)h->lists[ENTRY_GPU].entries[i];
        if (has_word(device, g->name) && (!nearest || fabs(g->memory_gib - gib) < fabs(nearest->memory_gib - gib)))
            nearest = g;
    }
    *out = nearest;
    return nearest ? CAIRN_OK : hardware_find_gpu(h, device, out);
}

cairn_err hardware_find_network(const struct hardware *h, const char *name, const struct hardware_network **out)
{
    const void *found;
    TRY(look_up(h, ENTRY_NETWORK, name, &found));
    *out = found;
    return CAIRN_OK;
}

cairn_err hardware_find_software(const struct hardware *h, const char *name, const struct hardware_software **out)
{
    const void *found;
    TRY(look_up(h, ENTRY_SOFTWARE, name, &found));
    *out = found;
    return CAIRN_OK;
}
