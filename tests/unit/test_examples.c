/* The configs that a user copies: each can be read and has a layout, on the eight ranks that it is for. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/error.h"
#include "train/parallel.h"

enum { EXAMPLE_RANKS = 8, WORDS = 256, PATH = 4096 };

static void check_example(const char *path)
{
    struct config config;
    struct layout layout;
    char *text;
    cr_assert_eq(config_read_file(path, &text), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(config_load(&config, path, text, 0, NULL), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(parallel_layout(&config, WORDS, EXAMPLE_RANKS, &layout), CAIRN_OK, "%s: %s", path, cairn_err_message());
    config_free(&config);
    free(text);
}

/* How many *.yaml are in FOLDER of the source. */
static int check_folder(const char *folder)
{
    const char *source = getenv("CAIRN_SOURCE");
    char path[PATH];
    int count = 0;
    snprintf(path, sizeof path, "%s/%s", source ? source : ".", folder);
    DIR *d = opendir(path);
    cr_assert_not_null(d, "no folder %s", path);
    for (struct dirent *e; (e = readdir(d));) {
        const char *ending = strrchr(e->d_name, '.');
        if (!ending || strcmp(ending, ".yaml") != 0)
            continue;
        char file[PATH + 256];
        snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        check_example(file);
        count++;
    }
    closedir(d);
    return count;
}

Test(examples, fit_eight_ranks)
{
    cr_assert_geq(check_folder("examples"), 1);
    cr_assert_geq(check_folder("examples/layouts"), 11);
}
