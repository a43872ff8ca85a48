#include "io/chunk_cache.h"

#include <stdlib.h>

enum { NO_KEY = -1 };

struct place {
    int64_t key;
    uint64_t used; /* the clock at the last use */
    void *bytes;
};

/* So few places that a walk over them costs less than a hash; a chunk's decoding costs a thousand such walks. */
struct chunk_cache {
    size_t chunk_bytes;
    uint64_t clock;
    int count;
    struct place place[];
};

enum { PLACES_LEAST = 2, PLACES_MOST = 1024 };

cairn_err chunk_cache_make(size_t limit, size_t chunk_bytes, struct chunk_cache **out)
{
    size_t count = limit / chunk_bytes;
    count = count < PLACES_LEAST ? PLACES_LEAST : count > PLACES_MOST ? PLACES_MOST : count;
    struct chunk_cache *cache = calloc(1, sizeof *cache + count * sizeof cache->place[0]);
    if (!cache)
        return FAIL(CAIRN_ENOMEM, "no memory for a cache of chunks");
    cache->chunk_bytes = chunk_bytes;
    cache->count = (int)count;
    for (int i = 0; i < cache->count; i++)
        cache->place[i].key = NO_KEY;
    *out = cache;
    return CAIRN_OK;
}

static struct place *find(struct chunk_cache *cache, int64_t key)
{
    for (int i = 0; i < cache->count; i++)
        if (cache->place[i].key == key)
            return &cache->place[i];
    return NULL;
}

const void *chunk_cache_find(struct chunk_cache *cache, int64_t key)
{
    struct place *place = find(cache, key);
    if (!place)
        return NULL;
    place->used = ++cache->clock;
    return place->bytes;
}

void *chunk_cache_claim(struct chunk_cache *cache, int64_t key)
{
    struct place *oldest = &cache->place[0];
    for (int i = 1; i < cache->count; i++)
        if (cache->place[i].used < oldest->used)
            oldest = &cache->place[i];
    if (!oldest->bytes)
        oldest->bytes = malloc(cache->chunk_bytes);
    if (!oldest->bytes)
        return NULL;
    oldest->key = key;
    oldest->used = ++cache->clock;
    return oldest->bytes;
}

void chunk_cache_forget(struct chunk_cache *cache, int64_t key)
{
    struct place *place = find(cache, key);
    if (!place)
        return;
    place->key = NO_KEY;
    place->used = 0;
}

void chunk_cache_free(struct chunk_cache *cache)
{
    if (!cache)
        return;
    for (int i = 0; i < cache->count; i++)
        free(cache->place[i].bytes);
    free(cache);
}
