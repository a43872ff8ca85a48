/* Saves the arrays of tests/ranks/checkpoint_arrays.h: make_checkpoint DIR STEP SEED LAYOUT NODES [small], on any number of
 * ranks. "small" leaves out the arrays of more than 1000 elements.
 * Rank 0 also writes each array whole to DIR/raw/ARRAY with its "/" as "+", for other programs to compare. */
#include <mpi.h>
#include <sys/stat.h>

#include "ckpt/checkpoint.h"
#include "ckpt/inspect.h"
#include "tests/ranks/checkpoint_arrays.h"

static int write_raw(const char *dir, struct shard *s)
{
    char name[SHARD_NAME_SIZE], path[4096];
    snprintf(name, sizeof name, "%s", s->name);
    for (char *c = name; *c; c++)
        if (*c == '/')
            *c = '+';
    snprintf(path, sizeof path, "%s/raw", dir);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/raw/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f)
        return 1;
    size_t written = fwrite(s->data, 1, shard_bytes(s), f);
    return fclose(f) != 0 || written != shard_bytes(s);
}

static int drop_large(struct shard *shards, int count)
{
    int kept = 0;
    for (int i = 0; i < count; i++)
        if (shard_global_elements(&shards[i]) > 1000)
            free(shards[i].data);
        else
            shards[kept++] = shards[i];
    return kept;
}

int main(int argc, char **argv)
{
    struct shard shards[ARRAY_COUNT];
    int rank, size, node_of[64], failed = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (argc < 6 || size > 64)
        return 2;
    int nodes = atoi(argv[5]);
    bool small = argc > 6;
    for (int r = 0; r < size; r++)
        node_of[r] = r % nodes;
    struct checkpoint_group group = {MPI_COMM_WORLD, node_of};
    struct checkpoint_facts facts = {.step = atoll(argv[2]), .config = "name: made\n", .signature = "cpu\n", .extra = "{\"loss\": 1.5}"};
    uint64_t seed = strtoull(argv[3], NULL, 10);
    int count = make_shards(shards, (enum layout_kind)atoi(argv[4]), rank, size);
    count = small ? drop_large(shards, count) : count;
    visit_shards(shards, count, seed, false);
    if (checkpoint_save(&group, argv[1], &facts, shards, count) != CAIRN_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, cairn_err_message());
        failed = 1;
    }
    free_shards(shards, count);
    if (rank == 0) {
        char hash[17];
        count = make_shards(shards, LAYOUT_REPLICATED, 0, 1);
        count = small ? drop_large(shards, count) : count;
        visit_shards(shards, count, seed, false);
        for (int i = 0; i < count; i++)
            failed |= write_raw(argv[1], &shards[i]);
        if (checkpoint_hash_shards(shards, count, "weights/", hash) == CAIRN_OK)
            puts(hash);
        free_shards(shards, count);
    }
    fflush(stdout);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    return failed;
}
