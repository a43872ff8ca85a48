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
    case CONFIG_INT: fprintf(out, "%" PRId64, *(const int64_t *)field); break;
    case CONFIG_REAL: print_real(out, *(const double *)field); break;
    case CONFIG_BOOL: fputs(*(const bool *)field ? "true" : "false", out); break;
    case CONFIG_CHOICE: fputs(key->choices[*(const int *)field], out); break;
    }
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
    bool failed = ferror(out);
    if (fclose(out) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
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
