#include "server/greeting.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

cairn_err greeting_token(char token[MESSAGE_TOKEN_SIZE + 1])
{
    unsigned char random[MESSAGE_TOKEN_SIZE / 2];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return FAIL(CAIRN_ESYS, "no random numbers for the workers' token: %s", strerror(errno));
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(token + 2 * i, 3, "%02x", random[i]);
    return CAIRN_OK;
}

cairn_err greeting_parse(const char *servers, char token[MESSAGE_TOKEN_SIZE + 1], const char **addresses)
{
    if (strspn(servers, "0123456789abcdef") != MESSAGE_TOKEN_SIZE || servers[MESSAGE_TOKEN_SIZE] != '@')
        return FAIL(CAIRN_ECONFIG, "CAIRN_SERVERS is not what parameter servers tell: TOKEN@HOST:PORT,...");
    memcpy(token, servers, MESSAGE_TOKEN_SIZE);
    token[MESSAGE_TOKEN_SIZE] = 0;
    *addresses = servers + MESSAGE_TOKEN_SIZE + 1;
    return CAIRN_OK;
}

cairn_err greeting_write(const char *token, const struct config *config, const struct dataset *dataset, const char *host,
                         struct wire_block **out)
{
    char fingerprint[17];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, dataset_fingerprint(dataset));
    char *yaml = config_to_yaml(config);
    json_t *facts = json_pack("{s:s, s:s, s:s*}", "host", host, "dataset", fingerprint, "config", yaml);
    char *text = facts ? json_dumps(facts, 0) : NULL;
    struct wire_block *block = text ? wire_block_new(MESSAGE_TOKEN_SIZE + strlen(text)) : NULL;
    if (block) {
        memcpy(block->data, token, MESSAGE_TOKEN_SIZE);
        memcpy(block->data + MESSAGE_TOKEN_SIZE, text, strlen(text));
    }
    json_decref(facts);
    free(text);
    free(yaml);
    *out = block;
    return block ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for a message");
}

/* In a time that does not tell where they differ. */
static bool same_token(const unsigned char *a, const char *b)
{
    unsigned differs = 0;
    for (int i = 0; i < MESSAGE_TOKEN_SIZE; i++)
        differs |= (unsigned)(a[i] ^ (unsigned char)b[i]);
    return differs == 0;
}

static cairn_err compare_config(const struct config *own, const char *text)
{
    struct config theirs;
    if (!text || config_load(&theirs, "the worker's config", text, 0, NULL) != CAIRN_OK)
        return FAIL(CAIRN_ECONFIG, "its config cannot be read");
    char *changes = config_changes(own, &theirs);
    config_free(&theirs);
    cairn_err err = !changes ? FAIL(CAIRN_ENOMEM, "no memory to compare configs")
                    : *changes ? FAIL(CAIRN_ECONFIG, "its config is not the servers': %s", changes) : CAIRN_OK;
    free(changes);
    return err;
}

cairn_err greeting_check(const struct wire_head *hello, const struct wire_block *payload, const char *token, const struct config *config,
                         const struct dataset *dataset, char *host, size_t size)
{
    char fingerprint[17];
    if (hello->field[0] != MESSAGE_VERSION)
        return FAIL(CAIRN_ECONFIG, "it speaks version %lld of the protocol, this server version %d", (long long)hello->field[0], MESSAGE_VERSION);
    if (!payload || payload->bytes < MESSAGE_TOKEN_SIZE || !same_token(payload->data, token))
        return FAIL(CAIRN_ECONFIG, "it does not have this run's token");
    json_t *facts = json_loadb((const char *)payload->data + MESSAGE_TOKEN_SIZE, payload->bytes - MESSAGE_TOKEN_SIZE, 0, NULL);
    const char *theirs = json_string_value(json_object_get(facts, "dataset")), *name = json_string_value(json_object_get(facts, "host"));
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, dataset_fingerprint(dataset));
    snprintf(host, size, "%s", name ? name : "?");
    cairn_err err = compare_config(config, json_string_value(json_object_get(facts, "config")));
    if (!err && (!theirs || strcmp(theirs, fingerprint) != 0))
        err = FAIL(CAIRN_ECONFIG, "its dataset is not the servers': %s", config->data.path);
    json_decref(facts);
    return err;
}
