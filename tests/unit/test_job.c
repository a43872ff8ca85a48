#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "job/heartbeat.h"
#include "job/job_private.h"
#include "job/launch.h"
#include "job/memory.h"
#include "job/time_left.h"
#include "job/watchdog.h"

/* ---- how it was started ---- */

static void clear_environment(void)
{
    static const char *const names[] = {"PMI_RANK", "PMI_FD", "PMI_SIZE", "PMI_JOBID", "PMIX_RANK", "PMIX_NAMESPACE", "HYDI_CONTROL_FD",
                                        "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "CAIRN_PMI_BRIDGE", "CAIRN_SUPERVISED"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unsetenv(names[i]);
}

Test(launch, order_of_discovery)
{
    clear_environment();
    cr_assert_eq(launch_discover(), LAUNCH_ALONE);
    setenv("PMIX_RANK", "3", 1);
    setenv("PMIX_NAMESPACE", "slurm.pmix.7.0", 1);
    setenv("CAIRN_PMI_BRIDGE", "yes", 1);
    cr_assert_eq(launch_discover(), LAUNCH_PMIX_BRIDGE);
    setenv("CAIRN_PMI_BRIDGE", "no", 1);
    cr_assert_eq(launch_discover(), LAUNCH_PMIX);
    setenv("PMI_RANK", "1", 1);
    cr_assert_eq(launch_discover(), LAUNCH_MPIEXEC, "mpiexec inside of a PMIx step");
    setenv("PMI_JOBID", "7.0", 1);
    setenv("SLURM_STEP_ID", "0", 1);
    cr_assert_eq(launch_discover(), LAUNCH_PMI);
}

Test(launch, what_the_mpi_library_speaks)
{
    cr_assert_not(launch_version_speaks_pmix("MPICH Version:\t4.0.2\nMPICH configure:\t--with-pm=hydra --with-ucx=/usr\n"));
    cr_assert(launch_version_speaks_pmix("MPICH Version:\t4.2.0\nMPICH configure:\t--with-pmix=/usr\n"));
    cr_assert(launch_version_speaks_pmix("MPICH Version:\t4.0.2\nMPICH configure:\t--with-pmi=pmix\n"));
    cr_assert(launch_version_speaks_pmix("Open MPI v4.1.4, package: Debian OpenMPI"));
}

Test(launch, slurm_tasks)
{
    clear_environment();
    int task = -1;
    cr_assert_eq(launch_slurm_tasks(&task), 0);
    setenv("SLURM_PROCID", "2", 1);
    setenv("SLURM_STEP_NUM_TASKS", "4", 1);
    cr_assert_eq(launch_slurm_tasks(&task), 0, "a batch script is no step");
    setenv("SLURM_STEP_ID", "0", 1);
    cr_assert_eq(launch_slurm_tasks(&task), 4);
    cr_assert_eq(task, 2);
    setenv("SLURM_STEP_NUM_TASKS", "1", 1);
    cr_assert_eq(launch_slurm_tasks(&task), 0);
}

Test(time_left, reads_squeue)
{
    cr_assert_eq(time_left_parse("0:07\n"), 7);
    cr_assert_eq(time_left_parse("12:34"), 754);
    cr_assert_eq(time_left_parse("1:00:01\n"), 3601);
    cr_assert_eq(time_left_parse("2-01:00:00\n"), 2 * 86400 + 3600);
    const char *none[] = {"UNLIMITED\n", "INVALID", "NOT_SET", "", "5", "-1:00", "1:2:3:4", "1:00 x"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        cr_assert_lt(time_left_parse(none[i]), 0, "%s", none[i]);
}

/* ---- the supervisor's channel ---- */

/* What heartbeat_send writes to standard output, which is a pipe here. */
static void send_and_catch(struct heartbeat h, char *line, size_t size)
{
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    int out = dup(STDOUT_FILENO);
    dup2(fds[1], STDOUT_FILENO);
    heartbeat_send(h.kind, h.rank, h.host, h.step, h.phase, h.text);
    dup2(out, STDOUT_FILENO);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    ssize_t n = read(fds[0], line, size - 1);
    line[n < 0 ? 0 : n] = '\0';
    close(fds[0]);
    close(fds[1]);
    close(out);
}

Test(heartbeat, silent_without_a_supervisor)
{
    clear_environment();
    char line[1024];
    send_and_catch((struct heartbeat){.kind = HEARTBEAT_ALIVE, .host = "n"}, line, sizeof line);
    cr_assert_str_eq(line, "");
}

Test(heartbeat, round_trip)
{
    setenv("CAIRN_SUPERVISED", "1", 1);
    struct heartbeat h = {HEARTBEAT_ABORT, 12, "node3", 123456789012, "step", "reading /x: two\nlines, \001cairn and more"}, got;
    char line[1024];
    send_and_catch(h, line, sizeof line);
    cr_assert_str_eq(line, "\001cairn abort 12 node3 123456789012 step reading /x: two lines,  cairn and more\n");
    line[strlen(line) - 1] = '\0';
    cr_assert(heartbeat_parse(line, &got));
    cr_assert(got.kind == HEARTBEAT_ABORT && got.rank == 12 && got.step == h.step);
    cr_assert(strcmp(got.host, "node3") == 0 && strcmp(got.phase, "step") == 0);
    cr_assert_str_eq(got.text, "reading /x: two lines,  cairn and more");
}

Test(heartbeat, empty_and_long_fields)
{
    setenv("CAIRN_SUPERVISED", "1", 1);
    struct heartbeat h = {HEARTBEAT_LEAVE, 0, "a host", 0, "", ""}, got;
    memset(h.text, 't', sizeof h.text - 1);
    char line[1024];
    send_and_catch(h, line, sizeof line);
    line[strcspn(line, "\n")] = '\0';
    cr_assert(heartbeat_parse(line, &got));
    cr_assert_str_eq(got.host, "a_host");
    cr_assert_str_eq(got.phase, "");
    cr_assert_eq(strlen(got.text), sizeof h.text - 1);
    cr_assert(heartbeat_parse("\001cairn commit 0 n 400 checkpoint ", &got));
    cr_assert(got.kind == HEARTBEAT_COMMIT && got.step == 400 && *got.text == '\0');
    cr_assert(heartbeat_parse("\001cairn servers 0 n 0 serve 0123abcd@n7:41,10.0.0.7:41", &got));
    cr_assert(got.kind == HEARTBEAT_SERVERS);
    cr_assert_str_eq(got.text, "0123abcd@n7:41,10.0.0.7:41");
}

Test(heartbeat, other_lines_are_not_taken)
{
    const char *lines[] = {"",
                           "loss 4.2",
                           "cairn alive 0 n 0 -",
                           "\001cairn",
                           "\001cairn alive",
                           "\001cairn alive x n 0 - ",
                           "\001cairn alive -1 n 0 - ",
                           "\001cairn alive 0 n 99999999999999999999 - ",
                           "\001cairn dance 0 n 0 - ",
                           "\001cairn abort 0 n 0 step why\001cairn alive 1 n 0 step "};
    struct heartbeat got;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        cr_assert_not(heartbeat_parse(lines[i], &got), "%s", lines[i]);
}

/* A supervisor that has stopped reading costs a line, not the rank. */
Test(heartbeat, full_pipe_does_not_block, .timeout = 60)
{
    setenv("CAIRN_SUPERVISED", "1", 1);
    int fds[2];
    char full[4096] = {0};
    cr_assert_eq(pipe(fds), 0);
    int out = dup(STDOUT_FILENO);
    fcntl(fds[1], F_SETFL, O_NONBLOCK);
    while (write(fds[1], full, sizeof full) > 0)
        ;
    while (write(fds[1], full, 1) > 0)
        ;
    fcntl(fds[1], F_SETFL, 0);
    dup2(fds[1], STDOUT_FILENO);
    double begin = clock_seconds();
    heartbeat_send(HEARTBEAT_ALIVE, 0, "n", 1, "step", "");
    double lasted = clock_seconds() - begin;
    dup2(out, STDOUT_FILENO);
    cr_assert_lt(lasted, 30);
    close(fds[0]);
    close(fds[1]);
    close(out);
}

/* How many lines with WORD there are in what FD gives within SECONDS or until there are ENOUGH. */
static int lines_with(int fd, const char *word, int enough, double seconds)
{
    char text[1 << 16] = "";
    size_t length = 0;
    int found = 0;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    for (double end = clock_seconds() + seconds; found < enough && clock_seconds() < end; usleep(1000)) {
        ssize_t n = read(fd, text + length, sizeof text - 1 - length);
        length += n > 0 ? (size_t)n : 0;
        text[length] = '\0';
        found = 0;
        for (const char *at = text; (at = strstr(at, word)); at++)
            found++;
    }
    return found;
}

Test(heartbeat, servers_are_told_again_and_again, .timeout = 60)
{
    setenv("CAIRN_SUPERVISED", "1", 1);
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    int out = dup(STDOUT_FILENO);
    dup2(fds[1], STDOUT_FILENO);
    struct job job = {.host = "n"};
    cairn_err err = job_watchdog_start(&job, 0.01, 10, 60);
    job_report_servers(&job, "0123abcd@n7:41");
    int found = lines_with(fds[0], "\001cairn servers 0 n 0 serve 0123abcd@n7:41\n", 3, 30);
    watchdog_stop(&job.watchdog);
    dup2(out, STDOUT_FILENO);
    close(fds[0]);
    close(fds[1]);
    close(out);
    cr_assert_eq(err, CAIRN_OK);
    cr_assert_geq(found, 3);
}

/* ---- the hang rule, on a clock of our own ---- */

static const struct hang_rule rule = {.factor = 10, .seconds = 5};

/* COUNT phases "step" of SECONDS each from *NOW; looks come every half second. */
static void pass_steps(struct phase_watch *w, int count, double seconds, double *now)
{
    for (int i = 0; i < count; i++) {
        phase_watch_enter(w, "step", i, 0, *now);
        *now += seconds;
    }
}

Test(hang_rule, median_and_floor)
{
    struct phase_watch w = {0};
    double now = 100, seconds;
    cr_assert_not(phase_watch_look(&w, rule, 0.5, now, &seconds), "no phase is no hang");
    pass_steps(&w, 10, 0.1, &now);
    phase_watch_enter(&w, "step", 10, 0, now);
    cr_assert_float_eq(phase_watch_median(&w, "step"), 0.1, 1e-9);
    cr_assert_float_eq(phase_watch_limit(&w, rule), 5, 1e-9, "never before hang_seconds");
    pass_steps(&w, 40, 2, &now);
    phase_watch_enter(&w, "step", 60, 0, now);
    cr_assert_float_eq(phase_watch_limit(&w, rule), 20, 1e-9, "hang_factor times the median");
}

Test(hang_rule, first_phases_may_be_slow)
{
    struct phase_watch w = {0};
    double now = 100;
    phase_watch_enter(&w, "step", 0, 0, now);
    cr_assert_eq(phase_watch_limit(&w, rule), 600);
    pass_steps(&w, PHASE_FIRST + 1, 1, &now);
    cr_assert_eq(phase_watch_limit(&w, rule), 10);
    phase_watch_enter(&w, "restore", 0, 0, now);
    cr_assert_eq(phase_watch_limit(&w, rule), 600, "another kind of phase");
    phase_watch_enter(&w, "checkpoint", 0, 42, now);
    cr_assert_eq(phase_watch_limit(&w, rule), 42, "its own limit");
    phase_watch_enter(&w, NULL, 0, 0, now);
    cr_assert_eq(phase_watch_limit(&w, rule), INFINITY);
}

/* Looks every half second from *NOW until the phase is taken for a hang, at most COUNT times; the time it had lasted then. */
static double look_until_hang(struct phase_watch *w, double *now, int count)
{
    double seconds = 0;
    for (int i = 0; i < count; i++) {
        if (phase_watch_look(w, rule, 0.5, *now, &seconds))
            return seconds;
        *now += 0.5;
    }
    return -1;
}

Test(hang_rule, a_hang_is_seen_in_time)
{
    struct phase_watch w = {0};
    double now = 100;
    pass_steps(&w, 10, 0.9, &now);
    phase_watch_enter(&w, "step", 1234, 0, now);
    double seconds = look_until_hang(&w, &now, 100);
    cr_assert(seconds > 9 && seconds <= 9.6, "at %f s", seconds);
    char text[300];
    phase_watch_describe(&w, rule, 3, "node2", seconds, text, sizeof text);
    cr_assert_str_eq(text, "rank 3 on node2 is 9.5 s in phase step of step 1234 (limit 9.0 s, median 0.9 s): taken for a hang");
}

/* A process that was stopped for an hour (SIGSTOP, a suspended job) is not hung when it goes on; one that stays is. */
Test(hang_rule, standing_still_is_not_hanging)
{
    struct phase_watch w = {0};
    double now = 100, seconds;
    pass_steps(&w, 10, 0.1, &now);
    phase_watch_enter(&w, "step", 10, 0, now);
    cr_assert_not(phase_watch_look(&w, rule, 0.5, now, &seconds));
    now += 3600;
    cr_assert_not(phase_watch_look(&w, rule, 0.5, now, &seconds));
    cr_assert_lt(seconds, 1);
    now += 0.5;
    cr_assert_gt(look_until_hang(&w, &now, 100), 5);
}

Test(hang_rule, more_kinds_than_places)
{
    struct phase_watch w = {0};
    static char names[2 * PHASE_KINDS][8];
    for (int i = 0; i < 2 * PHASE_KINDS; i++) {
        snprintf(names[i], sizeof names[i], "p%d", i);
        phase_watch_enter(&w, names[i], 0, 0, i);
    }
    cr_assert_eq(phase_watch_median(&w, "p0"), 1);
    cr_assert_eq(phase_watch_median(&w, names[2 * PHASE_KINDS - 1]), 0);
}

/* ---- memory ---- */

Test(memory, is_what_slurm_grants)
{
    setenv("SLURM_CPUS_ON_NODE", "3", 1);
    unsetenv("SLURM_MEM_PER_CPU");
    unsetenv("SLURM_MEM_PER_NODE");
    int64_t all = memory_of_node();
    cr_expect_gt(all, 16 << 20);
    setenv("SLURM_MEM_PER_CPU", "5", 1);
    cr_expect_eq(memory_of_node(), 15 << 20, "%lld bytes", (long long)memory_of_node());
    setenv("SLURM_MEM_PER_CPU", "9223372036854775807", 1);
    cr_expect_eq(memory_of_node(), all, "more than can be counted");
    setenv("SLURM_MEM_PER_CPU", "5", 1);
    unsetenv("SLURM_CPUS_ON_NODE");
    cr_expect_eq(memory_of_node(), all, "nobody knows for how many");
    setenv("SLURM_MEM_PER_NODE", "7", 1);
    cr_expect_eq(memory_of_node(), 7 << 20);
    memory_pass_on();
    unsetenv("SLURM_MEM_PER_NODE");
    cr_expect_eq(memory_of_node(), 7 << 20, "as the supervisor leaves it");
    memory_pass_on();
    setenv("SLURM_MEM_PER_NODE", "0", 1);
    cr_expect_eq(memory_of_node(), all);
}
