#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/dataset.h"
#include "io/dataset_structure.h"
#include "io/dataset_verify.h"
#include "tests/unit/dataset_file.h"

static char path[64];

static void make_path(void)
{
    snprintf(path, sizeof path, "/tmp/cairn-test-dataset.%d.h5", (int)getpid());
}

static void remove_path(void)
{
    unlink(path);
}

/* Opens PATH, which must fail with CODE and a message that holds TEXT and the path. */
static void expect_error(cairn_err code, const char *text)
{
    struct dataset *dataset;
    cairn_err err = dataset_open_alone(path, &dataset);
    cr_assert_eq(err, code, "%s instead of %s: %s", cairn_err_name(err), cairn_err_name(code), cairn_err_message());
    cr_assert_null(dataset);
    cr_assert(strstr(cairn_err_message(), text), "no '%s' in: %s", text, cairn_err_message());
    cr_assert(strstr(cairn_err_message(), path), "no path in: %s", cairn_err_message());
}

/* ---- golden files, which h5py made ---- */

static const char *golden(const char *name)
{
    static char golden_path[4096];
    const char *source = getenv("CAIRN_SOURCE");
    snprintf(golden_path, sizeof golden_path, "%s/tests/golden/dataset/%s.h5", source ? source : ".", name);
    return golden_path;
}

static void check_golden(const char *name, int64_t vocabulary, int token_bytes, enum storage storage)
{
    static const int64_t counts[] = {1000, 200};
    struct dataset *dataset;
    cr_assert_eq(dataset_open_alone(golden(name), &dataset), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(dataset_vocabulary(dataset), vocabulary);
    cr_assert_str_eq(dataset_tokenizer(dataset), "formula");
    for (int split = 0; split < 2; split++) {
        int32_t tokens[1000];
        cr_assert_eq(dataset_tokens(dataset, (enum dataset_split)split), counts[split]);
        cr_assert_eq(dataset_get_structure(dataset)->split[split].token_bytes, token_bytes);
        cr_assert_eq(dataset_get_structure(dataset)->split[split].storage, storage);
        cr_assert_eq(dataset_read(dataset, (enum dataset_split)split, 0, counts[split], tokens), CAIRN_OK, "%s", cairn_err_message());
        for (int64_t i = 0; i < counts[split]; i++)
            cr_assert_eq(tokens[i], (i * i * 7 + i * 3 + split) % vocabulary, "%s: token %d of split %d", name, (int)i, split);
    }
    dataset_close(dataset);
}

Test(dataset, reads_golden_contiguous) { check_golden("contiguous", 256, 1, STORAGE_CONTIGUOUS); }
Test(dataset, reads_golden_chunked) { check_golden("chunked", 5000, 2, STORAGE_CHUNKED); }
Test(dataset, reads_golden_deflate) { check_golden("deflate", 100000, 4, STORAGE_DEFLATE); }
Test(dataset, reads_golden_bigendian) { check_golden("bigendian", 5000, 2, STORAGE_LIBRARY); }
Test(dataset, reads_golden_shuffle) { check_golden("shuffle", 5000, 2, STORAGE_LIBRARY); }

/* ---- any range of any layout ---- */

static void check_ranges(const struct dataset_file *file)
{
    struct dataset *dataset;
    dataset_file_make(path, file);
    cr_assert_eq(dataset_open_alone(path, &dataset), CAIRN_OK, "%s", cairn_err_message());
    for (int split = 0; split < 2; split++)
        for (int64_t k = 0; k < 300; k++) {
            int64_t first = k * 7919 % file->tokens[split], count = k * 104729 % (file->tokens[split] - first) % 5000 + 1;
            int32_t tokens[5000];
            cr_assert_eq(dataset_read(dataset, (enum dataset_split)split, first, count, tokens), CAIRN_OK, "%s", cairn_err_message());
            for (int64_t i = 0; i < count; i++)
                cr_assert_eq((uint32_t)tokens[i], dataset_file_token(file, split, first + i));
        }
    dataset_close(dataset);
}

Test(dataset, reads_ranges_contiguous, .init = make_path, .fini = remove_path)
{
    for (int bytes = 1; bytes <= 4; bytes *= 2)
        check_ranges(&(struct dataset_file){.tokens = {20000, 3000}, .token_bytes = bytes, .bad_token = -1});
}

Test(dataset, reads_ranges_chunked, .init = make_path, .fini = remove_path)
{
    for (int bytes = 1; bytes <= 4; bytes *= 2)
        check_ranges(&(struct dataset_file){.tokens = {20000, 3000}, .token_bytes = bytes, .chunk_tokens = 777, .bad_token = -1});
}

Test(dataset, reads_ranges_deflate, .init = make_path, .fini = remove_path)
{
    for (int bytes = 1; bytes <= 4; bytes *= 2)
        check_ranges(&(struct dataset_file){.tokens = {20000, 3000}, .token_bytes = bytes, .chunk_tokens = 777, .deflate = 1, .bad_token = -1});
}

/* More chunks than a table is made for. */
Test(dataset, reads_ranges_of_many_chunks, .init = make_path, .fini = remove_path)
{
    check_ranges(&(struct dataset_file){.tokens = {20000, 3000}, .token_bytes = 2, .chunk_tokens = 16, .deflate = 1, .bad_token = -1});
    check_ranges(&(struct dataset_file){.tokens = {20000, 3000}, .token_bytes = 2, .chunk_tokens = 16, .bad_token = -1});
}

Test(dataset, samples_and_bounds, .init = make_path, .fini = remove_path)
{
    struct dataset *dataset;
    int32_t tokens[8];
    dataset_file_make(path, &(struct dataset_file){.tokens = {1025, 0}, .token_bytes = 1, .bad_token = -1});
    cr_assert_eq(dataset_open_alone(path, &dataset), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(dataset_samples(dataset, SPLIT_TRAIN, 256), 4);
    cr_assert_eq(dataset_samples(dataset, SPLIT_TRAIN, 1025), 0);
    cr_assert_eq(dataset_samples(dataset, SPLIT_VALIDATION, 1), 0);
    cr_assert_eq(dataset_read(dataset, SPLIT_TRAIN, 1020, 5, tokens), CAIRN_OK);
    cr_assert_eq(dataset_read(dataset, SPLIT_TRAIN, 1020, 6, tokens), CAIRN_EINVAL);
    cr_assert_eq(dataset_read(dataset, SPLIT_TRAIN, -1, 2, tokens), CAIRN_EINVAL);
    cr_assert_eq(dataset_read(dataset, SPLIT_VALIDATION, 0, 1, tokens), CAIRN_EINVAL);
    cr_assert_eq(dataset_read(dataset, SPLIT_VALIDATION, 0, 0, tokens), CAIRN_OK);
    dataset_close(dataset);
}

/* ---- what is not a dataset ---- */

Test(dataset, wrong_files, .init = make_path, .fini = remove_path)
{
    expect_error(CAIRN_ENOTFOUND, "No such file");
    FILE *out = fopen(path, "w");
    fclose(out);
    expect_error(CAIRN_EFORMAT, "empty");
    out = fopen(path, "w");
    fputs("once upon a time there was a text that nobody imported\n", out);
    fclose(out);
    expect_error(CAIRN_EFORMAT, "not an HDF5 file");
    struct dataset_file file = {.tokens = {100, 100}, .token_bytes = 1, .bad_token = -1};
    static const char *const parts[][2] = {{"format", "no Cairn dataset"}, {"version", "'version'"}, {"kind", "'kind'"},
        {"tokenizer", "'tokenizer'"}, {"vocabulary", "'vocabulary'"}, {"train", "/train/tokens"}, {"validation", "/validation/tokens"}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        file.leave_out = parts[i][0];
        dataset_file_make(path, &file);
        expect_error(CAIRN_EFORMAT, parts[i][1]);
    }
}

Test(dataset, wrong_attributes, .init = make_path, .fini = remove_path)
{
    struct dataset_file file = {.tokens = {100, 100}, .token_bytes = 1, .bad_token = -1};
    file.format = "something-else";
    dataset_file_make(path, &file);
    expect_error(CAIRN_EFORMAT, "something-else");
    file.format = NULL;
    file.kind = "images";
    dataset_file_make(path, &file);
    expect_error(CAIRN_EUNSUPPORTED, "images");
    file.kind = NULL;
    file.version = 2;
    dataset_file_make(path, &file);
    expect_error(CAIRN_EFORMAT, "version 2");
}

Test(dataset, truncated, .init = make_path, .fini = remove_path)
{
    struct dataset_file file = {.tokens = {20000, 3000}, .token_bytes = 1, .bad_token = -1};
    for (int layout = 0; layout < 3; layout++) {
        file.chunk_tokens = layout ? 777 : 0;
        file.deflate = layout == 2;
        for (int cut = 1; cut < 8; cut++) {
            dataset_file_make(path, &file);
            FILE *f = fopen(path, "r");
            fseek(f, 0, SEEK_END);
            long size = ftell(f);
            fclose(f);
            cr_assert_eq(truncate(path, size * cut / 8), 0);
            expect_error(CAIRN_EFORMAT, "cut off");
        }
    }
}

/* A file that shrinks after it was opened: no crash by a signal, an error that says so. */
Test(dataset, cut_off_while_open, .init = make_path, .fini = remove_path)
{
    struct dataset *dataset;
    int32_t tokens[100];
    dataset_file_make(path, &(struct dataset_file){.tokens = {20000, 3000}, .token_bytes = 1, .bad_token = -1});
    cr_assert_eq(dataset_open_alone(path, &dataset), CAIRN_OK);
    cr_assert_eq(truncate(path, 1000), 0);
    cr_assert_eq(dataset_read(dataset, SPLIT_TRAIN, 19000, 100, tokens), CAIRN_EFORMAT);
    cr_assert(strstr(cairn_err_message(), "cut off"), "%s", cairn_err_message());
    dataset_close(dataset);
}

Test(dataset, token_outside_vocabulary, .init = make_path, .fini = remove_path)
{
    struct dataset *dataset;
    int32_t tokens[100];
    dataset_file_make(path, &(struct dataset_file){.tokens = {1000, 100}, .token_bytes = 2, .vocabulary = 300, .bad_token = 500});
    cr_assert_eq(dataset_open_alone(path, &dataset), CAIRN_OK);
    cr_assert_eq(dataset_read(dataset, SPLIT_TRAIN, 400, 100, tokens), CAIRN_OK);
    cr_assert_eq(dataset_read(dataset, SPLIT_TRAIN, 401, 100, tokens), CAIRN_EFORMAT);
    cr_assert(strstr(cairn_err_message(), "token 300"), "%s", cairn_err_message());
    dataset_close(dataset);
}

/* ---- verify ---- */

struct found {
    int count;
    struct dataset_damage last;
};

static void note(const struct dataset_damage *damage, void *context)
{
    struct found *found = context;
    found->count++;
    found->last = *damage;
}

static void copy_golden(const char *name)
{
    char command[8500];
    snprintf(command, sizeof command, "cp %s %s && chmod u+w %s", golden(name), path, path);
    cr_assert_eq(system(command), 0);
}

/* Every token byte flipped in turn: found, in its block, at its place. */
static void check_flips(const char *name, int stride)
{
    struct dataset *dataset;
    int64_t begin, end;
    copy_golden(name);
    cr_assert_eq(dataset_open_alone(path, &dataset), CAIRN_OK, "%s", cairn_err_message());
    cr_assert(dataset_file_range(dataset, SPLIT_TRAIN, 0, 1000, &begin, &end));
    FILE *file = fopen(path, "r+");
    setvbuf(file, NULL, _IONBF, 0);
    for (int64_t at = begin; at < end; at += stride) {
        struct found found = {0};
        struct dataset_verdict verdict;
        fseek(file, at, SEEK_SET);
        int byte = fgetc(file);
        fseek(file, at, SEEK_SET);
        fputc(byte ^ 0x10, file);
        cr_assert_eq(dataset_verify(dataset, false, note, &found, &verdict), CAIRN_OK, "%s", cairn_err_message());
        cr_assert(verdict.checksums);
        cr_assert_geq(found.count, 1, "%s: byte %d flipped and not found", name, (int)at);
        cr_assert(found.last.file_begin <= at && at < found.last.file_end, "%s: byte %d found in %d to %d", name, (int)at,
                  (int)found.last.file_begin, (int)found.last.file_end);
        fseek(file, at, SEEK_SET);
        fputc(byte, file);
    }
    fclose(file);
    dataset_close(dataset);
}

Test(dataset, verify_finds_flips_contiguous, .init = make_path, .fini = remove_path) { check_flips("contiguous", 1); }

/* Compressed chunks are cached decoded: a fresh handle has to see the damage. */
Test(dataset, verify_finds_damaged_chunk, .init = make_path, .fini = remove_path)
{
    struct dataset *dataset;
    int64_t begin, end;
    struct found found = {0};
    struct dataset_verdict verdict;
    copy_golden("deflate");
    cr_assert_eq(dataset_open_alone(path, &dataset), CAIRN_OK);
    cr_assert(dataset_file_range(dataset, SPLIT_TRAIN, 300, 1, &begin, &end));
    FILE *file = fopen(path, "r+");
    fseek(file, (begin + end) / 2, SEEK_SET);
    int byte = fgetc(file);
    fseek(file, (begin + end) / 2, SEEK_SET);
    fputc(byte ^ 1, file);
    fclose(file);
    cr_assert_eq(dataset_verify(dataset, false, note, &found, &verdict), CAIRN_OK);
    cr_assert_eq(found.count, 1);
    cr_assert_eq(verdict.damaged, 1);
    cr_assert(found.last.first_token <= 300 && 300 < found.last.first_token + found.last.tokens);
    cr_assert(found.last.file_begin <= begin && end <= found.last.file_end);
    for (int again = 0; again < 2; again++) { /* what failed is not kept as if it were decoded */
        int32_t token;
        cr_assert_eq(dataset_read(dataset, SPLIT_TRAIN, 300, 1, &token), CAIRN_ECORRUPT);
    }
    dataset_close(dataset);
}

Test(dataset, verify_finds_a_token_outside_the_vocabulary, .init = make_path, .fini = remove_path)
{
    struct dataset *dataset;
    struct found found = {0};
    struct dataset_verdict verdict;
    dataset_file_make(path, &(struct dataset_file){.tokens = {1000, 100}, .token_bytes = 2, .vocabulary = 300, .bad_token = 500});
    cr_assert_eq(dataset_open_alone(path, &dataset), CAIRN_OK);
    cr_assert_eq(dataset_verify(dataset, false, note, &found, &verdict), CAIRN_OK);
    cr_assert_eq(found.count, 1);
    cr_assert(found.last.split == SPLIT_TRAIN && found.last.first_token <= 500 && 500 < found.last.first_token + found.last.tokens);
    dataset_close(dataset);
}

Test(dataset, fingerprint_tells_datasets_apart, .init = make_path, .fini = remove_path)
{
    struct dataset *a, *b, *c;
    cr_assert_eq(dataset_open_alone(golden("contiguous"), &a), CAIRN_OK);
    cr_assert_eq(dataset_open_alone(golden("contiguous"), &b), CAIRN_OK);
    cr_assert_eq(dataset_open_alone(golden("chunked"), &c), CAIRN_OK);
    cr_assert_eq(dataset_fingerprint(a), dataset_fingerprint(b));
    cr_assert_neq(dataset_fingerprint(a), dataset_fingerprint(c));
    dataset_close(a);
    dataset_close(b);
    dataset_close(c);
}
