#include "doctor/report.h"

#include <stdarg.h>
#include <string.h>
#include <unistd.h>

static const char *const mark_names[] = {"ok", "warning", "trouble"};

/* JSON is UTF-8; what libraries and the system call things need not be. */
static json_t *string_of(char *text)
{
    json_t *string = json_string(text);
    for (char *c = text; !string && *c; c++)
        *c = (unsigned char)*c < 0x80 ? *c : '?';
    return string ? string : json_string(text);
}

static json_t *fact_new(enum mark mark, const char *name, const char *advice, char *text)
{
    json_t *fact = json_pack("{s:s, s:s, s:o}", "name", name, "mark", mark_names[mark], "text", string_of(text));
    if (!fact || !advice || mark == MARK_OK || json_object_set_new(fact, "advice", json_string(advice)) == 0)
        return fact;
    json_decref(fact);
    return NULL;
}

void fact_number(struct facts *f, const char *name, long long number)
{
    if (!f->numbers)
        f->numbers = json_object();
    f->failed |= json_object_set_new(f->numbers, name, json_integer(number)) != 0;
}

void fact_tell(struct facts *f, enum mark mark, const char *name, const char *advice, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    json_t *fact = fact_new(mark, name, advice, text);
    if (f->numbers)
        f->failed |= json_object_update(fact, f->numbers) != 0;
    f->failed |= !fact || json_dumpf(fact, f->out, JSON_COMPACT | JSON_ENSURE_ASCII) || putc('\n', f->out) == EOF || fflush(f->out);
    json_decref(fact);
    json_decref(f->numbers);
    f->numbers = NULL;
}

json_t *report_new(void)
{
    char host[64] = "?";
    gethostname(host, sizeof host - 1);
    return json_pack("{s:o, s:i, s:i, s:[]}", "host", string_of(host), "troubles", 0, "warnings", 0, "parts");
}

static void count(json_t *report, const char *name)
{
    json_t *number = json_object_get(report, name);
    json_integer_set(number, json_integer_value(number) + 1);
}

static bool has_mark(const json_t *fact, enum mark mark)
{
    const char *name = json_string_value(json_object_get(fact, "mark"));
    return name && strcmp(name, mark_names[mark]) == 0;
}

/* Releases FACT. */
static void append(json_t *report, json_t *part, json_t *fact)
{
    if (has_mark(fact, MARK_TROUBLE))
        count(report, "troubles");
    else if (has_mark(fact, MARK_WARNING))
        count(report, "warnings");
    json_array_append_new(json_object_get(part, "facts"), fact);
}

json_t *report_add(json_t *report, const char *title, const char *text)
{
    json_t *part = json_pack("{s:s, s:[]}", "name", title, "facts");
    for (const char *end; (end = strchr(text, '\n')); text = end + 1) {
        json_t *fact = json_loadb(text, (size_t)(end - text), 0, NULL);
        if (fact)
            append(report, part, fact);
    }
    json_array_append_new(json_object_get(report, "parts"), part);
    return part;
}

void report_tell(json_t *report, json_t *part, enum mark mark, const char *name, const char *advice, const char *text)
{
    char copy[1024];
    snprintf(copy, sizeof copy, "%s", text);
    append(report, part, fact_new(mark, name, advice, copy));
}

const char *report_last(const json_t *part)
{
    const json_t *facts = json_object_get(part, "facts");
    size_t facts_count = json_array_size(facts);
    return facts_count ? json_string_value(json_object_get(json_array_get(facts, facts_count - 1), "name")) : NULL;
}

long long report_number(const json_t *part, const char *name, const char *number)
{
    size_t i;
    const json_t *fact;
    json_array_foreach(json_object_get(part, "facts"), i, fact) {
        const char *its = json_string_value(json_object_get(fact, "name"));
        const json_t *found = json_object_get(fact, number);
        if (found && its && strcmp(its, name) == 0)
            return json_integer_value(found);
    }
    return -1;
}

int report_troubles(const json_t *report)
{
    return (int)json_integer_value(json_object_get(report, "troubles"));
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

static void print_part(const json_t *part, FILE *out)
{
    size_t i;
    const json_t *fact;
    fprintf(out, "%s\n", text_of(part, "name"));
    json_array_foreach(json_object_get(part, "facts"), i, fact) {
        fprintf(out, "  %-8s %s: %s\n", text_of(fact, "mark"), text_of(fact, "name"), text_of(fact, "text"));
        if (*text_of(fact, "advice"))
            fprintf(out, "           -> %s\n", text_of(fact, "advice"));
    }
}

void report_print(const json_t *report, FILE *out)
{
    size_t i;
    const json_t *part;
    int troubles = report_troubles(report), warnings = (int)json_integer_value(json_object_get(report, "warnings"));
    json_array_foreach(json_object_get(report, "parts"), i, part)
        print_part(part, out);
    fprintf(out, "%s: %d trouble%s, %d warning%s\n", text_of(report, "host"), troubles, troubles == 1 ? "" : "s", warnings,
            warnings == 1 ? "" : "s");
}
