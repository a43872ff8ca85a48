#include "base/yaml.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

cairn_err yaml_fail(const char *file, struct yaml_place at, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!at.given)
        return FAIL(CAIRN_ECONFIG, "%s: %s", file, text);
    if (at.line == 0)
        return FAIL(CAIRN_ECONFIG, "command line: %s", text);
    return FAIL(CAIRN_ECONFIG, "%s:%d:%d: %s", file, at.line, at.column, text);
}

const char *yaml_shown(const char *text, char *out)
{
    enum { LONGEST = 60 };
    size_t used = 0;
    for (uint32_t code; *text; used++) {
        int length = utf8_next(text, &code);
        bool plain = length > 0 && code >= ' ' && code != 0x7f && (code < 0x80 || code >= 0xa0);
        if (used + 4 > LONGEST)
            return strcpy(out + used, "..."), out;
        if (plain && length > 1) {
            memcpy(out + used, text, (size_t)length);
            used += (size_t)length - 1;
        } else {
            out[used] = plain ? *text : '?';
        }
        text += length > 0 ? length : 1;
    }
    out[used] = 0;
    return out;
}

struct yaml_place yaml_place_of(struct fy_node *node, struct yaml_place otherwise)
{
    struct fy_token *token = node && fy_node_is_scalar(node) ? fy_node_get_scalar_token(node) : NULL;
    const struct fy_mark *mark = token ? fy_token_start_mark(token) : NULL;
    if (!mark)
        return otherwise;
    enum fy_node_style style = fy_node_get_style(node);
    int lead = style == FYNS_SINGLE_QUOTED || style == FYNS_DOUBLE_QUOTED || style == FYNS_ALIAS; /* the mark stands after it */
    return (struct yaml_place){true, mark->line + 1, mark->column + 1 - lead};
}

cairn_err yaml_check_plain(const char *file, struct fy_node *node, struct yaml_place at, const char *name)
{
    if (node && fy_node_is_alias(node))
        return yaml_fail(file, at, "%s: aliases are not taken; write the value itself", name);
    if (node && fy_node_get_tag_token(node))
        return yaml_fail(file, at, "%s: tags are not taken; write the value alone", name);
    return CAIRN_OK;
}

/* ---- one document ---- */

/* libfyaml's first diagnostic as one line of ours. */
static cairn_err fail_syntax(const char *file, struct fy_diag *diag)
{
    char text[YAML_SHOWN_SIZE];
    void *position = NULL;
    struct fy_diag_error *error = fy_diag_errors_iterate(diag, &position);
    if (!error || !error->msg)
        return yaml_fail(file, (struct yaml_place){0}, "not valid YAML");
    return yaml_fail(file, (struct yaml_place){error->line > 0, error->line, error->column}, "not valid YAML: %s",
                     yaml_shown(error->msg, text));
}

/* The lines and columns are counted here, since libfyaml takes what is not UTF-8 for the end of the text. */
static cairn_err check_utf8(const char *file, const char *text)
{
    struct yaml_place at = {true, 1, 1};
    uint32_t code;
    for (int length; *text; text += length) {
        length = utf8_next(text, &code);
        if (length == 0)
            return yaml_fail(file, at, "the byte 0x%02x is not UTF-8", (unsigned)(unsigned char)*text);
        at.column = code == '\n' ? 1 : at.column + 1;
        at.line += code == '\n';
    }
    return CAIRN_OK;
}

struct handover {
    const char *file, *what;
    cairn_err (*read)(struct fy_document *document, void *context);
    void *context;
};

static cairn_err read_documents(const struct handover *to, struct fy_parser *parser, struct fy_diag *diag)
{
    struct fy_document *document = fy_parse_load_document(parser);
    if (!document)
        return fy_parser_get_stream_error(parser) ? fail_syntax(to->file, diag) : CAIRN_OK;
    cairn_err err = to->read(document, to->context);
    fy_parse_document_destroy(parser, document);
    if (err != CAIRN_OK)
        return err;
    document = fy_parse_load_document(parser);
    if (!document)
        return fy_parser_get_stream_error(parser) ? fail_syntax(to->file, diag) : CAIRN_OK;
    struct yaml_place at = {0};
    void *position = NULL;
    struct fy_node *root = fy_document_root(document);
    struct fy_node_pair *pair = root && fy_node_is_mapping(root) ? fy_node_mapping_iterate(root, &position) : NULL;
    at = yaml_place_of(pair ? fy_node_pair_key(pair) : root, at);
    fy_parse_document_destroy(parser, document);
    return yaml_fail(to->file, at, "a second document; a %s is one", to->what);
}

cairn_err yaml_read(const char *file, const char *what, const char *text, cairn_err (*read)(struct fy_document *document, void *context),
                    void *context)
{
    const struct handover to = {file, what, read, context};
    TRY(check_utf8(file, text));
    cairn_err err = FAIL(CAIRN_ENOMEM, "no memory for the %s", what);
    struct fy_diag_cfg diag_options;
    fy_diag_cfg_default(&diag_options);
    diag_options.fp = NULL; /* messages are collected, none is printed */
    struct fy_diag *diag = fy_diag_create(&diag_options);
    if (!diag)
        return err;
    fy_diag_set_collect_errors(diag, true);
    /* Duplicates are found by us: the message shall name the first one's line. */
    struct fy_parse_cfg options = {.flags = FYPCF_QUIET | FYPCF_COLLECT_DIAG | FYPCF_ALLOW_DUPLICATE_KEYS, .diag = diag};
    struct fy_parser *parser = fy_parser_create(&options);
    if (parser && fy_parser_set_string(parser, text, strlen(text)) == 0)
        err = read_documents(&to, parser, diag);
    if (parser)
        fy_parser_destroy(parser);
    fy_diag_destroy(diag);
    return err;
}
