/* The cores near a device: those of its NUMA node, which reach it without the link between nodes. */
#ifndef JOB_NEAR_H
#define JOB_NEAR_H

#include <hwloc.h>

/* The cores of TOPOLOGY near the PCI device BUS ("0000:3b:00.0"), for a process that may run on BOUND; the topology's. NULL where there is
 * nothing to choose: the process is bound to a part of the cores already, all are as near, or the device is not known. */
hwloc_const_cpuset_t near_cores(hwloc_topology_t topology, hwloc_const_cpuset_t bound, const char *bus);

/* Binds this process, all its threads and those that it starts from now on, to the cores near device BUS, if near_cores names some. Returns
 * how many; 0: it is left as it was. */
int near_bind(const char *bus);

#endif
