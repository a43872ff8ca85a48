/* tests/unit/near.xml is a machine of two NUMA nodes with a core each: GPU 0000:02:00.0 is on the first, 0000:01:00.0 on the second,
 * 0000:03:00.0 on none. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "job/near.h"

static char *machine(void)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/tests/unit/near.xml", getenv("CAIRN_SOURCE"));
    return path;
}

/* The lowest of the cores near BUS for a process that may run on the cores of MASK; -1: none. */
static int chosen(unsigned long mask, const char *bus)
{
    hwloc_topology_t t;
    cr_assert_eq(hwloc_topology_init(&t), 0);
    cr_assert_eq(hwloc_topology_set_io_types_filter(t, HWLOC_TYPE_FILTER_KEEP_IMPORTANT), 0);
    cr_assert_eq(hwloc_topology_set_xml(t, machine()), 0, "cannot read %s", machine());
    cr_assert_eq(hwloc_topology_load(t), 0);
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();
    hwloc_bitmap_from_ulong(bound, mask);
    hwloc_const_cpuset_t cores = near_cores(t, bound, bus);
    int first = cores ? hwloc_bitmap_first(cores) : -1;
    cr_assert(!cores || hwloc_bitmap_weight(cores) == 1);
    hwloc_bitmap_free(bound);
    hwloc_topology_destroy(t);
    return first;
}

Test(near, cores_of_the_node_that_has_the_gpu)
{
    cr_expect_eq(chosen(3, "0000:02:00.0"), 0);
    cr_expect_eq(chosen(3, "0000:01:00.0"), 1);
    cr_expect_eq(chosen(0xff, "0000:01:00.0"), 1, "a process may have cores that are switched off");
}

Test(near, nothing_to_choose)
{
    cr_expect_eq(chosen(1, "0000:02:00.0"), -1, "bound already");
    cr_expect_eq(chosen(1, "0000:01:00.0"), -1, "bound already, elsewhere");
    cr_expect_eq(chosen(3, "0000:03:00.0"), -1, "near all cores");
    cr_expect_eq(chosen(3, "0000:04:00.0"), -1, "not there");
    cr_expect_eq(chosen(3, "the processor"), -1, "no PCI device");
}

static int cores_of_thread(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    return CPU_ISSET(0, &set) + 2 * CPU_ISSET(1, &set) + 4 * (CPU_COUNT(&set) > CPU_ISSET(0, &set) + CPU_ISSET(1, &set));
}

static pthread_barrier_t barrier;

static void *older_thread(void *cores)
{
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    *(int *)cores = cores_of_thread();
    return NULL;
}

Test(near, binds_all_threads_of_the_process)
{
    if ((cores_of_thread() & 3) != 3)
        cr_skip("this process may not run on the first two cores");
    setenv("HWLOC_XMLFILE", machine(), 1);
    setenv("HWLOC_THISSYSTEM", "1", 1);
    pthread_t thread;
    int its = 0;
    pthread_barrier_init(&barrier, NULL, 2);
    cr_assert_eq(pthread_create(&thread, NULL, older_thread, &its), 0);
    pthread_barrier_wait(&barrier);
    cr_expect_eq(near_bind("0000:03:00.0"), 0);
    cr_expect_eq(cores_of_thread() & 3, 3, "left as it was");
    cr_expect_eq(near_bind("0000:01:00.0"), 1);
    cr_expect_eq(cores_of_thread(), 2);
    cr_expect_eq(near_bind("0000:02:00.0"), 0, "bound already");
    cr_expect_eq(cores_of_thread(), 2);
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    cr_expect_eq(its, 2, "a thread that was there before is bound too");
}
