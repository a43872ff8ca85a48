#include "job/pmi_wire.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    enum pmi_command command;
} commands[] = {
    {"init", PMI_INIT},
    {"get_maxes", PMI_GET_MAXES},
    {"get_appnum", PMI_GET_APPNUM},
    {"get_universe_size", PMI_GET_UNIVERSE_SIZE},
    {"get_my_kvsname", PMI_GET_MY_KVSNAME},
    {"put", PMI_PUT},
    {"get", PMI_GET},
    {"getbyidx", PMI_GETBYIDX},
    {"barrier_in", PMI_BARRIER},
    {"spawn", PMI_SPAWN},
    {"publish_name", PMI_PUBLISH},
    {"unpublish_name", PMI_UNPUBLISH},
    {"lookup_name", PMI_LOOKUP},
    {"finalize", PMI_FINALIZE},
    {"abort", PMI_ABORT},
};

/* Where the value of NAME starts in LINE, or NULL. Looks only at the starts of fields, so a value that contains
 * "key=" is not taken for one. */
static const char *find_field(const char *line, const char *name)
{
    size_t length = strlen(name);
    const char *at = line;
    while (*at) {
        at += strspn(at, " ");
        if (strncmp(at, name, length) == 0 && at[length] == '=')
            return at + length + 1;
        if (strncmp(at, "value=", 6) == 0 || strncmp(at, "msg=", 4) == 0)
            return NULL; /* these run to the end */
        at += strcspn(at, " ");
    }
    return NULL;
}

bool pmi_field(const char *line, const char *name, char *to, size_t size, bool *too_long)
{
    if (too_long)
        *too_long = false;
    to[0] = '\0';
    const char *value = find_field(line, name);
    if (!value)
        return false;
    bool whole_line = strcmp(name, "value") == 0 || strcmp(name, "msg") == 0;
    size_t length = whole_line ? strlen(value) : strcspn(value, " ");
    if (length >= size) {
        if (too_long)
            *too_long = true;
        return false;
    }
    memcpy(to, value, length);
    to[length] = '\0';
    return true;
}

static bool number_field(const char *line, const char *name, int *out)
{
    char text[16], *end;
    *out = 0;
    if (!pmi_field(line, name, text, sizeof text, NULL) || !*text)
        return false;
    long value = strtol(text, &end, 10);
    if (*end || value < INT_MIN || value > INT_MAX)
        return false;
    *out = (int)value;
    return true;
}

/* Takes text field NAME, which the command cannot do without. */
static void need_field(struct pmi_request *r, const char *line, const char *name, char *to, size_t size, const char *missing,
                       const char *long_text)
{
    bool too_long;
    if (!pmi_field(line, name, to, size, &too_long) && !r->wrong)
        r->wrong = too_long ? long_text : missing;
}

static void need_kvsname(struct pmi_request *r, const char *line)
{
    need_field(r, line, "kvsname", r->kvsname, sizeof r->kvsname, "no kvsname", "kvsname too long");
}

static void need_key(struct pmi_request *r, const char *line)
{
    need_field(r, line, "key", r->key, sizeof r->key, "no key", "key too long");
    if (!r->wrong && !*r->key)
        r->wrong = "empty key";
}

void pmi_request_parse(const char *line, struct pmi_request *out)
{
    memset(out, 0, sizeof *out);
    if (!pmi_field(line, "cmd", out->name, sizeof out->name, NULL) && !pmi_field(line, "mcmd", out->name, sizeof out->name, NULL))
        out->wrong = "no command";
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(out->name, commands[i].name) == 0)
            out->command = commands[i].command;
    switch (out->command) {
    case PMI_INIT:
        if (!number_field(line, "pmi_version", &out->version))
            out->wrong = "no pmi_version";
        break;
    case PMI_PUT:
        need_kvsname(out, line);
        need_key(out, line);
        need_field(out, line, "value", out->value, sizeof out->value, "no value", "value too long");
        break;
    case PMI_GET:
        need_kvsname(out, line);
        need_key(out, line);
        break;
    case PMI_GETBYIDX:
        need_kvsname(out, line);
        if (!number_field(line, "idx", &out->index) || out->index < 0)
            out->wrong = "no idx";
        break;
    case PMI_ABORT:
        if (!number_field(line, "exitcode", &out->exitcode))
            out->exitcode = 1;
        break;
    case PMI_UNKNOWN:
        if (!out->wrong)
            out->wrong = "unknown command";
        break;
    default: break;
    }
}

/* ---- process mapping ---- */

struct block {
    int first, nodes, ranks;
};

static bool blocks_equal(const struct block *a, const struct block *b)
{
    return a->first == b->first && a->nodes == b->nodes && a->ranks == b->ranks;
}

/* Runs of ranks on one node, joined to blocks of neighbouring nodes with as many ranks each. NODES are already in order. */
static int blocks_build(const int *nodes, int size, struct block *blocks)
{
    int count = 0;
    for (int r = 0; r < size;) {
        int end = r;
        while (end < size && nodes[end] == nodes[r])
            end++;
        struct block *last = count > 0 ? &blocks[count - 1] : NULL;
        if (last && last->ranks == end - r && last->first + last->nodes == nodes[r])
            last->nodes++;
        else
            blocks[count++] = (struct block){nodes[r], 1, end - r};
        r = end;
    }
    return count;
}

/* The shortest period of the blocks: a reader starts over when it comes to their end. */
static int blocks_period(const struct block *blocks, int count)
{
    for (int period = 1; period < count; period++) {
        if (count % period)
            continue;
        int i = period;
        while (i < count && blocks_equal(&blocks[i], &blocks[i - period]))
            i++;
        if (i == count)
            return period;
    }
    return count;
}

struct node_number {
    int node, lowest, number;
};

static int compare_node(const void *a, const void *b)
{
    const struct node_number *x = a, *y = b;
    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    return x->lowest < y->lowest ? -1 : x->lowest > y->lowest;
}

static int compare_lowest(const void *a, const void *b)
{
    const struct node_number *x = a, *y = b;
    return x->lowest < y->lowest ? -1 : x->lowest > y->lowest;
}

/* Numbers nodes in the order of their lowest ranks. */
static bool renumber(const int *node_of, int size, int *out)
{
    struct node_number *list = malloc((size_t)size * sizeof *list);
    if (!list)
        return false;
    for (int r = 0; r < size; r++)
        list[r] = (struct node_number){node_of[r], r, 0};
    qsort(list, (size_t)size, sizeof *list, compare_node);
    int *lowest_of = out; /* first each rank's lowest neighbour, then its number */
    for (int i = 0, start = 0; i < size; i++) {
        if (list[i].node != list[start].node)
            start = i;
        lowest_of[list[i].lowest] = list[start].lowest;
    }
    qsort(list, (size_t)size, sizeof *list, compare_lowest);
    int number = 0;
    for (int r = 0; r < size; r++)
        list[r].number = lowest_of[r] == r ? number++ : list[lowest_of[r]].number;
    for (int r = 0; r < size; r++)
        out[r] = list[r].number;
    free(list);
    return true;
}

bool pmi_mapping_write(const int *node_of, int size, char *out, size_t out_size)
{
    bool fits = false;
    int *nodes = malloc((size_t)size * sizeof *nodes);
    struct block *blocks = malloc((size_t)size * sizeof *blocks);
    if (!nodes || !blocks || !renumber(node_of, size, nodes))
        goto done;
    int count = blocks_period(blocks, blocks_build(nodes, size, blocks));
    size_t used = (size_t)snprintf(out, out_size, "(vector");
    for (int i = 0; i < count && used < out_size; i++)
        used += (size_t)snprintf(out + used, out_size - used, ",(%d,%d,%d)", blocks[i].first, blocks[i].nodes, blocks[i].ranks);
    if (used < out_size)
        used += (size_t)snprintf(out + used, out_size - used, ")");
    fits = used < out_size;
done:
    free(nodes);
    free(blocks);
    return fits;
}

bool pmi_mapping_read(const char *text, int *node_of, int size)
{
    static const char begin[] = "(vector";
    if (strncmp(text, begin, sizeof begin - 1) != 0 || size < 1)
        return false;
    const char *blocks = text + sizeof begin - 1, *at = blocks;
    for (int rank = 0; rank < size;) {
        struct block b;
        int length = 0;
        if (sscanf(at, ",(%d,%d,%d)%n", &b.first, &b.nodes, &b.ranks, &length) != 3 || length == 0)
            return false;
        if (b.first < 0 || b.nodes < 1 || b.ranks < 1 || b.first > INT_MAX - b.nodes)
            return false;
        for (int n = 0; n < b.nodes && rank < size; n++)
            for (int i = 0; i < b.ranks && rank < size; i++)
                node_of[rank++] = b.first + n;
        at += length;
        if (strcmp(at, ")") == 0)
            at = blocks;
    }
    return true;
}
