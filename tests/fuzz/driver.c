/* Runs a fuzz target over the files of folders, for compilers without libFuzzer; prints TAP, one result for each file and
 * one for its mutations: every prefix, and copies with one byte changed at a time, the same at every run. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

enum { LARGEST = 1 << 16 };

static size_t read_file(const char *path, uint8_t *data)
{
    FILE *in = fopen(path, "rb");
    if (!in) {
        perror(path);
        exit(1);
    }
    size_t size = fread(data, 1, LARGEST, in);
    fclose(in);
    return size;
}

static void mutate(uint8_t *data, size_t size)
{
    static const uint8_t bytes[] = {0, '\n', ' ', ':', '"', '{', '\t', 0x80, 0xff, '9'};
    for (size_t end = 0; end < size; end++)
        LLVMFuzzerTestOneInput(data, end);
    for (size_t i = 0; i < size; i++) {
        uint8_t kept = data[i];
        data[i] = bytes[i % sizeof bytes];
        LLVMFuzzerTestOneInput(data, size);
        data[i] = kept;
    }
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int run_folder(const char *folder, int number)
{
    static uint8_t data[LARGEST];
    struct dirent **entries;
    int count = scandir(folder, &entries, visible, alphasort);
    if (count < 0) {
        perror(folder);
        exit(1);
    }
    for (int i = 0; i < count; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        size_t size = read_file(path, data);
        LLVMFuzzerTestOneInput(data, size);
        printf("ok %d - %s\n", ++number, entries[i]->d_name);
        mutate(data, size);
        printf("ok %d - %s, mutated\n", ++number, entries[i]->d_name);
        fflush(stdout);
        free(entries[i]);
    }
    free(entries);
    return number;
}

int main(int argc, char **argv)
{
    int number = 0;
    for (int i = 1; i < argc; i++)
        number = run_folder(argv[i], number);
    printf("1..%d\n", number);
    return number == 0;
}
