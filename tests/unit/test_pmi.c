#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "job/pmi_bridge.h"
#include "job/pmi_session.h"
#include "job/pmi_wire.h"

/* ---- lines of the PMI-1 wire ---- */

Test(pmi_wire, reads_requests)
{
    struct pmi_request q;
    pmi_request_parse("cmd=put kvsname=job.0 key=-bc-seg value=a=b key=c", &q);
    cr_assert_null(q.wrong);
    cr_assert_eq(q.command, PMI_PUT);
    cr_assert_str_eq(q.key, "-bc-seg");
    cr_assert_str_eq(q.value, "a=b key=c", "a value runs to the end of the line");
    pmi_request_parse("cmd=init pmi_version=1 pmi_subversion=1", &q);
    cr_assert(!q.wrong && q.command == PMI_INIT && q.version == 1);
    pmi_request_parse("cmd=abort exitcode=7", &q);
    cr_assert(!q.wrong && q.command == PMI_ABORT && q.exitcode == 7);
    pmi_request_parse("mcmd=spawn", &q);
    cr_assert(!q.wrong && q.command == PMI_SPAWN);
}

Test(pmi_wire, refuses_what_is_wrong)
{
    const char *lines[] = {"",
                           "nonsense",
                           "cmd=",
                           "cmd=nonsense",
                           "cmd=put kvsname=k value=v",
                           "cmd=put kvsname=k key=x",
                           "cmd=put key=x value=v",
                           "cmd=get kvsname=k key=",
                           "cmd=getbyidx kvsname=k idx=-1",
                           "cmd=getbyidx kvsname=k idx=99999999999999999999",
                           "cmd=init pmi_version=one"};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        struct pmi_request q;
        pmi_request_parse(lines[i], &q);
        cr_assert_not_null(q.wrong, "taken: %s", lines[i]);
    }
}

/* A put of LENGTH bytes is told apart from one that fits; nothing is cut. */
Test(pmi_wire, value_length)
{
    struct pmi_request q;
    char line[2 * PMI_VALUE_MAX] = "cmd=put kvsname=k key=x value=";
    size_t begin = strlen(line);
    memset(line + begin, 'v', PMI_VALUE_MAX);
    line[begin + PMI_VALUE_MAX - 1] = '\0';
    pmi_request_parse(line, &q);
    cr_assert(!q.wrong && strlen(q.value) == PMI_VALUE_MAX - 1);
    line[begin + PMI_VALUE_MAX - 1] = 'v';
    pmi_request_parse(line, &q);
    cr_assert_str_eq(q.wrong, "value too long");
    char key[200];
    snprintf(key, sizeof key, "cmd=get kvsname=k key=%0*d", PMI_KEY_MAX, 1);
    pmi_request_parse(key, &q);
    cr_assert_str_eq(q.wrong, "key too long");
}

/* The longest pair fits into the 1024 bytes in which MPICH's client builds a line. */
Test(pmi_wire, limits_fit_a_line)
{
    cr_assert_leq(strlen("cmd=put kvsname= key= value=\n") + PMI_NAME_MAX + PMI_KEY_MAX + PMI_VALUE_MAX, PMI_LINE_MAX);
}

static void expect_mapping(int size, const int *node_of, const char *expected)
{
    char text[PMI_VALUE_MAX];
    int read[64];
    cr_assert(pmi_mapping_write(node_of, size, text, sizeof text));
    cr_assert_str_eq(text, expected);
    cr_assert(pmi_mapping_read(text, read, size));
    for (int a = 0; a < size; a++)
        for (int b = 0; b < size; b++)
            cr_assert_eq(read[a] == read[b], node_of[a] == node_of[b], "%s: ranks %d and %d", text, a, b);
}

Test(pmi_mapping, even_uneven_and_cyclic)
{
    expect_mapping(1, (int[]){7}, "(vector,(0,1,1))");
    expect_mapping(4, (int[]){0, 1, 2, 3}, "(vector,(0,4,1))");
    expect_mapping(8, (int[]){0, 0, 1, 1, 2, 2, 3, 3}, "(vector,(0,4,2))");
    expect_mapping(6, (int[]){0, 1, 2, 0, 1, 2}, "(vector,(0,3,1))");
    expect_mapping(7, (int[]){0, 0, 0, 1, 1, 2, 2}, "(vector,(0,1,3),(1,2,2))");
    expect_mapping(5, (int[]){0, 1, 2, 0, 1}, "(vector,(0,3,1),(0,2,1))");
    expect_mapping(6, (int[]){9, 9, 4, 9, 4, 4}, "(vector,(0,1,2),(1,1,1),(0,1,1),(1,1,2))");
    expect_mapping(4, (int[]){3, 2, 1, 0}, "(vector,(0,4,1))");
}

Test(pmi_mapping, any_map_reads_back)
{
    unsigned seed = 1;
    for (int round = 0; round < 300; round++) {
        int size = 1 + rand_r(&seed) % 24, node_of[24], read[24];
        for (int r = 0; r < size; r++)
            node_of[r] = rand_r(&seed) % 4;
        char text[1024];
        cr_assert(pmi_mapping_write(node_of, size, text, sizeof text));
        cr_assert(pmi_mapping_read(text, read, size));
        for (int a = 0; a < size; a++)
            for (int b = 0; b < size; b++)
                cr_assert_eq(read[a] == read[b], node_of[a] == node_of[b], "%s", text);
    }
}

Test(pmi_mapping, refuses)
{
    char text[16];
    int node_of[8] = {0, 1, 1, 1, 0, 0, 1, 0};
    cr_assert_not(pmi_mapping_write(node_of, 8, text, sizeof text), "does not fit");
    const char *wrong[] = {"", "(vector", "(vector)", "(vector,(0,0,1))", "(vector,(0,1,0))", "(vector,(-1,1,1))", "(vector,(2147483647,2,1))",
                           "(vector,(0,1,1)x", "(matrix,(0,1,1))"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        cr_assert_not(pmi_mapping_read(wrong[i], node_of, 8), "%s", wrong[i]);
}

/* ---- conversations, over an exchange in memory ---- */

enum { SIZE = 3, ROUNDS = 4 };

struct board {
    pthread_barrier_t barrier;
    char *data[ROUNDS][SIZE];
    size_t bytes[ROUNDS][SIZE];
    int dead; /* this rank never comes to a fence; -1: none */
    int fetches;
};

struct seat {
    struct board *board;
    int rank;
    struct pmi_session *session;
};

static cairn_err board_fence(void *context, int round, const void *data, size_t bytes)
{
    struct seat *s = context;
    if (s->board->dead >= 0)
        return FAIL(CAIRN_EPMIX, "PMIx_Fence: a process has died");
    s->board->data[round][s->rank] = memcpy(malloc(bytes + 1), bytes ? data : "", bytes);
    s->board->bytes[round][s->rank] = bytes;
    pthread_barrier_wait(&s->board->barrier);
    return CAIRN_OK;
}

static cairn_err board_fetch(void *context, int round, int rank, void **data, size_t *bytes)
{
    struct seat *s = context;
    s->board->fetches++;
    *bytes = s->board->bytes[round][rank];
    *data = *bytes ? memcpy(malloc(*bytes), s->board->data[round][rank], *bytes) : NULL;
    return CAIRN_OK;
}

static void open_seat(struct seat *s, struct board *board, int rank, int size)
{
    *s = (struct seat){board, rank, NULL};
    struct pmi_exchange exchange = {s, board_fence, board_fetch};
    int node_of[SIZE] = {0, 0, 1};
    cr_assert_eq(pmi_session_open("job 7.0", rank, size, node_of, &exchange, &s->session), CAIRN_OK);
}

static const char *ask(struct seat *s, const char *line)
{
    static _Thread_local char answer[PMI_LINE_MAX];
    int code;
    pmi_session_answer(s->session, line, answer, &code);
    return answer;
}

static void *converse(void *arg)
{
    struct seat *s = arg;
    char line[200], expected[200];
    cr_assert(strstr(ask(s, "cmd=init pmi_version=1 pmi_subversion=1"), "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0"));
    cr_assert_str_eq(ask(s, "cmd=get_my_kvsname"), "cmd=my_kvsname kvsname=job_7.0 rc=0\n");
    cr_assert_str_eq(ask(s, "cmd=get_universe_size"), "cmd=universe_size size=3 rc=0\n");
    cr_assert_str_eq(ask(s, "cmd=get kvsname=job_7.0 key=PMI_process_mapping"),
                     "cmd=get_result rc=0 msg=success value=(vector,(0,1,2),(1,1,1))\n");
    snprintf(line, sizeof line, "cmd=put kvsname=job_7.0 key=card%d value=%d", s->rank, 100 + s->rank);
    if (s->rank != 1)
        cr_assert(strstr(ask(s, line), "rc=0"));
    cr_assert(strstr(ask(s, "cmd=get kvsname=job_7.0 key=card0"), "rc=-1"), "a value shows before the barrier");
    cr_assert_str_eq(ask(s, "cmd=barrier_in"), "cmd=barrier_out rc=0\n");
    for (int r = 0; r < SIZE; r++) {
        snprintf(line, sizeof line, "cmd=get kvsname=job_7.0 key=card%d", r);
        snprintf(expected, sizeof expected, r == 1 ? "cmd=get_result rc=-1 msg=key_not_found\n" : "cmd=get_result rc=0 msg=success value=%d\n",
                 100 + r);
        cr_assert_str_eq(ask(s, line), expected);
    }
    if (s->rank == 1)
        ask(s, "cmd=put kvsname=job_7.0 key=card2 value=newer"); /* rank 2 must not send its old one again */
    ask(s, "cmd=barrier_in");
    cr_assert(strstr(ask(s, "cmd=get kvsname=job_7.0 key=card2"), "value=newer"));
    cr_assert_str_eq(ask(s, "cmd=finalize"), "cmd=finalize_ack rc=0\n");
    cr_assert(pmi_session_finished(s->session));
    return NULL;
}

Test(pmi_session, three_ranks_exchange)
{
    static struct board board = {.dead = -1};
    struct seat seats[SIZE];
    pthread_t threads[SIZE];
    pthread_barrier_init(&board.barrier, NULL, SIZE);
    for (int r = 0; r < SIZE; r++)
        open_seat(&seats[r], &board, r, SIZE);
    for (int r = 0; r < SIZE; r++)
        pthread_create(&threads[r], NULL, converse, &seats[r]);
    for (int r = 0; r < SIZE; r++)
        pthread_join(threads[r], NULL);
    for (int r = 0; r < SIZE; r++) {
        cr_assert_eq(pmi_session_fences(seats[r].session), 2, "a barrier is one fence");
        pmi_session_close(seats[r].session);
    }
}

Test(pmi_session, errors_are_answers)
{
    struct board board = {.dead = 2};
    struct seat s;
    open_seat(&s, &board, 0, SIZE);
    cr_assert_str_eq(ask(&s, "cmd=barrier_in"), "cmd=barrier_out rc=-1 msg=fence_failed\n", "a rank that died is no barrier");
    cr_assert_eq(pmi_session_fences(s.session), 0);
    cr_assert(strstr(ask(&s, "cmd=put kvsname=other key=a value=b"), "cmd=put_result rc=-1 msg=unknown_kvs"));
    cr_assert(strstr(ask(&s, "cmd=get kvsname=other key=a"), "cmd=get_result rc=-1 msg=unknown_kvs"));
    char line[2 * PMI_VALUE_MAX] = "cmd=put kvsname=job_7.0 key=a value=";
    memset(line + strlen(line), 'v', PMI_VALUE_MAX);
    cr_assert_str_eq(ask(&s, line), "cmd=put_result rc=-1 msg=value_too_long\n");
    cr_assert(strstr(ask(&s, "cmd=lookup_name service=x"), "cmd=lookup_result rc=-1"));
    cr_assert(strstr(ask(&s, "cmd=getbyidx kvsname=job_7.0 idx=0"), "cmd=getbyidx_results rc=-1"));
    cr_assert_str_eq(ask(&s, "mcmd=spawn"), "", "no answer before its end");
    cr_assert_str_eq(ask(&s, "cmd=finalize"), "", "a line of the spawn");
    cr_assert(strstr(ask(&s, "endcmd"), "cmd=spawn_result rc=-1"));
    cr_assert(strstr(ask(&s, "what"), "rc=-1"));
    char answer[PMI_LINE_MAX];
    int code;
    cr_assert_eq(pmi_session_answer(s.session, "cmd=abort exitcode=9", answer, &code), PMI_ABORTED);
    cr_assert_eq(code, 9);
    pmi_session_close(s.session);
}

/* ---- the bridge's thread, seen from the library's end ---- */

static int aborted_with;
static pthread_mutex_t abort_lock = PTHREAD_MUTEX_INITIALIZER;

static void note_abort(void *context, int code)
{
    (void)context;
    pthread_mutex_lock(&abort_lock);
    aborted_with = code;
    pthread_mutex_unlock(&abort_lock);
    pthread_exit(NULL); /* it must not return; for the test the thread ends instead of the process */
}

/* Reads one line of the bridge's, byte by byte as a client may. */
static void read_answer(int fd, char *line)
{
    size_t n = 0;
    while (n + 1 < PMI_LINE_MAX && read(fd, line + n, 1) == 1 && line[n] != '\n')
        n++;
    line[n] = '\0';
}

static int open_bridge(struct pmi_bridge **bridge, struct seat *seat, struct board *board)
{
    *seat = (struct seat){board, 0, NULL};
    struct pmi_exchange exchange = {seat, board_fence, board_fetch};
    cr_assert_eq(pmi_bridge_open("job", 0, 1, (int[]){0}, &exchange, note_abort, bridge), CAIRN_OK);
    cr_assert_str_eq(getenv("PMI_RANK"), "0");
    cr_assert_str_eq(getenv("PMI_SIZE"), "1");
    return atoi(getenv("PMI_FD"));
}

Test(pmi_bridge, answers_over_the_descriptor)
{
    struct board board = {.dead = -1};
    pthread_barrier_init(&board.barrier, NULL, 1);
    struct seat seat;
    struct pmi_bridge *bridge;
    int fd = open_bridge(&bridge, &seat, &board);
    char line[PMI_LINE_MAX], longer[3 * PMI_LINE_MAX];
    /* two requests in one write, one request in two, one far too long */
    cr_assert_eq(write(fd, "cmd=get_appnum\ncmd=barr", 23), 23);
    read_answer(fd, line);
    cr_assert_str_eq(line, "cmd=appnum appnum=0 rc=0");
    cr_assert_eq(write(fd, "ier_in\n", 7), 7);
    read_answer(fd, line);
    cr_assert_str_eq(line, "cmd=barrier_out rc=0");
    cr_assert_eq(pmi_bridge_fences(bridge), 1);
    memset(longer, 'v', sizeof longer);
    memcpy(longer, "cmd=put kvsname=job key=k value=", 32);
    longer[sizeof longer - 1] = '\n';
    cr_assert_eq(write(fd, longer, sizeof longer), (ssize_t)sizeof longer);
    read_answer(fd, line);
    cr_assert_str_eq(line, "cmd=put_result rc=-1 msg=value_too_long");
    cr_assert_eq(write(fd, "cmd=finalize\n", 13), 13);
    read_answer(fd, line);
    cr_assert_str_eq(line, "cmd=finalize_ack rc=0", "a long line has one answer");
    pmi_bridge_hide();
    cr_assert_null(getenv("PMI_FD"));
    pmi_bridge_close(bridge);
    close(fd);
}

Test(pmi_bridge, passes_an_abort_on)
{
    struct board board = {.dead = -1};
    struct seat seat;
    struct pmi_bridge *bridge;
    int fd = open_bridge(&bridge, &seat, &board);
    cr_assert_eq(write(fd, "cmd=abort exitcode=5\n", 21), 21);
    pmi_bridge_close(bridge); /* joins the thread */
    pthread_mutex_lock(&abort_lock);
    cr_assert_eq(aborted_with, 5);
    pthread_mutex_unlock(&abort_lock);
    close(fd);
}

Test(pmi_bridge, a_library_that_goes_away_ends_it)
{
    struct board board = {.dead = -1};
    struct seat seat;
    struct pmi_bridge *bridge;
    int fd = open_bridge(&bridge, &seat, &board);
    cr_assert_eq(write(fd, "cmd=get_ma", 10), 10);
    close(fd);
    pmi_bridge_close(bridge);
}
