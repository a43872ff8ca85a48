/* The one table of keys that config.c reads by and config_print.c writes by. Private to these. */
#ifndef BASE_CONFIG_TABLE_H
#define BASE_CONFIG_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/config.h"

enum config_kind {
    CONFIG_STRING, /* char *; one of CHOICES if there are any */
    CONFIG_INT,    /* int64_t from LEAST to MOST */
    CONFIG_REAL,   /* double from LOW to HIGH; with OPEN_LOW or OPEN_HIGH without that end */
    CONFIG_BOOL,   /* bool */
    CONFIG_CHOICE, /* int: the index of one of CHOICES */
};

struct config_key {
    const char *section; /* "" for the keys of no section */
    const char *name;
    enum config_kind kind;
    size_t offset;        /* in struct config */
    const char *standard; /* the default as it would be written; NULL: none, or one that HELP tells */
    const char *help;     /* one line; units in it */
    int64_t least, most;
    double low, high;
    bool open_low, open_high;
    const char *const *choices; /* ends with NULL */
    bool automatic; /* of an integer: 0 is written "auto" */
    bool endless;   /* of an integer: MOST is written "inf" */
    bool chosen;    /* by the planner, where its section's key auto says so */
};

struct config_section {
    const char *name, *help;
};

/* Sections in the order of the reference; the first is "". Keys of a section stand together, in the same order. */
extern const struct config_section config_sections[];
extern const struct config_key config_keys[];
extern const int config_section_count, config_key_count;

enum { CONFIG_KEYS_MAX = 96, CONFIG_NAME_SIZE = 128 };

/* "section.name" or "name"; OUT has CONFIG_NAME_SIZE bytes. Returns OUT. */
char *config_key_name(const struct config_key *key, char *out);

/* What KEY takes, e.g. "a whole number from 1 to 65536"; OUT has CONFIG_NAME_SIZE bytes. Returns OUT. */
char *config_key_expected(const struct config_key *key, char *out);

static inline void *config_field(struct config *config, const struct config_key *key)
{
    return (char *)config + key->offset;
}

static inline const void *config_field_const(const struct config *config, const struct config_key *key)
{
    return (const char *)config + key->offset;
}

/* Reads TEXT as KEY's value into CONFIG. False: TEXT is not what config_key_expected tells, and nothing is changed. *MEMORY is set
 * to false when memory is short. */
bool config_key_parse(struct config *config, const struct config_key *key, const char *text, bool *memory);

/* The dotted name of the key or section nearest to NAME ("modle.layer"), or NULL if none is near. OUT has CONFIG_NAME_SIZE bytes. */
const char *config_nearest(const char *name, char *out);

#endif
