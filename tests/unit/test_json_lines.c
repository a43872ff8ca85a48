#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/json_lines.h"

static char path[64];

static void begin(void)
{
    snprintf(path, sizeof path, "/tmp/cairn-json-lines-XXXXXX");
    close(mkstemp(path));
}

static void end(void)
{
    unlink(path);
}

TestSuite(json_lines, .init = begin, .fini = end);

static void put(const char *text)
{
    FILE *out = fopen(path, "w");
    fputs(text, out);
    fclose(out);
}

static char *contents(void)
{
    static char text[4096];
    FILE *in = fopen(path, "r");
    text[fread(text, 1, sizeof text - 1, in)] = 0;
    fclose(in);
    return text;
}

static void append_one(json_t *object)
{
    struct json_lines *file;
    cr_assert_eq(json_lines_open(path, &file), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(json_lines_write(file, object), CAIRN_OK, "%s", cairn_err_message());
    json_lines_close(file);
}

Test(json_lines, time_comes_first)
{
    append_one(json_pack("{s:i, s:f}", "step", 3, "time", 1.5));
    cr_assert_str_eq(contents(), "{\"time\":1.5,\"step\":3}\n");
    append_one(json_pack("{s:s}", "text", "two\nlines"));
    const char *second = strchr(contents(), '\n') + 1;
    cr_assert_eq(strncmp(second, "{\"time\":1", 9), 0, "%s", second);
    cr_assert(strstr(second, ",\"text\":\"two\\nlines\"}\n"), "%s", second);
}

Test(json_lines, ends_a_broken_last_line)
{
    put("{\"time\":1,\"a\":1}\n{\"time\":2,\"a");
    append_one(json_pack("{s:i}", "time", 3));
    cr_assert_str_eq(contents(), "{\"time\":1,\"a\":1}\n{\"time\":2,\"a\n{\"time\":3}\n");
    append_one(json_pack("{s:i}", "time", 4));
    cr_assert_str_eq(contents(), "{\"time\":1,\"a\":1}\n{\"time\":2,\"a\n{\"time\":3}\n{\"time\":4}\n");
}

static void add_time(json_t *object, void *context)
{
    *(json_int_t *)context = *(json_int_t *)context * 10 + json_integer_value(json_object_get(object, "time"));
}

Test(json_lines, reads_what_is_whole)
{
    put("{\"time\":1}\n{\"time\":\n[2]\n\n{\"time\":3}\nnonsense\n{\"time\":4}");
    json_int_t times = 0;
    int broken = -1;
    cr_assert_eq(json_lines_read(path, add_time, &times, &broken), CAIRN_OK);
    cr_assert_eq(times, 134);
    cr_assert_eq(broken, 3);
    unlink(path);
    cr_assert_eq(json_lines_read(path, add_time, &times, NULL), CAIRN_ENOTFOUND);
}

Test(json_lines, refuses_what_is_no_object)
{
    struct json_lines *file;
    cr_assert_eq(json_lines_open(path, &file), CAIRN_OK);
    cr_assert_eq(json_lines_write(file, json_array()), CAIRN_EINVAL);
    cr_assert_eq(json_lines_write(file, NULL), CAIRN_EINVAL);
    json_lines_close(file);
    cr_assert_eq(json_lines_open("/nonexistent/x.jsonl", &file), CAIRN_ENOTFOUND);
}

enum { WRITERS = 4, LINES = 200, PAD = 3000 };

static void write_many(int writer)
{
    static char pad[PAD + 1];
    memset(pad, 'a' + writer, PAD);
    struct json_lines *file;
    if (json_lines_open(path, &file) != CAIRN_OK)
        _exit(1);
    for (int i = 0; i < LINES; i++)
        if (json_lines_write(file, json_pack("{s:i, s:s}", "writer", writer, "pad", pad)) != CAIRN_OK)
            _exit(1);
    json_lines_close(file);
    _exit(0);
}

static void count_whole(json_t *object, void *context)
{
    int writer = (int)json_integer_value(json_object_get(object, "writer"));
    const char *pad = json_string_value(json_object_get(object, "pad"));
    for (int i = 0; i < PAD; i++)
        cr_assert_eq(pad[i], 'a' + writer, "lines of two writers are mixed");
    ((int *)context)[writer]++;
}

Test(json_lines, lines_of_several_writers_stay_whole)
{
    int counts[WRITERS] = {0}, broken = -1, status;
    for (int w = 0; w < WRITERS; w++)
        if (fork() == 0)
            write_many(w);
    for (int w = 0; w < WRITERS; w++) {
        cr_assert(wait(&status) > 0);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    cr_assert_eq(json_lines_read(path, count_whole, counts, &broken), CAIRN_OK);
    cr_assert_eq(broken, 0);
    for (int w = 0; w < WRITERS; w++)
        cr_assert_eq(counts[w], LINES);
}
