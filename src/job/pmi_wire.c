#include "job/pmi_wire.h"

#include <stdio.h>
#include <string.h>

bool pmi_wire_value(const char *line, const char *name, bool rest, char *out, size_t size)
{
    size_t length = strlen(name);
    for (const char *word = line; *word;) {
        word += strspn(word, " ");
        if (strncmp(word, name, length) == 0 && word[length] == '=') {
            const char *value = word + length + 1;
            size_t n = rest ? strcspn(value, "\n") : strcspn(value, " \n");
            if (n >= size)
                return false;
            memcpy(out, value, n);
            out[n] = 0;
            return true;
        }
        word += strcspn(word, " ");
    }
    return false;
}

/* The run of ranks on one node that begins at RANK. */
static int run_length(const int *node_of, int ranks, int rank)
{
    int n = 1;
    while (rank + n < ranks && node_of[rank + n] == node_of[rank])
        n++;
    return n;
}

bool pmi_wire_mapping(const int *node_of, int ranks, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "(vector");
    for (int rank = 0; rank < ranks;) {
        /* A block: consecutive nodes with the same number of ranks each. */
        int first = node_of[rank], each = run_length(node_of, ranks, rank), nodes = 1;
        rank += each;
        while (rank < ranks && node_of[rank] == first + nodes && run_length(node_of, ranks, rank) == each) {
            rank += each;
            nodes++;
        }
        if (used < size)
            used += (size_t)snprintf(out + used, size - used, ",(%d,%d,%d)", first, nodes, each);
    }
    if (used < size)
        used += (size_t)snprintf(out + used, size - used, ")");
    return used < size;
}
