#include "io/dataset_verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "io/dataset_structure.h"
#include "io/progress.h"

/* A block where the file has no checksums. */
enum { BLOCK_BYTES = 1 << 20 };

struct verification {
    struct dataset *dataset;
    void (*each)(const struct dataset_damage *damage, void *context);
    void *context;
    struct dataset_verdict *verdict;
    struct progress progress;
    bool show;
    int64_t done;
    void *bytes;
};

static void report(struct verification *v, enum dataset_split split, int64_t block, int64_t first, int64_t count, const char *message)
{
    struct dataset_damage damage = {split, block, first, count, -1, -1, message};
    if (!dataset_file_range(v->dataset, split, first, count, &damage.file_begin, &damage.file_end))
        damage.file_begin = damage.file_end = -1;
    v->verdict->damaged++;
    v->each(&damage, v->context);
}

static cairn_err verify_block(struct verification *v, enum dataset_split split, int64_t block, int64_t first, int64_t count)
{
    const struct split_structure *s = &dataset_get_structure(v->dataset)->split[split];
    int64_t vocabulary = dataset_vocabulary(v->dataset);
    char text[128];
    v->verdict->blocks++;
    cairn_err err = dataset_read_bytes(v->dataset, split, first, count, v->bytes);
    if (err == CAIRN_ECORRUPT || err == CAIRN_EFORMAT) {
        report(v, split, block, first, count, cairn_err_message());
        return CAIRN_OK;
    }
    TRY(err);
    size_t bytes = (size_t)count * (size_t)s->token_bytes;
    uint32_t largest = tokens_widen(v->bytes, s->token_bytes, count, NULL);
    uint64_t sum = s->checksums ? XXH3_64bits(v->bytes, bytes) : 0;
    if (s->checksums && sum != s->checksums[block]) {
        snprintf(text, sizeof text, "checksum differs: stored %016llx, read %016llx", (unsigned long long)s->checksums[block],
                 (unsigned long long)sum);
        report(v, split, block, first, count, text);
    } else if (largest >= vocabulary) {
        snprintf(text, sizeof text, "token %u; the vocabulary has %lld", largest, (long long)vocabulary);
        report(v, split, block, first, count, text);
    }
    v->done += (int64_t)bytes;
    if (v->show)
        progress_update(&v->progress, v->done);
    return CAIRN_OK;
}

static int64_t block_tokens(const struct split_structure *s)
{
    return (s->checksum_bytes ? s->checksum_bytes : BLOCK_BYTES) / s->token_bytes;
}

static cairn_err verify_split(struct verification *v, enum dataset_split split)
{
    const struct split_structure *s = &dataset_get_structure(v->dataset)->split[split];
    int64_t most = block_tokens(s);
    if (s->tokens > 0 && !s->checksums)
        v->verdict->checksums = false;
    v->bytes = malloc((size_t)(most * s->token_bytes));
    if (!v->bytes)
        return FAIL(CAIRN_ENOMEM, "no memory for a block of %lld tokens", (long long)most);
    cairn_err err = CAIRN_OK;
    for (int64_t block = 0, first = 0; err == CAIRN_OK && first < s->tokens; block++, first += most)
        err = verify_block(v, split, block, first, s->tokens - first < most ? s->tokens - first : most);
    free(v->bytes);
    return err;
}

cairn_err dataset_verify(struct dataset *dataset, bool progress, void (*each)(const struct dataset_damage *damage, void *context),
                         void *context, struct dataset_verdict *verdict)
{
    *verdict = (struct dataset_verdict){.checksums = true};
    struct verification v = {.dataset = dataset, .each = each, .context = context, .verdict = verdict, .show = progress};
    int64_t total = 0;
    for (int i = 0; i < SPLIT_COUNT; i++) {
        const struct split_structure *s = &dataset_get_structure(dataset)->split[i];
        total += s->tokens * s->token_bytes;
    }
    progress_begin(&v.progress, "verifying", total);
    cairn_err err = verify_split(&v, SPLIT_TRAIN);
    if (err == CAIRN_OK)
        err = verify_split(&v, SPLIT_VALIDATION);
    progress_end(&v.progress);
    return err;
}
