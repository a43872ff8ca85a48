/* A PMI-1 client that sends any bytes: the session answers each line with at most one line that says what it should, and
 * keeps no value that it did not take whole; a mapping that is read has a node for every rank and reads back.
 *   clang -fsanitize=fuzzer,address ... fuzz_pmi.c           for libFuzzer; or, with the driver beside it,
 *   fuzz_pmi FOLDER...                                       once over the files of a corpus */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/pmi_session.h"
#include "tests/fuzz/fuzz.h"

static void expect(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "fuzz_pmi: %s\n", what);
    abort();
}

/* One rank alone: what it put comes back to it. */
struct memory {
    char *data[64];
    size_t bytes[64];
    int rounds;
};

static cairn_err fence(void *context, int round, const void *data, size_t bytes)
{
    struct memory *m = context;
    expect(round == m->rounds, "rounds are not numbered in order");
    if (round == 64)
        return FAIL(CAIRN_EPMIX, "no more rounds in this test");
    m->data[round] = malloc(bytes + 1);
    expect(m->data[round], "no memory");
    if (bytes)
        memcpy(m->data[round], data, bytes);
    m->bytes[round] = bytes;
    m->rounds++;
    return CAIRN_OK;
}

static cairn_err fetch(void *context, int round, int rank, void **data, size_t *bytes)
{
    struct memory *m = context;
    expect(round < m->rounds && rank == 0, "a round that is not over is asked for");
    *bytes = m->bytes[round];
    *data = *bytes ? malloc(*bytes) : NULL;
    if (*bytes)
        memcpy(*data, m->data[round], *bytes);
    return CAIRN_OK;
}

static void check_answer(const char *answer, enum pmi_outcome outcome)
{
    size_t length = strlen(answer);
    expect(length < PMI_LINE_MAX, "an answer is longer than a line");
    expect(length == 0 || strchr(answer, '\n') == answer + length - 1, "an answer is not one line");
    expect(length == 0 || strncmp(answer, "cmd=", 4) == 0, "an answer is no command");
    expect(outcome != PMI_FINISHED || strncmp(answer, "cmd=finalize_ack", 16) == 0, "the end without its answer");
}

static void check_mapping(const char *text)
{
    int node_of[13], again[13];
    char written[PMI_VALUE_MAX];
    if (!pmi_mapping_read(text, node_of, 13))
        return;
    expect(pmi_mapping_write(node_of, 13, written, sizeof written), "a mapping that was read is not written");
    expect(pmi_mapping_read(written, again, 13), "a mapping that was written is not read");
    for (int a = 0; a < 13; a++)
        for (int b = 0; b < 13; b++)
            expect((node_of[a] == node_of[b]) == (again[a] == again[b]), "a mapping reads back to another");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct memory memory = {{0}, {0}, 0};
    struct pmi_exchange exchange = {&memory, fence, fetch};
    struct pmi_session *session;
    char line[PMI_LINE_MAX], answer[PMI_LINE_MAX];
    expect(pmi_session_open("job", 0, 1, (int[]){0}, &exchange, &session) == CAIRN_OK, "no session");
    enum pmi_outcome outcome = PMI_ANSWERED;
    for (size_t at = 0; at < size && outcome == PMI_ANSWERED;) {
        const uint8_t *end = memchr(data + at, '\n', size - at);
        size_t length = end ? (size_t)(end - data) - at : size - at;
        size_t kept = length < sizeof line ? length : sizeof line - 1;
        memcpy(line, data + at, kept);
        line[kept] = '\0';
        int code;
        outcome = pmi_session_answer(session, line, answer, &code);
        check_answer(answer, outcome);
        check_mapping(line);
        at += length + 1;
    }
    pmi_session_close(session);
    for (int i = 0; i < memory.rounds; i++)
        free(memory.data[i]);
    return 0;
}
