#include "job/near.h"

hwloc_const_cpuset_t near_cores(hwloc_topology_t topology, hwloc_const_cpuset_t bound, const char *bus)
{
    /* Those that the machine has and its control group allows; a process that nobody bound may also have some that are switched off. */
    hwloc_const_cpuset_t all = hwloc_topology_get_topology_cpuset(topology);
    hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(topology, bus);
    if (!device || !hwloc_bitmap_isincluded(all, bound))
        return NULL;
    hwloc_obj_t place = hwloc_get_non_io_ancestor_obj(topology, device);
    if (!place || hwloc_bitmap_iszero(place->cpuset) || hwloc_bitmap_isequal(place->cpuset, all))
        return NULL;
    return place->cpuset;
}

/* PCI devices are read from the system's files. hwloc's own plug-ins would have the libraries of GPUs open all of them. */
static int load(hwloc_topology_t topology)
{
    static const char *const others[] = {"cuda", "nvml", "opencl", "rsmi", "levelzero", "gl"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, others[i]);
    hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    return hwloc_topology_load(topology);
}

/* What the calling thread may run on tells whether a launcher bound this process: libraries may have bound threads of their own. */
static int bind_in(hwloc_topology_t topology, hwloc_bitmap_t bound, const char *bus)
{
    if (load(topology) || hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_THREAD))
        return 0;
    hwloc_const_cpuset_t cores = near_cores(topology, bound, bus);
    return cores && hwloc_set_cpubind(topology, cores, HWLOC_CPUBIND_PROCESS) == 0 ? hwloc_bitmap_weight(cores) : 0;
}

int near_bind(const char *bus)
{
    hwloc_topology_t topology;
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();
    int count = 0;
    if (bound && hwloc_topology_init(&topology) == 0) {
        count = bind_in(topology, bound, bus);
        hwloc_topology_destroy(topology);
    }
    hwloc_bitmap_free(bound);
    return count;
}
