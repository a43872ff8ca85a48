/* Reads boxes of arrays out of a checkpoint's parts: whole blocks, each compared with its checksum. Serial. */
#ifndef CKPT_READER_H
#define CKPT_READER_H

#include "ckpt/table.h"

struct reader;

/* TABLE must outlive the reader. */
cairn_err reader_open(const char *folder, const struct table *table, struct reader **out);
void reader_close(struct reader *r);

/* Part PART is there, has the size the table tells, and all its bytes that are no slab data are as written. */
cairn_err reader_check_part(struct reader *r, int part);

/* Fills DATA (row-major, dense) with BOX of ARRAY. Damage is CAIRN_ECORRUPT. */
cairn_err reader_read(struct reader *r, int array, const struct box *box, void *data);

/* Compares every block of SLAB with its checksum. */
cairn_err reader_check_slab(struct reader *r, int slab);

#endif
