/* What readers of YAML files share: one document, UTF-8, errors with their place. */
#ifndef BASE_YAML_H
#define BASE_YAML_H

#include <libfyaml.h>
#include <stdbool.h>

#include "base/error.h"

/* Where something stands. Lines and columns count from 1; line 0 is the command line. */
struct yaml_place {
    bool given;
    int line, column;
};

/* Fails with CAIRN_ECONFIG and "FILE:LINE:COLUMN: text", "FILE: text" without a place, "command line: text" for line 0. */
cairn_err yaml_fail(const char *file, struct yaml_place at, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The place of NODE if it is a scalar with text, else OTHERWISE: libfyaml gives no marks of lists and mappings. */
struct yaml_place yaml_place_of(struct fy_node *node, struct yaml_place otherwise);

/* Aliases and tags would let one place of a file change another's meaning: fails for them. NAME is what NODE is the value of. */
cairn_err yaml_check_plain(const char *file, struct fy_node *node, struct yaml_place at, const char *name);

/* Parses TEXT, called FILE in messages, and hands the one document in it to READ with CONTEXT; a text without a document is fine and not
 * handed on. WHAT is the kind of file, for the message about a second document. */
cairn_err yaml_read(const char *file, const char *what, const char *text, cairn_err (*read)(struct fy_document *document, void *context),
                    void *context);

/* TEXT for a message: one line, not long, its end replaced by "..." if need be. OUT has YAML_SHOWN_SIZE bytes. Returns OUT. */
enum { YAML_SHOWN_SIZE = 128 };
const char *yaml_shown(const char *text, char *out);

#endif
