/* Any bytes as a dataset's file: opening, reading all and verifying it gives tokens or an error, never a crash, and tokens
 * are below the vocabulary. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/dataset.h"
#include "io/dataset_structure.h"
#include "io/dataset_verify.h"
#include "tests/fuzz/fuzz.h"

/* Damage may claim any number of tokens; so many are looked at. */
enum { MOST_TOKENS = 4096, PIECE = 100 };

static void must(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "fuzz_dataset: %s\n", what);
    abort();
}

static void read_split(struct dataset *dataset, enum dataset_split split)
{
    int32_t tokens[PIECE];
    int64_t count = dataset_tokens(dataset, split);
    must(count >= 0, "a negative number of tokens");
    for (int64_t first = 0; first < count && first < MOST_TOKENS; first += PIECE) {
        int64_t n = count - first < PIECE ? count - first : PIECE;
        if (dataset_read(dataset, split, first, n, tokens) != CAIRN_OK) {
            must(cairn_err_message()[0] != 0, "an error without message");
            continue;
        }
        for (int64_t i = 0; i < n; i++)
            must(tokens[i] >= 0 && tokens[i] < dataset_vocabulary(dataset), "a token outside the vocabulary");
    }
}

static void ignore(const struct dataset_damage *damage, void *context)
{
    (void)context;
    must(damage->tokens > 0 && damage->message[0] != 0, "a damage without place or message");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct dataset *dataset;
    struct dataset_verdict verdict;
    int fd = memfd_create("dataset", MFD_CLOEXEC);
    must(fd >= 0 && write(fd, data, size) == (ssize_t)size, "no memory file");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (dataset_open_alone(path, &dataset) == CAIRN_OK) {
        read_split(dataset, SPLIT_TRAIN);
        read_split(dataset, SPLIT_VALIDATION);
        if (dataset_tokens(dataset, SPLIT_TRAIN) <= MOST_TOKENS && dataset_tokens(dataset, SPLIT_VALIDATION) <= MOST_TOKENS)
            dataset_verify(dataset, false, ignore, NULL, &verdict);
        dataset_close(dataset);
    } else {
        must(cairn_err_message()[0] != 0, "an error without message");
    }
    close(fd);
    return 0;
}
