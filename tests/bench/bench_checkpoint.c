/* bench_checkpoint DIR [MB]: GB/s of saving and restoring MB (500) in DIR beside dd of the same bytes, on any number of ranks that
 * all hold everything: mpiexec -n 2 bench_checkpoint /scratch. */
#include <fcntl.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "ckpt/checkpoint.h"
#include "ckpt/folder.h"
#include "ckpt/inspect.h"

enum { ARRAYS = 40, ROUNDS = 3 };

static int rank;
static double megabytes = 500;
static char dir[FOLDER_PATH_SIZE];

static void need(cairn_err err)
{
    if (err == CAIRN_OK)
        return;
    fprintf(stderr, "rank %d: %s\n", rank, cairn_err_message());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void report(const char *what, double seconds)
{
    if (rank == 0)
        printf("%-44s %7.3f s  %6.2f GB/s\n", what, seconds, megabytes * 1e-3 / seconds);
    fflush(stdout);
}

static double agreed_seconds(double begin)
{
    double mine = clock_seconds() - begin, all;
    MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return all;
}

static void make(struct shard shards[ARRAYS])
{
    int64_t rows = (int64_t)(megabytes * 1e6 / ARRAYS / 4096);
    for (int i = 0; i < ARRAYS; i++) {
        struct shard *s = &shards[i];
        *s = (struct shard){.dtype = DTYPE_F32, .dims = 2, .shape = {rows, 1024}, .extent = {rows, 1024}};
        snprintf(s->name, sizeof s->name, "weights/block.%03d", i);
        s->data = malloc(shard_bytes(s));
        for (int64_t k = 0; k < rows * 1024; k++)
            ((float *)s->data)[k] = (float)(k * 7 + i);
    }
    megabytes = (double)rows * 4096 * ARRAYS * 1e-6;
}

/* The page cache forgets the files of PATH. */
static void forget(const char *path)
{
    for (int i = 0; rank == 0; i++) {
        char name[FOLDER_PART_NAME_SIZE], file[FOLDER_PATH_SIZE];
        folder_part_name(i, name);
        folder_join(path, name, file);
        int fd = open(file, O_RDONLY);
        if (fd < 0)
            break;
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static void bench_save(const struct checkpoint_group *group, const struct shard *shards, int64_t step)
{
    struct checkpoint_facts facts = {.step = step};
    MPI_Barrier(MPI_COMM_WORLD);
    double begin = clock_seconds();
    need(checkpoint_save(group, dir, &facts, shards, ARRAYS));
    report("save, durable", agreed_seconds(begin));
}

static void bench_restore(const struct checkpoint_group *group, const struct shard *shards, const char *what)
{
    struct checkpoint_facts facts;
    MPI_Barrier(MPI_COMM_WORLD);
    double begin = clock_seconds();
    need(checkpoint_restore(group, dir, &facts, shards, ARRAYS));
    report(what, agreed_seconds(begin));
    checkpoint_facts_free(&facts);
}

static void bench_dd(const char *what, const char *arguments)
{
    char command[2 * FOLDER_PATH_SIZE + 128];
    if (rank == 0) {
        snprintf(command, sizeof command, "dd %s bs=1M count=%d status=none", arguments, (int)(megabytes * 1e6 / 1048576));
        double begin = clock_seconds();
        if (system(command) != 0)
            fprintf(stderr, "failed: %s\n", command);
        report(what, clock_seconds() - begin);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

/* dd of bytes from memory (a file that was just read), not of zeros, which some disks do not write. */
static void bench_dd_all(const char *path)
{
    char arguments[2 * FOLDER_PATH_SIZE + 64], part[FOLDER_PATH_SIZE], copy[FOLDER_PATH_SIZE];
    folder_join(path, "part-0000.h5", part);
    snprintf(arguments, sizeof arguments, "if=%s of=/dev/null", part);
    bench_dd("dd, reading a part, warm", arguments);
    folder_join(dir, "dd.tmp", copy);
    snprintf(arguments, sizeof arguments, "if=%s of=%s conv=fsync", part, copy);
    bench_dd("dd conv=fsync, copying a part", arguments);
    bench_dd("dd conv=fsync, copying a part", arguments);
    if (rank == 0)
        unlink(copy);
    forget(path);
    snprintf(arguments, sizeof arguments, "if=%s of=/dev/null", part);
    bench_dd("dd, reading a part, cold", arguments);
}

int main(int argc, char **argv)
{
    static const int node_of[64];
    static struct shard shards[ARRAYS];
    char path[FOLDER_PATH_SIZE], hash[17], *fault;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (argc < 2) {
        fputs("usage: bench_checkpoint DIR [MB]\n", stderr);
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    need(folder_join(argv[1], "bench-checkpoints", dir));
    if (argc > 2)
        megabytes = atof(argv[2]);
    make(shards);
    struct checkpoint_group group = {MPI_COMM_WORLD, node_of};
    for (int i = 1; i <= ROUNDS; i++)
        bench_save(&group, shards, i);
    folder_step_path(dir, ROUNDS, "", path);
    for (int i = 0; i < 2; i++)
        bench_restore(&group, shards, "restore, warm");
    forget(path);
    bench_restore(&group, shards, "restore, cold");
    bench_dd_all(path);
    if (rank == 0) {
        double begin = clock_seconds();
        need(checkpoint_verify(path, &fault));
        report("verify, on one rank", clock_seconds() - begin);
        begin = clock_seconds();
        need(checkpoint_hash(path, "", hash));
        report("hash, on one rank", clock_seconds() - begin);
        for (int i = 1; i <= ROUNDS; i++) {
            folder_step_path(dir, i, "", path);
            folder_remove(path);
        }
        rmdir(dir);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    return 0;
}
