#include "base/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config_table.h"
#include "base/utf8.h"
#include "base/yaml.h"

/* Where values came from is kept by key and by section. */
struct reader {
    struct config *config;
    const char *file; /* as messages call it */
    struct yaml_place keys[CONFIG_KEYS_MAX];
    struct yaml_place sections[CONFIG_KEYS_MAX];
};

/* Fails with "FILE:LINE:COLUMN: text", or with "command line: text". */
#define fail_at(reader, at, ...) yaml_fail((reader)->file, at, __VA_ARGS__)

static const char *file_title(const char *file)
{
    return strcmp(file, "-") == 0 ? "standard input" : file;
}

/* ---- keys and values ---- */

static const struct config_key *find_key(const char *section, const char *name)
{
    for (int i = 0; i < config_key_count; i++)
        if (strcmp(config_keys[i].section, section) == 0 && strcmp(config_keys[i].name, name) == 0)
            return &config_keys[i];
    return NULL;
}

static int find_section(const char *name)
{
    for (int i = 1; i < config_section_count; i++)
        if (strcmp(config_sections[i].name, name) == 0)
            return i;
    return -1;
}

static cairn_err fail_unknown(const struct reader *reader, struct yaml_place at, const char *section, const char *name)
{
    char full[4 * CONFIG_NAME_SIZE], nearest[CONFIG_NAME_SIZE], text[CONFIG_NAME_SIZE];
    snprintf(full, sizeof full, "%s%s%s", section, *section ? "." : "", name);
    const char *near = config_nearest(full, nearest);
    yaml_shown(full, text);
    if (near && strcmp(near, full) == 0) /* in a file, where a dot does not reach into a section */
        return fail_at(reader, at, "unknown key '%s'; write '%s' under '%.*s:'", text, strchr(near, '.') + 1,
                       (int)strcspn(near, "."), near);
    if (near)
        return fail_at(reader, at, "unknown key '%s'; did you mean '%s'?", text, near);
    return fail_at(reader, at, "unknown key '%s'; 'cairn config --help' lists all", text);
}

static bool is_utf8(const char *text)
{
    uint32_t code;
    for (int length; *text; text += length)
        if ((length = utf8_next(text, &code)) == 0)
            return false;
    return true;
}

static cairn_err fail_expected(const struct reader *reader, struct yaml_place at, const struct config_key *key, const char *found)
{
    char name[CONFIG_NAME_SIZE], expected[CONFIG_NAME_SIZE];
    return fail_at(reader, at, "%s: expected %s, found %s", config_key_name(key, name), config_key_expected(key, expected), found);
}

static cairn_err set_value(struct reader *reader, const struct config_key *key, struct yaml_place at, const char *text)
{
    char name[CONFIG_NAME_SIZE], value[CONFIG_NAME_SIZE], found[CONFIG_NAME_SIZE + 2];
    if (!is_utf8(text))
        return fail_at(reader, at, "%s: the value is not UTF-8", config_key_name(key, name));
    bool memory = true;
    if (config_key_parse(reader->config, key, text, &memory)) {
        reader->keys[key - config_keys] = at;
        return CAIRN_OK;
    }
    if (!memory)
        return FAIL(CAIRN_ENOMEM, "no memory for the config");
    snprintf(found, sizeof found, "'%s'", yaml_shown(text, value));
    return fail_expected(reader, at, key, *text ? found : "nothing");
}

static cairn_err set_defaults(struct config *config)
{
    bool memory = true;
    for (int i = 0; i < config_key_count; i++)
        if (config_keys[i].standard && !config_key_parse(config, &config_keys[i], config_keys[i].standard, &memory))
            return FAIL(memory ? CAIRN_EINVAL : CAIRN_ENOMEM, "default of key %s cannot be set", config_keys[i].name);
    return CAIRN_OK;
}

/* ---- the YAML document ---- */

/* What NODE is when it should have been something else. OUT has CONFIG_NAME_SIZE + 2 bytes. */
static const char *node_found(struct fy_node *node, char *out)
{
    char text[CONFIG_NAME_SIZE];
    const char *scalar;
    if (!node || fy_node_is_null(node))
        return "nothing";
    if (fy_node_is_mapping(node))
        return "a section";
    if (fy_node_is_sequence(node))
        return "a list";
    scalar = fy_node_get_scalar0(node);
    snprintf(out, CONFIG_NAME_SIZE + 2, "'%s'", yaml_shown(scalar ? scalar : "", text));
    return out;
}

static bool is_null(struct fy_node *node)
{
    static const char *const words[] = {"", "~", "null", "Null", "NULL"};
    if (!node || fy_node_is_null(node))
        return true;
    if (!fy_node_is_scalar(node) || fy_node_get_style(node) != FYNS_PLAIN)
        return false;
    const char *text = fy_node_get_scalar0(node);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!text || strcmp(text, words[i]) == 0)
            return true;
    return false;
}

static cairn_err read_value(struct reader *reader, const struct config_key *key, struct fy_node *node, struct yaml_place key_at)
{
    char name[CONFIG_NAME_SIZE], found[CONFIG_NAME_SIZE + 2];
    struct yaml_place at = yaml_place_of(node, key_at), *first = &reader->keys[key - config_keys];
    config_key_name(key, name);
    TRY(yaml_check_plain(reader->file, node, at, name));
    if (first->given)
        return fail_at(reader, key_at, "%s: given twice, first in line %d", name, first->line);
    if (is_null(node))
        return fail_expected(reader, at, key, "nothing");
    if (!fy_node_is_scalar(node))
        return fail_expected(reader, at, key, node_found(node, found));
    size_t length;
    const char *text = fy_node_get_scalar0(node), *raw = fy_node_get_scalar(node, &length);
    if (!text || !raw)
        return FAIL(CAIRN_ENOMEM, "no memory for the config");
    if (strlen(text) != length)
        return fail_at(reader, at, "%s: the value contains a zero byte", name);
    bool quoted = fy_node_get_style(node) != FYNS_PLAIN;
    if (quoted && (key->kind == CONFIG_INT || key->kind == CONFIG_REAL || key->kind == CONFIG_BOOL)) {
        char value[CONFIG_NAME_SIZE], with_quotes[CONFIG_NAME_SIZE + 16];
        snprintf(with_quotes, sizeof with_quotes, "the text \"%s\"", yaml_shown(text, value));
        return fail_expected(reader, at, key, with_quotes);
    }
    return set_value(reader, key, at, text);
}

/* "SECTION: auto", for "SECTION: {auto: all}". */
static cairn_err set_whole(struct reader *reader, const char *name, struct yaml_place at, const char *text)
{
    char shown[CONFIG_NAME_SIZE];
    if (!text || strcmp(text, "auto") != 0)
        return fail_at(reader, at, "%s: expected auto or a section of keys, found '%s'", name, yaml_shown(text ? text : "", shown));
    return set_value(reader, find_key(name, "auto"), at, "all");
}

static cairn_err read_mapping(struct reader *reader, const char *section, struct fy_node *mapping, struct yaml_place at);

/* A key of the top level that names section INDEX. */
static cairn_err read_section(struct reader *reader, int index, struct fy_node *node, struct yaml_place key_at)
{
    char found[CONFIG_NAME_SIZE + 2];
    const char *name = config_sections[index].name;
    struct yaml_place *first = &reader->sections[index];
    struct yaml_place at = yaml_place_of(node, key_at);
    TRY(yaml_check_plain(reader->file, node, at, name));
    if (first->given)
        return fail_at(reader, key_at, "%s: given twice, first in line %d", name, first->line);
    *first = key_at;
    if (is_null(node))
        return CAIRN_OK; /* all its keys are commented out */
    if (find_key(name, "auto") && fy_node_is_scalar(node))
        return set_whole(reader, name, at, fy_node_get_scalar0(node));
    if (!fy_node_is_mapping(node))
        return fail_at(reader, at, "%s: expected a section of keys, found %s", name, node_found(node, found));
    return read_mapping(reader, name, node, key_at);
}

static cairn_err read_pair(struct reader *reader, const char *section, struct fy_node_pair *pair, struct yaml_place around)
{
    struct fy_node *key_node = fy_node_pair_key(pair), *value = fy_node_pair_value(pair);
    struct yaml_place at = yaml_place_of(key_node, around);
    size_t length = 0;
    bool simple = key_node && fy_node_is_scalar(key_node) && !fy_node_is_alias(key_node) && !fy_node_get_tag_token(key_node);
    const char *name = simple && fy_node_get_scalar(key_node, &length) ? fy_node_get_scalar0(key_node) : NULL;
    if (!name || !*name || strlen(name) != length)
        return fail_at(reader, at, "expected the name of a key");
    int index = *section ? -1 : find_section(name);
    if (index > 0)
        return read_section(reader, index, value, at);
    const struct config_key *key = find_key(section, name);
    if (!key)
        return fail_unknown(reader, at, section, name);
    return read_value(reader, key, value, at);
}

static cairn_err read_mapping(struct reader *reader, const char *section, struct fy_node *mapping, struct yaml_place at)
{
    void *position = NULL;
    struct fy_node_pair *pair;
    while ((pair = fy_node_mapping_iterate(mapping, &position)))
        TRY(read_pair(reader, section, pair, at));
    return CAIRN_OK;
}

static cairn_err read_root(struct fy_document *document, void *context)
{
    struct reader *reader = context;
    char found[CONFIG_NAME_SIZE + 2];
    struct fy_node *root = fy_document_root(document);
    struct yaml_place begin = {true, 1, 1}, at = yaml_place_of(root, begin);
    TRY(yaml_check_plain(reader->file, root, at, "the config"));
    if (is_null(root))
        return CAIRN_OK;
    if (!fy_node_is_mapping(root))
        return fail_at(reader, at, "expected keys with values, found %s", node_found(root, found));
    return read_mapping(reader, "", root, begin);
}

/* ---- the command line ---- */

static cairn_err read_override(struct reader *reader, const char *text)
{
    static const struct yaml_place at = {true, 0, 0};
    char shown_text[CONFIG_NAME_SIZE], name[CONFIG_NAME_SIZE];
    size_t length = strcspn(text, "=");
    if (!text[length] || length == 0 || length >= sizeof name)
        return fail_at(reader, at, "expected key=value, found '%s'", yaml_shown(text, shown_text));
    memcpy(name, text, length);
    name[length] = 0;
    int index = find_section(name);
    if (index > 0 && find_key(name, "auto"))
        return set_whole(reader, name, at, text + length + 1);
    if (index > 0)
        return fail_at(reader, at, "%s: is a section; give one of its keys as %s.KEY=VALUE", name, name);
    char section[CONFIG_NAME_SIZE] = "";
    char *dot = strchr(name, '.');
    if (dot)
        memcpy(section, name, (size_t)(dot - name)), section[dot - name] = 0;
    const struct config_key *key = find_key(section, dot ? dot + 1 : name);
    if (!key || (dot && !*section))
        return fail_unknown(reader, at, "", name);
    return set_value(reader, key, at, text + length + 1);
}

/* ---- what no key can tell alone ---- */

static struct yaml_place origin_of(const struct reader *reader, const void *field)
{
    for (int i = 0; i < config_key_count; i++)
        if (config_field_const(reader->config, &config_keys[i]) == field)
            return reader->keys[i];
    return (struct yaml_place){0};
}

/* The place to blame when the keys at A and B do not fit: one that was given, the command line first. */
static struct yaml_place blame(const struct reader *reader, const void *a, const void *b)
{
    struct yaml_place first = origin_of(reader, a), second = origin_of(reader, b);
    if (!first.given || (second.given && second.line == 0 && first.line > 0))
        return second;
    return first;
}

static const char name_letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
enum { NAME_LONGEST = 64 };

/* FILE's name without folder and ending, with '-' for what a run's name cannot hold; the caller frees. */
static char *name_from_file(const char *file)
{
    const char *slash = strrchr(file, '/'), *base = slash ? slash + 1 : file, *dot = strrchr(base, '.');
    size_t length = dot ? (size_t)(dot - base) : strlen(base);
    length = length < NAME_LONGEST ? length : NAME_LONGEST;
    if (length == 0 || base[0] == '.' || strcmp(file, "-") == 0)
        return strdup("run");
    char *name = strndup(base, length);
    for (char *c = name; c && *c; c++)
        if (!strchr(name_letters, *c))
            *c = '-';
    return name;
}

/* Defaults that follow from other keys. */
static cairn_err derive_defaults(const struct reader *reader, const char *file)
{
    struct config *c = reader->config;
    if (!c->name)
        c->name = name_from_file(file);
    if (c->name && !c->run_dir && asprintf(&c->run_dir, "runs/%s", c->name) < 0)
        c->run_dir = NULL;
    if (!c->name || !c->run_dir)
        return FAIL(CAIRN_ENOMEM, "no memory for the config");
    int64_t decay = c->optimizer.decay_steps ? c->optimizer.decay_steps : c->steps;
    if (!origin_of(reader, &c->optimizer.warmup_steps).given && c->optimizer.warmup_steps > decay)
        c->optimizer.warmup_steps = decay;
    if (!origin_of(reader, &c->optimizer.min_learning_rate).given && c->optimizer.min_learning_rate > c->optimizer.learning_rate)
        c->optimizer.min_learning_rate = c->optimizer.learning_rate;
    return CAIRN_OK;
}

/* Whether WORD stands in LIST, words with spaces or commas between them. */
static bool lists(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += length)
        if ((at == list || strchr(" ,", at[-1])) && strchr(" ,", at[length])) /* the end of LIST too */
            return true;
    return false;
}

bool config_chooses(const struct config *config, const char *key)
{
    const char *list = config->parallel.automatic;
    if (!list || strcmp(list, "none") == 0)
        return false;
    return !key || lists(list, key);
}

/* Every word of the list is a key that the planner may choose. */
static cairn_err check_list(const struct reader *reader, const char *list)
{
    const char *text = list;
    char word[CONFIG_NAME_SIZE], shown[CONFIG_NAME_SIZE];
    for (size_t length; *(list += strspn(list, " ,")); list += length) {
        length = strcspn(list, " ,");
        snprintf(word, sizeof word, "%.*s", (int)length, list);
        const struct config_key *key = find_key("parallel", word);
        if (strcmp(word, "all") == 0 || strcmp(word, "none") == 0)
            return fail_at(reader, origin_of(reader, &reader->config->parallel.automatic), "parallel.auto: %s stands alone, found '%s'", word,
                           yaml_shown(text, shown));
        if (!key || !key->chosen)
            return fail_at(reader, origin_of(reader, &reader->config->parallel.automatic),
                           "parallel.auto: expected all, none or keys that a planner chooses, found '%s'", yaml_shown(word, shown));
    }
    return CAIRN_OK;
}

/* The keys that the planner is to choose, by name. What the command line sets is not chosen, unless it asks for that by name too. */
static cairn_err derive_automatic(const struct reader *reader)
{
    char list[4 * CONFIG_NAME_SIZE] = "", **automatic = &reader->config->parallel.automatic;
    bool all = strcmp(*automatic, "all") == 0, asked_now = origin_of(reader, automatic).line == 0;
    size_t used = 0;
    if (strcmp(*automatic, "none") == 0)
        return CAIRN_OK;
    if (!all)
        TRY(check_list(reader, *automatic));
    for (int i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        struct yaml_place given = reader->keys[i];
        bool left_open = key->automatic && *(const int64_t *)config_field_const(reader->config, key) == 0;
        bool fixed = given.given && !left_open && (all || (given.line == 0 && !asked_now));
        if (key->chosen && !fixed && (all || lists(*automatic, key->name)))
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? " " : "", key->name);
    }
    free(*automatic);
    *automatic = strdup(used ? list : "none");
    return *automatic ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the config");
}

static cairn_err check_run(const struct reader *reader)
{
    const struct config *c = reader->config;
    char text[CONFIG_NAME_SIZE];
    if (c->name[strspn(c->name, name_letters)] || c->name[0] == '.' || strlen(c->name) > NAME_LONGEST)
        return fail_at(reader, origin_of(reader, &c->name),
                       "name: expected at most 64 letters, digits, '.', '_' and '-', no '.' first, found '%s'", yaml_shown(c->name, text));
    if (!c->data.path)
        return fail_at(reader, (struct yaml_place){0}, "data.path must be given: the dataset to train on (see 'cairn data import --help')");
    int64_t samples;
    if (__builtin_mul_overflow(c->steps, c->batch.microbatches, &samples) || __builtin_mul_overflow(samples, c->batch.samples, &samples))
        return fail_at(reader, origin_of(reader, &c->steps), "steps: %lld times batch.microbatches times batch.samples does not fit in 64 bits",
                       (long long)c->steps);
    return CAIRN_OK;
}

static cairn_err check_model(const struct reader *reader)
{
    const struct config *c = reader->config;
    if (c->model.width % c->model.heads != 0)
        return fail_at(reader, blame(reader, &c->model.heads, &c->model.width), "model.heads: %lld does not divide model.width, %lld",
                       (long long)c->model.heads, (long long)c->model.width);
    if (c->model.experts > 0 && c->model.expert_choices > c->model.experts)
        return fail_at(reader, blame(reader, &c->model.expert_choices, &c->model.experts), "model.expert_choices: %lld of only %lld model.experts",
                       (long long)c->model.expert_choices, (long long)c->model.experts);
    if (c->optimizer.min_learning_rate > c->optimizer.learning_rate)
        return fail_at(reader, blame(reader, &c->optimizer.min_learning_rate, &c->optimizer.learning_rate),
                       "optimizer.min_learning_rate: %g is above optimizer.learning_rate, %g", c->optimizer.min_learning_rate,
                       c->optimizer.learning_rate);
    bool own = c->optimizer.decay_steps != 0;
    int64_t decay = own ? c->optimizer.decay_steps : c->steps;
    if (c->optimizer.warmup_steps > decay)
        return fail_at(reader, blame(reader, &c->optimizer.warmup_steps, own ? &c->optimizer.decay_steps : &c->steps),
                       "optimizer.warmup_steps: %lld is above %s, %lld", (long long)c->optimizer.warmup_steps,
                       own ? "optimizer.decay_steps" : "steps", (long long)decay);
    return CAIRN_OK;
}

/* The axis parallel.KEY of VALUE ranks; one that the planner chooses can be as long as need be. */
static int64_t axis(const struct config *c, const char *key, int64_t value)
{
    enum { LONG = 1 << 20 };
    return config_chooses(c, key) ? LONG : value;
}

static cairn_err check_supervise(const struct reader *reader)
{
    const struct config *c = reader->config;
    /* Ranks of one copy of the model share its microbatches' work, not the microbatches; servers have none. */
    int64_t model = axis(c, "tensor", c->parallel.tensor) * axis(c, "context", c->parallel.context) * axis(c, "pipeline", c->parallel.pipeline);
    int64_t servers = c->parallel.sync == SYNC_SERVER ? c->parallel.servers : 0;
    if ((c->supervise.min_ranks - servers) / model > c->batch.microbatches)
        return fail_at(reader, blame(reader, &c->supervise.min_ranks, &c->batch.microbatches),
                       "supervise.min_ranks: %lld ranks cannot share %lld microbatches (batch.microbatches)",
                       (long long)c->supervise.min_ranks, (long long)c->batch.microbatches);
    if ((c->supervise.ranks - servers) / model > c->batch.microbatches)
        return fail_at(reader, blame(reader, &c->supervise.ranks, &c->batch.microbatches),
                       "supervise.ranks: %lld ranks cannot share %lld microbatches (batch.microbatches)", (long long)c->supervise.ranks,
                       (long long)c->batch.microbatches);
    if (c->supervise.ranks && c->supervise.min_ranks > c->supervise.ranks)
        return fail_at(reader, blame(reader, &c->supervise.min_ranks, &c->supervise.ranks),
                       "supervise.min_ranks: %lld is above supervise.ranks, %lld", (long long)c->supervise.min_ranks,
                       (long long)c->supervise.ranks);
    if (c->parallel.data && !config_chooses(c, "data") && (c->supervise.min_ranks - servers - 1) / model >= c->parallel.data)
        return fail_at(reader, blame(reader, &c->supervise.min_ranks, &c->parallel.data),
                       "supervise.min_ranks: %lld is above the %lld ranks of the layout (parallel.data is %lld)",
                       (long long)c->supervise.min_ranks, (long long)(c->parallel.data * model + servers), (long long)c->parallel.data);
    if (c->supervise.silent_seconds <= c->supervise.heartbeat_seconds)
        return fail_at(reader, blame(reader, &c->supervise.silent_seconds, &c->supervise.heartbeat_seconds),
                       "supervise.silent_seconds: %g is not above supervise.heartbeat_seconds, %g", c->supervise.silent_seconds,
                       c->supervise.heartbeat_seconds);
    return CAIRN_OK;
}

/* ---- whole ---- */

static cairn_err fill(struct reader *reader, const char *file, const char *text, int count, char *const *overrides)
{
    TRY(set_defaults(reader->config));
    TRY(yaml_read(reader->file, "config", text, read_root, reader));
    for (int i = 0; i < count; i++)
        TRY(read_override(reader, overrides[i]));
    TRY(derive_defaults(reader, file));
    TRY(derive_automatic(reader));
    TRY(check_run(reader));
    TRY(check_model(reader));
    return check_supervise(reader);
}

cairn_err config_load(struct config *config, const char *file, const char *text, int count, char *const *overrides)
{
    char *read = NULL;
    if (!text)
        TRY(config_read_file(file, &read));
    memset(config, 0, sizeof *config);
    struct reader reader = {.config = config, .file = file_title(file)};
    cairn_err err = fill(&reader, file, text ? text : read, count, overrides);
    free(read);
    if (err != CAIRN_OK)
        config_free(config);
    return err;
}

/* A name that leads nowhere is bad usage: starting again would not help. A file system that fails may come back. */
static cairn_err read_error(int errnum)
{
    bool usage = errnum == ENOENT || errnum == ENOTDIR || errnum == EISDIR || errnum == EACCES || errnum == ENAMETOOLONG;
    return usage ? CAIRN_ECONFIG : error_from_errno(errnum);
}

static cairn_err read_all(int fd, const char *title, char **text)
{
    enum { LARGEST = 1 << 20 }; /* a config is a page; more is another kind of file given by mistake */
    char *buffer = malloc(LARGEST + 1);
    if (!buffer)
        return FAIL(CAIRN_ENOMEM, "no memory for the config");
    size_t used = 0;
    ssize_t got;
    do {
        got = read(fd, buffer + used, LARGEST + 1 - used);
        used += got > 0 ? (size_t)got : 0;
    } while ((got > 0 && used <= LARGEST) || (got < 0 && errno == EINTR));
    cairn_err err = CAIRN_OK;
    if (got < 0)
        err = FAIL(read_error(errno), "cannot read %s: %s", title, strerror(errno));
    else if (used > LARGEST)
        err = FAIL(CAIRN_ECONFIG, "%s: larger than 1 MiB; this is not a config", title);
    else if (memchr(buffer, 0, used))
        err = FAIL(CAIRN_ECONFIG, "%s: contains zero bytes; this is not a config", title);
    if (err != CAIRN_OK) {
        free(buffer);
        return err;
    }
    buffer[used] = 0;
    *text = buffer;
    return CAIRN_OK;
}

cairn_err config_read_file(const char *file, char **text)
{
    if (strcmp(file, "-") == 0)
        return read_all(STDIN_FILENO, file_title(file), text);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return FAIL(read_error(errno), "cannot open %s: %s", file, strerror(errno));
    cairn_err err = read_all(fd, file, text);
    close(fd);
    return err;
}

void config_free(struct config *config)
{
    for (int i = 0; i < config_key_count; i++)
        if (config_keys[i].kind == CONFIG_STRING)
            free(*(char **)config_field(config, &config_keys[i]));
    memset(config, 0, sizeof *config);
}
