/* ranks: 4. Checkpoints saved in every layout and node map, loaded in every other, on all ranks and on 1 and 3 of them. */
#include <errno.h>
#include <mpi.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ckpt/checkpoint.h"
#include "ckpt/folder.h"
#include "ckpt/inspect.h"
#include "tests/ranks/checkpoint_arrays.h"
#include "tests/ranks/tap.h"

enum { RANKS = 4 };

static int rank;
static char base[256];

static const char *const node_map_names[NODE_MAP_COUNT] = {"one node", "a node a rank", "two nodes"};

static void new_dir(char dir[300], const char *name)
{
    snprintf(dir, 300, "%s/%s", base, name);
    MPI_Barrier(MPI_COMM_WORLD);
}

static void test_layouts(void)
{
    char dir[300], hash[17], first[17] = "";
    bool same_hash = true;
    new_dir(dir, "layouts");
    for (int from = 0; from < LAYOUT_COUNT; from++)
        for (int map = 0; map < NODE_MAP_COUNT; map++) {
            int64_t step, wrong;
            cairn_err err = save_arrays(MPI_COMM_WORLD, node_maps[map], dir, (enum layout_kind)from, 7, 100);
            tap_ok(err == CAIRN_OK, "save in layout %d, %s", from, node_map_names[map]);
            char path[FOLDER_PATH_SIZE];
            folder_step_path(dir, 7, "", path);
            if (rank == 0)
                same_hash &= checkpoint_hash(path, "weights/", hash) == CAIRN_OK && (!first[0] || strcmp(hash, first) == 0);
            memcpy(first, hash, sizeof first);
            for (int to = 2 * map; to < 2 * map + 2; to++) { /* over the maps, every pair of layouts */
                err = restore_arrays(MPI_COMM_WORLD, dir, (enum layout_kind)to, 93, &step, &wrong);
                tap_ok(err == CAIRN_OK && step == 7 && wrong == 0, "layout %d (%s) to layout %d: %lld wrong", from, node_map_names[map], to,
                       (long long)wrong);
            }
        }
    tap_ok(same_hash, "the hash is the same for all layouts");
}

static void test_fewer_ranks(void)
{
    static const int sizes[2] = {1, 3};
    char dir[300];
    new_dir(dir, "fewer");
    for (int from = 0; from < LAYOUT_COUNT; from++) {
        cairn_err err = save_arrays(MPI_COMM_WORLD, node_maps[TWO_NODES], dir, (enum layout_kind)from, from + 1, 5);
        tap_ok(err == CAIRN_OK, "save in layout %d for fewer ranks", from);
        for (int k = 0; k < 2; k++) {
            MPI_Comm sub;
            int64_t step = from + 1, wrong = 0;
            MPI_Comm_split(MPI_COMM_WORLD, rank < sizes[k] ? 0 : MPI_UNDEFINED, rank, &sub);
            if (sub != MPI_COMM_NULL)
                err = restore_arrays(sub, dir, (enum layout_kind)((from + k) % LAYOUT_COUNT), 5 - (uint64_t)step, &step, &wrong);
            tap_ok(err == CAIRN_OK && step == from + 1 && wrong == 0, "layout %d of 4 ranks on %d ranks", from, sizes[k]);
            if (sub != MPI_COMM_NULL)
                err = save_arrays(sub, node_maps[ONE_NODE], dir, LAYOUT_ROWS, 50, 5);
            tap_ok(err == CAIRN_OK, "save on %d ranks", sizes[k]);
            MPI_Barrier(MPI_COMM_WORLD);
            int64_t again;
            err = restore_arrays(MPI_COMM_WORLD, dir, LAYOUT_MIXED, 5 - 50, &again, &wrong);
            tap_ok(err == CAIRN_OK && again == 50 && wrong == 0, "from %d ranks to 4", sizes[k]);
            if (sub != MPI_COMM_NULL)
                MPI_Comm_free(&sub);
            char path[FOLDER_PATH_SIZE];
            folder_step_path(dir, 50, "", path);
            if (rank == 0)
                folder_remove(path);
            MPI_Barrier(MPI_COMM_WORLD);
        }
    }
}

static void test_wrong_model(void)
{
    char dir[300], path[FOLDER_PATH_SIZE];
    struct shard shards[ARRAY_COUNT + 1];
    struct checkpoint_group group = {MPI_COMM_WORLD, node_maps[ONE_NODE]};
    struct checkpoint_facts facts;
    new_dir(dir, "model");
    save_arrays(MPI_COMM_WORLD, node_maps[ONE_NODE], dir, LAYOUT_REPLICATED, 3, 1);
    folder_step_path(dir, 3, "", path);
    int count = make_shards(shards, LAYOUT_REPLICATED, rank, RANKS);

    shards[0].shape[0] = shards[0].extent[0] = 6;
    cairn_err err = checkpoint_restore(&group, dir, &facts, shards, count);
    tap_ok(err == CAIRN_ECONFIG && strstr(cairn_err_message(), "weights/a is float32 [7, 5] in the checkpoint, float32 [6, 5] here"),
           "another shape is told");
    shards[0].shape[0] = shards[0].extent[0] = 7;
    shards[0].dtype = DTYPE_I32;
    err = checkpoint_restore(&group, dir, &facts, shards, count);
    tap_ok(err == CAIRN_ECONFIG && strstr(cairn_err_message(), "int32 [7, 5] here"), "another type is told");
    shards[0].dtype = DTYPE_F32;
    snprintf(shards[0].name, sizeof shards[0].name, "weights/z");
    err = checkpoint_restore(&group, dir, &facts, shards, count);
    tap_ok(err == CAIRN_ECONFIG && strstr(cairn_err_message(), "holds no array weights/z"), "a missing array is told");
    err = checkpoint_restore(&group, dir, &facts, shards + 1, count - 1);
    tap_ok(err == CAIRN_ECONFIG && strstr(cairn_err_message(), "holds array weights/a, which nothing here takes"), "an extra array is told");
    err = checkpoint_load(&group, path, shards + 1, 1);
    tap_ok(err == CAIRN_OK, "a part may be loaded");
    int weights = 0;
    while (weights < count && strncmp(shards[weights + 1].name, "weights/", 8) == 0)
        weights++;
    snprintf(shards[0].name, sizeof shards[0].name, "weights/a");
    err = checkpoint_restore(&group, dir, &facts, shards, weights + 1);
    tap_ok(err == CAIRN_OK, "a top group that is not asked for is passed over");
    checkpoint_facts_free(&facts);
    tap_ok(access(path, F_OK) == 0, "nothing was set aside for these");
    if (rank == 1)
        shards[0].shape[1] = shards[0].extent[1] = 4;
    facts = facts_of(4);
    err = checkpoint_save(&group, dir, &facts, shards, count);
    tap_ok(err == CAIRN_EINVAL, "ranks that disagree about an array cannot save: %s", cairn_err_message());
    free_shards(shards, count);
}

static void test_coverage(void)
{
    char dir[300];
    struct shard shards[ARRAY_COUNT];
    struct checkpoint_group group = {MPI_COMM_WORLD, node_maps[ONE_NODE]};
    struct checkpoint_facts facts = facts_of(9);
    new_dir(dir, "coverage");
    int count = make_shards(shards, LAYOUT_ROWS, rank, RANKS);
    if (rank == 2)
        shards[0].extent[0]--;
    tap_ok(checkpoint_save(&group, dir, &facts, shards, count) == CAIRN_EINVAL && strstr(cairn_err_message(), "weights/a: the slabs hold"),
           "a hole is told");
    if (rank == 2)
        shards[0].extent[0] += 2;
    tap_ok(checkpoint_save(&group, dir, &facts, shards, count) == CAIRN_EINVAL && strstr(cairn_err_message(), "two slabs hold the same"),
           "an overlap is told");
    free_shards(shards, count);
}

static void test_fresh_and_facts(void)
{
    char dir[300];
    int64_t step, wrong;
    struct checkpoint_facts facts;
    new_dir(dir, "fresh");
    tap_ok(restore_arrays(MPI_COMM_WORLD, dir, LAYOUT_ROWS, 0, &step, &wrong) == CAIRN_ENOTFOUND, "no folder is a fresh start");
    if (rank == 0)
        mkdir(dir, 0777);
    tap_ok(restore_arrays(MPI_COMM_WORLD, dir, LAYOUT_ROWS, 0, &step, &wrong) == CAIRN_ENOTFOUND, "an empty folder is a fresh start");
    save_arrays(MPI_COMM_WORLD, node_maps[ONE_NODE], dir, LAYOUT_ROWS, 11, 1);
    save_arrays(MPI_COMM_WORLD, node_maps[ONE_NODE], dir, LAYOUT_ROWS, 12, 1);
    cairn_err err = checkpoint_read_facts(dir, &facts);
    tap_ok(err == CAIRN_OK && facts.step == 12 && strcmp(facts.config, "name: test\n") == 0 && strcmp(facts.signature, "cpu\n") == 0 &&
               strcmp(facts.extra, "{\"position\": 12}") == 0,
           "facts come back");
    checkpoint_facts_free(&facts);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0)
        err = checkpoint_prune(dir, 1);
    tap_ok(err == CAIRN_OK, "prune");
    struct checkpoint_entry *entries;
    int count;
    err = checkpoint_list(dir, &entries, &count);
    tap_ok(err == CAIRN_OK && count == 1 && entries[0].step == 12 && entries[0].state == CHECKPOINT_COMPLETE, "prune keeps the newest");
    free(entries);
    save_arrays(MPI_COMM_WORLD, node_maps[NODE_A_RANK], dir, LAYOUT_COLUMNS, 12, 2);
    err = restore_arrays(MPI_COMM_WORLD, dir, LAYOUT_ROWS, 2 - 12, &step, &wrong);
    tap_ok(err == CAIRN_OK && wrong == 0, "saving a step again replaces it");
}

static bool no_tmp(const char *dir)
{
    struct checkpoint_entry *entries;
    int count;
    bool none = checkpoint_list(dir, &entries, &count) == CAIRN_OK;
    for (int i = 0; none && i < count; i++)
        none = entries[i].state == CHECKPOINT_COMPLETE;
    free(entries);
    return none;
}

/* Stands in front of the C library's: fails with FAIL_ERRNO once FAIL_AFTER bytes are written. */
static int64_t fail_after = -1;
static int fail_errno;

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at)
{
    if (fail_after >= 0 && (fail_after -= (int64_t)bytes) < 0) {
        fail_after = 0;
        errno = fail_errno;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, data, bytes, at);
}

static void test_failed_write(const char *dir, int failing, int64_t after, int errnum, cairn_err expected)
{
    int64_t step, wrong;
    fail_errno = errnum;
    fail_after = rank == failing ? after : -1;
    cairn_err err = save_arrays(MPI_COMM_WORLD, node_maps[TWO_NODES], dir, LAYOUT_ROWS, 2, 1);
    fail_after = -1;
    tap_ok(err == expected, "rank %d fails after %lld bytes: %s", failing, (long long)after, cairn_err_message());
    tap_ok(no_tmp(dir), "the folder of the failed one is removed");
    err = restore_arrays(MPI_COMM_WORLD, dir, LAYOUT_MIXED, 0, &step, &wrong);
    tap_ok(err == CAIRN_OK && step == 1 && wrong == 0, "the one before is as it was");
}

/* Writes that fail on one writer alone: every rank must learn of it, and the checkpoint before must stay. */
static void test_writes_fail(void)
{
    char dir[300];
    new_dir(dir, "failing");
    save_arrays(MPI_COMM_WORLD, node_maps[TWO_NODES], dir, LAYOUT_ROWS, 1, 1);
    for (int64_t after = 0; after < 3000000; after = after * 4 + 1000) {
        test_failed_write(dir, 2, after, ENOSPC, CAIRN_ENOSPACE);
        test_failed_write(dir, 0, after, EIO, CAIRN_ESYS);
    }
    struct rlimit old, low;
    getrlimit(RLIMIT_FSIZE, &old);
    low = old;
    low.rlim_cur = 1 << 20;
    if (rank == 2)
        setrlimit(RLIMIT_FSIZE, &low);
    cairn_err err = save_arrays(MPI_COMM_WORLD, node_maps[TWO_NODES], dir, LAYOUT_ROWS, 2, 1);
    setrlimit(RLIMIT_FSIZE, &old);
    tap_ok(err == CAIRN_ESYS && strstr(cairn_err_message(), "part-0001.h5"), "a limit on file sizes: %s", cairn_err_message());
    err = save_arrays(MPI_COMM_WORLD, node_maps[TWO_NODES], dir, LAYOUT_ROWS, 2, 0);
    tap_ok(err == CAIRN_OK, "the next save works");
}

/* CAIRN_TEST_SMALL_DISK names a folder on a file system with less room than a checkpoint needs (tests/ckpt/full_disk.t). */
static void test_full_disk(void)
{
    const char *small = getenv("CAIRN_TEST_SMALL_DISK");
    char dir[300];
    int64_t step, wrong;
    snprintf(dir, sizeof dir, "%s/full", small);
    save_arrays(MPI_COMM_WORLD, node_maps[TWO_NODES], dir, LAYOUT_ROWS, 1, 1);
    cairn_err err = CAIRN_OK;
    int64_t last = 1;
    while (err == CAIRN_OK && last < 40) {
        last++;
        err = save_arrays(MPI_COMM_WORLD, node_maps[TWO_NODES], dir, LAYOUT_ROWS, last, (uint64_t)last);
    }
    tap_ok(err == CAIRN_ENOSPACE, "a full disk is told on all ranks: %s", cairn_err_message());
    MPI_Barrier(MPI_COMM_WORLD);
    tap_ok(no_tmp(dir), "the folder of the one that found no room is removed");
    err = restore_arrays(MPI_COMM_WORLD, dir, LAYOUT_ROWS, 0, &step, &wrong);
    tap_ok(err == CAIRN_OK && step == last - 1 && wrong == 0, "the one before it is as it was");
}

int main(int argc, char **argv)
{
    if (tap_asked_for_ranks(argc, argv, RANKS))
        return 0;
    rank = tap_begin(argc, argv, RANKS);
    tap_folder("ckpt", base, sizeof base);
    if (getenv("CAIRN_TEST_SMALL_DISK")) {
        test_full_disk();
    } else {
        test_layouts();
        test_fewer_ranks();
        test_wrong_model();
        test_coverage();
        test_fresh_and_facts();
        test_writes_fail();
    }
    tap_shell("rm -rf %s", base);
    return tap_end();
}
