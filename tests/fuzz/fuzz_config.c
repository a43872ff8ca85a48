/* Configs of any bytes: none crashes, each refusal has a message, each config taken reads back from its own text to itself.
 *   clang -fsanitize=fuzzer,address ... fuzz_config.c        for libFuzzer; or, with the driver beside it,
 *   fuzz_config FOLDER...                                    once over the files of a corpus
 * The input is the file's text; what follows a first zero byte is one override of the command line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "tests/fuzz/fuzz.h"

static char *copy_of(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (!text)
        abort();
    if (size > 0)
        memcpy(text, data, size);
    text[size] = 0;
    return text;
}

static void expect(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "fuzz_config: %s; last message: %s\n", what, cairn_err_message());
    abort();
}

static void check_round_trip(const struct config *config)
{
    char *first = config_to_yaml(config), *second = NULL;
    struct config again;
    expect(first, "a config has no text");
    expect(config_load(&again, "again.yaml", first, 0, NULL) == CAIRN_OK, "a config's own text is refused");
    second = config_to_yaml(&again);
    expect(second && strcmp(first, second) == 0, "a config's text reads back to another config");
    free(first);
    free(second);
    config_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = copy_of(data, size);
    size_t length = strlen(text);
    char *overrides[] = {length < size ? text + length + 1 : NULL};
    struct config config;
    error_set(CAIRN_OK, "%s", "");
    cairn_err err = config_load(&config, "fuzz.yaml", text, overrides[0] != NULL, overrides);
    if (err == CAIRN_OK) {
        check_round_trip(&config);
        config_free(&config);
    } else {
        expect(err == CAIRN_ECONFIG, "a refusal is not CAIRN_ECONFIG");
        expect(*cairn_err_message() && !strchr(cairn_err_message(), '\n'), "a refusal has no message of one line");
    }
    free(text);
    return 0;
}
