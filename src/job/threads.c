#include "job/threads.h"

#include <sched.h>
#include <unistd.h>

int threads_of_rank(int given, int bound, int online, int ranks)
{
    if (given > 0)
        return given;
    int mine = bound < online || ranks < 1 ? bound : online / ranks;
    return mine > 0 ? mine : 1;
}

int threads_online(void)
{
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

int threads_bound(void)
{
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : threads_online();
}
