/* The config as text: YAML that reads back, and the reference of all keys. */
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/config_table.h"
#include "base/utf8.h"

/* ---- YAML ---- */

/* Digits enough to read back to the same bits: 15 do for what people write, 17 always. */
static void print_real(FILE *out, double value)
{
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    fputs(text, out);
}

/* Words that stay what they are without quotes; what only looks like a number is quoted too. */
static bool needs_quotes(const char *text)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-";
    static const char *const words[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
    if (text[strspn(text, plain)] || !strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/", text[0]))
        return true;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcasecmp(text, words[i]) == 0)
            return true;
    return false;
}

static void print_string(FILE *out, const char *text)
{
    if (!needs_quotes(text)) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    uint32_t code;
    for (int length; *text && (length = utf8_next(text, &code)) > 0; text += length) {
        if (code == '"' || code == '\\')
            fprintf(out, "\\%c", (int)code);
        else if (code >= ' ' && code < 0x7f)
            fputc((int)code, out);
        else if (code >= 0xa1 && code < 0x2000) /* letters; above stand also line breaks and marks that YAML does not print */
            fprintf(out, "%.*s", length, text);
        else
            fprintf(out, "\\U%08" PRIX32, code);
    }
    fputc('"', out);
}

static void print_value(FILE *out, const struct config *config, const struct config_key *key)
{
    const void *field = config_field_const(config, key);
    switch (key->kind) {
    case CONFIG_STRING: print_string(out, *(char *const *)field); break;
    case CONFIG_INT:
        if (key->automatic && *(const int64_t *)field == 0)
            fputs("auto", out);
        else if (key->endless && *(const int64_t *)field == key->most)
            fputs("inf", out);
        else
            fprintf(out, "%" PRId64, *(const int64_t *)field);
        break;
    case CONFIG_REAL: print_real(out, *(const double *)field); break;
    case CONFIG_BOOL: fputs(*(const bool *)field ? "true" : "false", out); break;
    case CONFIG_CHOICE: fputs(key->choices[*(const int *)field], out); break;
    }
}

/* Closes the stream OUT over *TEXT, which is set only then; NULL: no memory. */
static char *finish_text(FILE *out, char **text)
{
    bool failed = ferror(out);
    if (fclose(out) == 0 && !failed)
        return *text;
    free(*text);
    return NULL;
}

char *config_to_yaml(const struct config *config)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    const char *section = "";
    for (int i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->kind == CONFIG_STRING && !*(char *const *)config_field_const(config, key))
            continue;
        if (strcmp(key->section, section) != 0)
            fprintf(out, "%s:\n", section = key->section);
        fprintf(out, "%s%s: ", *section ? "  " : "", key->name);
        print_value(out, config, key);
        fputc('\n', out);
    }
    return finish_text(out, &text);
}

/* ---- what changed ---- */

/* The dataset is not among them: it is known by its fingerprint, not by its path. Of the layout, only what changes the sums is. */
static bool decides_result(const struct config_key *key)
{
    static const char *const sums[] = {"tensor", "context", "sequence", "reduce", "compress", "compress_ratio", "compress_rank", "sync",
                                       "local_steps", "outer", "outer_rate", "outer_momentum", "staleness"};
    if (strcmp(key->section, "parallel") == 0) {
        bool found = false;
        for (size_t i = 0; i < sizeof sums / sizeof sums[0]; i++)
            found = found || strcmp(key->name, sums[i]) == 0;
        return found;
    }
    static const char *const sections[] = {"batch", "model", "optimizer", NULL}, *const names[] = {"seed", "steps", "precision", "float8", NULL};
    const char *const *list = *key->section ? sections : names, *word = *key->section ? key->section : key->name;
    while (*list && strcmp(word, *list) != 0)
        list++;
    return *list;
}

static bool same_value(const struct config *a, const struct config *b, const struct config_key *key)
{
    const void *x = config_field_const(a, key), *y = config_field_const(b, key);
    switch (key->kind) {
    case CONFIG_STRING: return strcmp(*(char *const *)x ? *(char *const *)x : "", *(char *const *)y ? *(char *const *)y : "") == 0;
    case CONFIG_INT: return *(const int64_t *)x == *(const int64_t *)y;
    case CONFIG_REAL: return *(const double *)x == *(const double *)y;
    case CONFIG_BOOL: return *(const bool *)x == *(const bool *)y;
    case CONFIG_CHOICE: return *(const int *)x == *(const int *)y;
    }
    return false;
}

char *config_changes(const struct config *before, const struct config *now)
{
    char *text = NULL, name[CONFIG_NAME_SIZE];
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    const char *comma = "";
    for (int i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (!decides_result(key) || same_value(before, now, key))
            continue;
        fprintf(out, "%s%s ", comma, config_key_name(key, name));
        print_value(out, now, key);
        fputs(" (was ", out);
        print_value(out, before, key);
        fputc(')', out);
        comma = ", ";
    }
    return finish_text(out, &text);
}

/* ---- the reference ---- */

void config_print_reference(FILE *out)
{
    char name[CONFIG_NAME_SIZE], expected[CONFIG_NAME_SIZE];
    for (int s = 0; s < config_section_count; s++) {
        fprintf(out, "%s%s%s%s\n", s ? "\n" : "", config_sections[s].name, s ? ": " : "", config_sections[s].help);
        for (int i = 0; i < config_key_count; i++) {
            const struct config_key *key = &config_keys[i];
            if (strcmp(key->section, config_sections[s].name) != 0)
                continue;
            fprintf(out, "  %s\n      %s\n      %s", config_key_name(key, name), key->help, config_key_expected(key, expected));
            fprintf(out, key->standard ? "; default %s\n" : "\n", key->standard);
        }
    }
}

/* Text whose backslashes, hyphens and leading dots troff would take as its own. */
static void print_escaped(FILE *out, const char *text)
{
    for (const char *c = text; *c; c++) {
        if (*c == '\\')
            fputs("\\e", out);
        else if (*c == '-')
            fputs("\\-", out);
        else if (*c == '\'')
            fputs("\\(aq", out);
        else if (*c == '.' && c == text)
            fputs("\\&.", out);
        else
            fputc(*c, out);
    }
}

/* TEXT as a sentence: a capital first, a full stop last. */
static void print_sentence(FILE *out, const char *text)
{
    fputc(toupper((unsigned char)*text), out);
    print_escaped(out, text + 1);
    fputs(".\n", out);
}

void config_print_roff(FILE *out)
{
    char name[CONFIG_NAME_SIZE], expected[CONFIG_NAME_SIZE];
    for (int s = 0; s < config_section_count; s++) {
        fprintf(out, ".SS \"%s\"\n", s ? config_sections[s].name : "Top level");
        print_sentence(out, config_sections[s].help);
        for (int i = 0; i < config_key_count; i++) {
            const struct config_key *key = &config_keys[i];
            if (strcmp(key->section, config_sections[s].name) != 0)
                continue;
            fputs(".TP\n.B ", out);
            print_escaped(out, config_key_name(key, name));
            fputc('\n', out);
            print_sentence(out, key->help);
            fputs(".br\nTakes ", out);
            print_escaped(out, config_key_expected(key, expected));
            if (key->standard) {
                fputs("; default ", out);
                print_escaped(out, key->standard);
            }
            fputs(".\n", out);
        }
    }
}
