/* ranks: 2. No damage passes: of two checkpoints the newer is damaged in every way, and the older must be what is loaded; damage in
 * many single bits is found or harmless. */
#include <fcntl.h>
#include <mpi.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/philox.h"
#include "ckpt/checkpoint.h"
#include "ckpt/folder.h"
#include "tests/ranks/checkpoint_arrays.h"
#include "tests/ranks/tap.h"

enum { RANKS = 2 };

static int rank;
static char base[200], dir[256], newer[300], older[300];

static cairn_err save(int64_t step, enum layout_kind kind)
{
    return save_arrays(MPI_COMM_WORLD, node_maps[NODE_A_RANK], dir, kind, step, (uint64_t)step);
}

static cairn_err restore(int64_t *step, int64_t *wrong)
{
    return restore_arrays(MPI_COMM_WORLD, dir, LAYOUT_REPLICATED, 0, step, wrong);
}

/* Two sound checkpoints, from copies kept beside them. */
static void renew(void)
{
    tap_shell("rm -rf %s && cp -r %s.sound %s", dir, dir, dir);
}

static bool reason_is_told(void)
{
    char path[400], text[64];
    snprintf(path, sizeof path, "%s.broken/REASON", newer);
    FILE *f = fopen(path, "r");
    bool told = f && fgets(text, sizeof text, f) && strlen(text) > 10;
    if (f)
        fclose(f);
    return told;
}

/* After the newer one was damaged: verify sees it, the older is loaded, and the newer is set aside with its reason. */
static void expect_older(const char *what)
{
    int64_t step = 0, wrong = 0;
    char *fault = NULL;
    cairn_err err = access(newer, F_OK) == 0 ? checkpoint_verify(newer, &fault) : CAIRN_OK;
    bool seen = err == CAIRN_OK && (fault || access(newer, F_OK) != 0);
    free(fault);
    MPI_Barrier(MPI_COMM_WORLD);
    err = restore(&step, &wrong);
    MPI_Barrier(MPI_COMM_WORLD);
    tap_ok(seen && err == CAIRN_OK && step == 1 && wrong == 0 && access(newer, F_OK) != 0 && reason_is_told(), "%s", what);
    renew();
}

static void test_truncation(const char *file, const char *bytes)
{
    char what[128];
    snprintf(what, sizeof what, "%s cut off at %s", file, bytes);
    tap_shell("truncate -s %s %s/%s", bytes, newer, file);
    expect_older(what);
}

static void test_kinds(void)
{
    static const char *const files[] = {"state.h5", "part-0000.h5", "part-0001.h5"};
    static const char *const cuts[] = {"0", "1", "511", "512", "4096", "100000", "-1", "-4096", "+1"};
    char what[128];
    for (int f = 0; f < 3; f++) {
        for (size_t c = 0; c < sizeof cuts / sizeof cuts[0]; c++)
            if (f > 0 || strcmp(cuts[c], "100000") != 0)
                test_truncation(files[f], cuts[c]);
        tap_shell("rm %s/%s", newer, files[f]);
        snprintf(what, sizeof what, "%s is missing", files[f]);
        expect_older(what);
        tap_shell("cp %s/%s %s/%s", older, files[f], newer, files[f]);
        if (f > 0) { /* a whole state of another checkpoint is caught by its parts */
            snprintf(what, sizeof what, "%s is that of another checkpoint", files[f]);
            expect_older(what);
        } else {
            expect_older("state.h5 is that of another checkpoint");
        }
    }
    tap_shell("cd %s && mv part-0000.h5 x && mv part-0001.h5 part-0000.h5 && mv x part-0001.h5", newer);
    expect_older("two parts are exchanged");
    tap_shell("cd %s && cat /dev/zero | head -c $(stat -c %%s part-0000.h5) > x && mv x part-0000.h5", newer);
    expect_older("a part is all zeros");
    tap_shell("rm %s/*", newer);
    expect_older("an empty folder");
}

static void test_unfinished(void)
{
    int64_t step, wrong;
    tap_shell("mv %s %s.tmp", newer, newer);
    cairn_err err = restore(&step, &wrong);
    tap_ok(err == CAIRN_OK && step == 1 && wrong == 0, "a .tmp folder is never loaded");
    char path[400];
    snprintf(path, sizeof path, "%s.tmp", newer);
    tap_ok(access(path, F_OK) == 0, "a .tmp folder is left alone by loading");
    err = save(3, LAYOUT_ROWS);
    tap_ok(err == CAIRN_OK && access(path, F_OK) != 0, "a .tmp folder is removed by the next save");
    renew();
}

static void test_all_broken(void)
{
    int64_t step, wrong;
    tap_shell("truncate -s 100 %s/state.h5; truncate -s 100 %s/state.h5", newer, older);
    cairn_err err = restore(&step, &wrong);
    tap_ok(err == CAIRN_ECORRUPT, "all broken is an error, not a fresh start: %s", cairn_err_message());
    err = restore(&step, &wrong);
    tap_ok(err == CAIRN_ENOTFOUND, "then there is none");
    renew();
}

/* What is no damage: nothing may be set aside for it. */
static void test_no_permission(void)
{
    int64_t step, wrong;
    if (geteuid() == 0) { /* root reads all: a part that is a folder stands for what cannot be read */
        tap_shell("cd %s && rm part-0001.h5 && mkdir part-0001.h5", newer);
    } else {
        tap_shell("chmod 000 %s/part-0001.h5", newer);
    }
    cairn_err err = restore(&step, &wrong);
    tap_ok(err != CAIRN_OK && access(newer, F_OK) == 0, "what cannot be read is not set aside: %s", cairn_err_message());
    renew();
}

static void flip(const char *path, int64_t bit)
{
    unsigned char byte;
    int fd = open(path, O_RDWR);
    if (fd < 0 || pread(fd, &byte, 1, bit / 8) != 1)
        abort();
    byte ^= (unsigned char)(1 << bit % 8);
    if (pwrite(fd, &byte, 1, bit / 8) != 1)
        abort();
    close(fd);
}

/* By rank 0 alone, with verify: it reads what a restore of everything reads. */
static void test_bits(int rounds)
{
    static const char *const files[] = {"state.h5", "part-0000.h5", "part-0001.h5"};
    int missed = 0, found = 0;
    for (int i = 0; rank == 0 && i < rounds; i++) {
        uint32_t random[4];
        char path[400], *fault;
        struct stat st;
        philox4x32((struct philox_key){{20261121, 7}}, (uint64_t)i, 0, random);
        snprintf(path, sizeof path, "%s/%s", newer, files[i % 3]);
        stat(path, &st);
        int64_t bit = (int64_t)(((uint64_t)random[0] << 32 | random[1]) % ((uint64_t)st.st_size * 8));
        if (i % 2) /* half of them where HDF5's own structures are */
            bit %= 8 * 8192;
        flip(path, bit);
        cairn_err err = checkpoint_verify(newer, &fault);
        found += err == CAIRN_OK && fault;
        if (err != CAIRN_OK || !fault)
            fprintf(stderr, "# %s, bit %lld: %s\n", path, (long long)bit, err ? cairn_err_message() : "not found");
        missed += err != CAIRN_OK || !fault;
        free(fault);
        flip(path, bit);
    }
    tap_ok(missed == 0 && (rank != 0 || found == rounds), "%d single bits are all found", rounds);
    for (int i = 0; i < 12; i++) {
        char path[400], what[128];
        struct stat st;
        uint32_t random[4];
        philox4x32((struct philox_key){{20261121, 8}}, (uint64_t)i, 0, random);
        snprintf(path, sizeof path, "%s/%s", newer, files[i % 3]);
        stat(path, &st);
        int64_t bit = (int64_t)(((uint64_t)random[0] << 32 | random[1]) % ((uint64_t)st.st_size * 8));
        MPI_Barrier(MPI_COMM_WORLD);
        if (rank == 0)
            flip(path, bit);
        MPI_Barrier(MPI_COMM_WORLD);
        snprintf(what, sizeof what, "%s, bit %lld", files[i % 3], (long long)bit);
        expect_older(what);
    }
}

int main(int argc, char **argv)
{
    if (tap_asked_for_ranks(argc, argv, RANKS))
        return 0;
    rank = tap_begin(argc, argv, RANKS);
    tap_folder("damage", base, sizeof base);
    snprintf(dir, sizeof dir, "%s/checkpoints", base);
    snprintf(older, sizeof older, "%s/step-00000001", dir);
    snprintf(newer, sizeof newer, "%s/step-00000002", dir);
    tap_ok(save(1, LAYOUT_REPLICATED) == CAIRN_OK && save(2, LAYOUT_REPLICATED) == CAIRN_OK, "two checkpoints");
    tap_shell("cp -r %s %s.sound", dir, dir);
    test_kinds();
    test_unfinished();
    test_all_broken();
    test_no_permission();
    test_bits(300);
    tap_shell("rm -rf %s", base);
    return tap_end();
}
