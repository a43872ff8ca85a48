/* One part: the pieces of slabs that one node writes, as an HDF5 file. HDF5 lays the file out in memory; the slabs' bytes go from
 * the shards straight to the disk. Serial. */
#ifndef CKPT_PART_H
#define CKPT_PART_H

#include "ckpt/table.h"

struct part_piece {
    struct table_array array;
    struct box box;
    int64_t data_at, checksums_at; /* filled by part_open */
};

static inline size_t part_piece_bytes(const struct part_piece *p)
{
    return (size_t)box_elements(&p->box) * dtype_size((enum dtype)p->array.dtype);
}

struct part;

/* Lays PATH out for PIECES and takes its room on the disk. */
cairn_err part_open(const char *path, struct part_piece *pieces, int count, struct part **out);

/* The bytes of PIECE from AT on; AT and all BYTES but a piece's last are whole blocks. Each byte is given once. */
cairn_err part_write(struct part *part, int piece, int64_t at, const void *data, size_t bytes);

/* Writes all that is not slab data, and fsyncs. */
cairn_err part_finish(struct part *part, struct table_part *out);

void part_close(struct part *part);

struct byte_range {
    int64_t at, bytes;
};

/* The hash over all bytes of the part open at FD that lie in none of RANGES, the slabs' data. Sorts RANGES. */
cairn_err part_structure(int fd, const char *path, int64_t whole, struct byte_range *ranges, int count, uint64_t *hash);

#endif
