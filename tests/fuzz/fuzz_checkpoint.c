/* The table of a checkpoint as other ranks send it, and state.h5 as a disk gives it back, from any bytes. What table_unpack takes
 * must be safe to read by: it packs again to the same bytes, and every slab lies in its array and its part. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ckpt/folder.h"
#include "ckpt/state.h"
#include "tests/fuzz/fuzz.h"

static void check_slabs(const struct table *t)
{
    for (int i = 0; i < t->slab_count; i++) {
        const struct table_slab *s = &t->slabs[i];
        const struct table_array *a = &t->arrays[s->array];
        for (int d = 0; d < a->dims; d++)
            if (s->offset[d] < 0 || s->extent[d] < 1 || s->offset[d] + s->extent[d] > a->shape[d])
                abort();
        if (s->data_at + (int64_t)table_slab_bytes(t, i) > t->parts[s->part].bytes)
            abort();
    }
}

static void fuzz_table(const uint8_t *data, size_t size)
{
    struct table t;
    void *packed;
    size_t bytes;
    if (table_unpack(data, size, &t) != CAIRN_OK)
        return;
    check_slabs(&t);
    if (table_pack(&t, &packed, &bytes) != CAIRN_OK || bytes > size)
        abort();
    free(packed);
    table_free(&t);
}

/* No bytes but a sealed file's may pass. */
static void fuzz_state(const uint8_t *data, size_t size)
{
    static char folder[64], path[FOLDER_PATH_SIZE];
    struct table t;
    if (!folder[0]) {
        snprintf(folder, sizeof folder, "/tmp/cairn-fuzz-%ld", (long)getpid());
        mkdir(folder, 0777);
        if (folder_join(folder, "state.h5", path) != CAIRN_OK)
            abort();
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || file_write(fd, path, data, size, 0) != CAIRN_OK)
        abort();
    close(fd);
    if (state_read(folder, &t) == CAIRN_OK)
        table_free(&t);
    folder_remove(folder);
    folder[0] = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_table(data, size);
    if (size % 64 == 0 || size < 600) /* a file a call: fewer of them */
        fuzz_state(data, size);
    return 0;
}
