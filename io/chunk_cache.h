/* The last few decoded chunks of compressed data, so that samples near one another are decoded once. */
#ifndef IO_CHUNK_CACHE_H
#define IO_CHUNK_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct chunk_cache;

/* Room for LIMIT bytes of chunks of at most CHUNK_BYTES each, and never fewer than two of them. Memory is taken as chunks come. */
cairn_err chunk_cache_make(size_t limit, size_t chunk_bytes, struct chunk_cache **out);

/* The chunk KEY if it is there, else NULL. It stays until the next chunk_cache_claim. */
const void *chunk_cache_find(struct chunk_cache *cache, int64_t key);

/* The least recently used place, for the caller to fill with chunk KEY. If that fails, chunk_cache_forget takes it back. NULL:
 * no memory. */
void *chunk_cache_claim(struct chunk_cache *cache, int64_t key);
void chunk_cache_forget(struct chunk_cache *cache, int64_t key);

void chunk_cache_free(struct chunk_cache *cache);

#endif
