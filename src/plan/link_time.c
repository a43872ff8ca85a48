#include "plan/link_time.h"

#include <math.h>

#include "base/least.h"

/* What a collective inside a node takes however little it moves: a kernel, and flags over the links. NCCL's measured small
 * all-reduces on eight GPUs take 20 to 50 us (nccl-tests' published tables). */
static const double node_collective_seconds = 15e-6;

static double node_bandwidth(const struct machine *m)
{
    double links = m->gpu->nvlink_gb_s > 0 ? m->gpu->nvlink_gb_s : m->gpu->pcie_gb_s;
    return links * 1e9 * m->gpu->link_efficiency;
}

/* Of all a node's NICs together. */
static double network_bandwidth(const struct machine *m)
{
    return m->network->nic_gbit_s / 8 * 1e9 * m->network->nics_per_gpu * m->gpus_per_node * m->network->efficiency;
}

struct link_group link_group_of(const struct machine *m, int ranks, int stride)
{
    int per_node = stride >= m->gpus_per_node ? 1 : (int)least(ranks, m->gpus_per_node / stride);
    return (struct link_group){.ranks = ranks, .per_node = per_node, .rivals = m->gpus_per_node / per_node};
}

/* LATENCIES are of the ring's steps between nodes; a tree's where that is less. */
static double start_seconds(const struct machine *m, const struct link_group *g)
{
    double nodes = ceil((double)g->ranks / g->per_node);
    double hops = nodes > 1 ? fmin(nodes - 1, 2 * ceil(log2(nodes))) : 0;
    return node_collective_seconds + hops * m->network->latency_us * 1e-6;
}

static double scatter_seconds(const struct machine *m, const struct link_group *g, double bytes, double copies)
{
    if (g->ranks < 2 || bytes <= 0)
        return 0;
    double share = bytes * (g->ranks - 1) / g->ranks;
    double inside = g->per_node > 1 ? share / node_bandwidth(m) : 0;
    double between = g->ranks > g->per_node ? share * g->rivals * copies / network_bandwidth(m) : 0;
    return start_seconds(m, g) + fmax(inside, between);
}

double link_scatter_seconds(const struct machine *m, const struct link_group *g, double bytes)
{
    return scatter_seconds(m, g, bytes, 1);
}

double link_direct_seconds(const struct machine *m, const struct link_group *g, double bytes)
{
    double away = (double)(g->ranks - g->per_node) / (g->ranks > 1 ? g->ranks - 1 : 1);
    return scatter_seconds(m, g, bytes, g->per_node * away);
}

double link_reduce_seconds(const struct machine *m, const struct link_group *g, double bytes)
{
    return 2 * link_scatter_seconds(m, g, bytes);
}

double link_send_seconds(const struct machine *m, int stride, double bytes)
{
    if (stride * 2 <= m->gpus_per_node) /* a neighbour in the same node for most */
        return node_collective_seconds + bytes / node_bandwidth(m);
    return m->network->latency_us * 1e-6 + bytes * m->gpus_per_node / network_bandwidth(m);
}
