#include <criterion/criterion.h>
#include <string.h>

#include "base/clock.h"
#include "slurm/child.h"

static int run(const char *script, double seconds, char *output, size_t size)
{
    return child_run((char *[]){"sh", "-c", (char *)script, NULL}, seconds, output, size);
}

Test(child, tells_exit_code_and_output)
{
    char text[8];
    cr_expect_eq(run("echo text; exit 3", 20, text, sizeof text), 3);
    cr_expect_str_eq(text, "text\n");
    cr_expect_eq(run("echo more than there is room for", 20, text, sizeof text), 0);
    cr_expect_str_eq(text, "more th");
}

/* A little after its last output a command ends by itself. */
Test(child, waits_for_a_command_that_ends_after_its_output)
{
    cr_expect_eq(run("exec >&-; sleep 0.3; exit 4", 20, NULL, 0), 4);
}

Test(child, a_command_that_takes_too_long_is_ended, .timeout = 20)
{
    double begin = clock_seconds();
    cr_expect_eq(run("sleep 60", 0.5, NULL, 0), -1);
    cr_expect(clock_seconds() - begin < 10);
}

Test(child, so_is_one_that_has_closed_its_output, .timeout = 20)
{
    double begin = clock_seconds();
    cr_expect_eq(run("exec >&-; exec sleep 60", 0.5, NULL, 0), -1);
    cr_expect(clock_seconds() - begin < 10);
}
