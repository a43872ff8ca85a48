#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/duration.h"
#include "base/error.h"
#include "base/folder_lock.h"
#include "base/options.h"
#include "base/permutation.h"
#include "base/philox.h"

Test(error, keeps_message_and_contexts)
{
    cairn_err err = FAIL(CAIRN_EFORMAT, "chunk %d: checksum differs", 17);
    err = error_context(err, "reading %s in %s", "/data/train", "tokens.h5");
    cr_assert_eq(err, CAIRN_EFORMAT);
    cr_assert_str_eq(cairn_err_message(), "reading /data/train in tokens.h5: chunk 17: checksum differs");
    cr_assert_str_eq(cairn_err_name(err), "CAIRN_EFORMAT");
    cr_assert_str_eq(cairn_err_name(12345), "unknown code");
}

/* Known answers of the authors' test vectors (Random123, kat_vectors). */
Test(philox, known_answers)
{
    uint32_t out[4];
    philox4x32((struct philox_key){{0, 0}}, 0, 0, out);
    cr_assert_eq(out[0], 0x6627e8d5u);
    cr_assert_eq(out[1], 0xe169c58du);
    cr_assert_eq(out[2], 0xbc57ac4cu);
    cr_assert_eq(out[3], 0x9b00dbd8u);
    philox4x32((struct philox_key){{0xa4093822u, 0x299f31d0u}}, 0x0370734413198a2eu, 0x85a308d3243f6a88u, out);
    cr_assert_eq(out[0], 0xd16cfe09u);
    cr_assert_eq(out[1], 0x94fdccebu);
    cr_assert_eq(out[2], 0x5001e420u);
    cr_assert_eq(out[3], 0x24126ea1u);
}

Test(permutation, is_a_permutation)
{
    for (uint64_t n = 1; n < 300; n += 7) {
        char seen[300] = {0};
        for (uint64_t i = 0; i < n; i++) {
            uint64_t x = permutation_map(42, 3, n, i);
            cr_assert_lt(x, n);
            cr_assert_not(seen[x], "n %zu: %zu met twice", (size_t)n, (size_t)x);
            seen[x] = 1;
        }
    }
}

Test(permutation, epochs_and_seeds_differ)
{
    int same_epoch = 0, same_seed = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        same_epoch += permutation_map(1, 0, 100000, i) == permutation_map(1, 1, 100000, i);
        same_seed += permutation_map(1, 0, 100000, i) == permutation_map(2, 0, 100000, i);
    }
    cr_assert_lt(same_epoch, 5);
    cr_assert_lt(same_seed, 5);
}

Test(options, reads_all_kinds_anywhere)
{
    bool json = false, help;
    long n = 0;
    double r = 0;
    const char *out = NULL;
    const struct option_spec options[] = {{'j', "json", OPTION_FLAG, &json, NULL, "JSON"},
                                          {'n', "number", OPTION_INT, &n, "N", "a number"},
                                          {0, "rate", OPTION_REAL, &r, "R", "a rate"},
                                          {'o', "output", OPTION_STRING, &out, "FILE", "a file"},
                                          {0}};
    const struct command_spec command = {"test", "tests", options, NULL};
    char *argv[] = {"test", "a", "--rate=0.5", "-n", "7", "-ofile", "--json", "--", "--b", NULL};
    int argc = 9;
    cr_assert_eq(options_parse(&command, &argc, argv, &help), CAIRN_OK);
    cr_assert(json && n == 7 && r == 0.5 && !help && strcmp(out, "file") == 0);
    cr_assert_eq(argc, 3);
    cr_assert_str_eq(argv[2], "--b");
    char *bad[] = {"test", "--nope", NULL};
    argc = 2;
    cr_assert_eq(options_parse(&command, &argc, bad, &help), CAIRN_ECONFIG);
    cr_assert(strstr(cairn_err_message(), "--nope"));
}

Test(duration, reads_as_people_say_it)
{
    char text[DURATION_SIZE];
    cr_expect_str_eq(duration_text(0.4, text), "0 s");
    cr_expect_str_eq(duration_text(59.6, text), "1 min 00 s");
    cr_expect_str_eq(duration_text(3 * 3600 + 5 * 60 + 59, text), "3 h 05 min");
    cr_expect_str_eq(duration_text(1e300, text), "277777 h 46 min");
}

/* How a second process of Slurm job JOB ("": of none) fares with FOLDER. */
static cairn_err second_lock(const char *folder, const char *job, char *message, size_t size)
{
    int told[2], status;
    cr_assert(pipe(told) == 0);
    pid_t child = fork();
    if (child == 0) {
        int fd;
        setenv("SLURM_JOB_ID", job, 1);
        cairn_err err = folder_lock(folder, &fd);
        ssize_t ignored = write(told[1], cairn_err_message(), strlen(cairn_err_message()));
        (void)ignored;
        _exit(-err);
    }
    close(told[1]);
    ssize_t length = read(told[0], message, size - 1);
    message[length > 0 ? length : 0] = 0;
    close(told[0]);
    waitpid(child, &status, 0);
    return -WEXITSTATUS(status);
}

Test(folder_lock, keeps_other_jobs_out)
{
    char folder[] = "/tmp/cairn-lock-XXXXXX", path[64], message[1024];
    int fd;
    cr_assert(mkdtemp(folder));
    setenv("SLURM_JOB_ID", "17", 1);
    cr_assert_eq(folder_lock(folder, &fd), CAIRN_OK, "%s", cairn_err_message());
    cr_expect_eq(second_lock(folder, "18", message, sizeof message), CAIRN_ECONFIG);
    cr_expect(strstr(message, "another run writes into /tmp/cairn-lock-") && strstr(message, ", Slurm job 17 holds "), "%s", message);
    cr_expect_eq(second_lock(folder, "", message, sizeof message), CAIRN_ECONFIG);
    cr_expect_eq(second_lock(folder, "17", message, sizeof message), CAIRN_OK, "a lost node's lock keeps the job that comes back out: %s", message);
    close(fd);
    cr_expect_eq(second_lock(folder, "18", message, sizeof message), CAIRN_OK, "%s", message);
    snprintf(path, sizeof path, "%s/lock", folder);
    unlink(path);
    rmdir(folder);
}
