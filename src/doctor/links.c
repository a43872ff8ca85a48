#include <stdio.h>
#include <string.h>

#include "doctor/parts.h"

enum { TEXT_SIZE = 768 };

/* What NVLink gives one GPU. */
struct links {
    int up, all, to_switch;
    int to[GPUS_MOST]; /* by GPU */
    unsigned version;  /* of one that is up, as the driver counts them */
};

/* NVML counts versions of NVLink on, those of half a step among them. */
static const char *version_name(unsigned version)
{
    static const char *const names[] = {"?", "1.0", "2.0", "2.2", "3.0", "3.1", "4.0", "5.0", "6.0"};
    return version < sizeof names / sizeof names[0] ? names[version] : "newer than 6.0";
}

static int find_peer(const struct gpu *gpus, int count, const nvmlPciInfo_t *pci)
{
    for (int i = 0; i < count; i++)
        if (gpus[i].pci.domain == pci->domain && gpus[i].pci.bus == pci->bus && gpus[i].pci.device == pci->device)
            return i;
    return -1;
}

static void read_links(const struct nvml *nvml, const struct gpu *gpus, int count, nvmlDevice_t device, struct links *l)
{
    *l = (struct links){0};
    for (unsigned link = 0; link < NVML_NVLINK_MAX_LINKS; link++) {
        nvmlEnableState_t up = 0;
        nvmlPciInfo_t peer = {0};
        unsigned kind = NVML_NVLINK_DEVICE_TYPE_GPU;
        if (nvml->link_state(device, link, &up) != NVML_SUCCESS)
            continue;
        l->all++;
        if (!up)
            continue;
        l->up++;
        nvml->link_version(device, link, &l->version);
        nvml->link_kind(device, link, &kind);
        int other = nvml->link_peer(device, link, &peer) == NVML_SUCCESS ? find_peer(gpus, count, &peer) : -1;
        if (kind == NVML_NVLINK_DEVICE_TYPE_SWITCH)
            l->to_switch++;
        else if (other >= 0)
            l->to[other]++;
    }
}

static const char *pcie_path(unsigned level)
{
    switch (level) {
    case NVML_TOPOLOGY_INTERNAL: return "one board";
    case NVML_TOPOLOGY_SINGLE: return "one PCIe switch";
    case NVML_TOPOLOGY_MULTIPLE: return "several PCIe switches";
    case NVML_TOPOLOGY_HOSTBRIDGE: return "a PCIe host bridge";
    case NVML_TOPOLOGY_NODE: return "PCIe host bridges of one NUMA node";
    case NVML_TOPOLOGY_SYSTEM: return "PCIe and the link between NUMA nodes";
    default: return "an unknown way";
    }
}

static void add(char text[static TEXT_SIZE], const char *part)
{
    size_t used = strlen(text);
    snprintf(text + used, TEXT_SIZE - used, "%s%s", used ? "; " : "", part);
}

/* Peers that are reached in the same way stand together: "GPU 2, 3: PCIe host bridges of one NUMA node". */
static void add_pcie(const struct nvml *nvml, const struct gpu *gpus, int count, int own, const struct links *l,
                     char text[static TEXT_SIZE])
{
    static const unsigned levels[] = {NVML_TOPOLOGY_INTERNAL, NVML_TOPOLOGY_SINGLE, NVML_TOPOLOGY_MULTIPLE, NVML_TOPOLOGY_HOSTBRIDGE,
                                      NVML_TOPOLOGY_NODE, NVML_TOPOLOGY_SYSTEM};
    for (size_t k = 0; k < sizeof levels / sizeof levels[0]; k++) {
        char part[256] = "";
        for (int i = 0; i < count; i++) {
            unsigned level;
            if (i == own || l->to[i] || nvml->ancestor(gpus[own].device, gpus[i].device, &level) != NVML_SUCCESS || level != levels[k])
                continue;
            size_t used = strlen(part);
            snprintf(part + used, sizeof part - used, "%s%u", used ? ", " : "GPU ", gpus[i].number);
        }
        if (*part) {
            size_t used = strlen(part);
            snprintf(part + used, sizeof part - used, ": %s", pcie_path(levels[k]));
            add(text, part);
        }
    }
}

static void tell_links(struct facts *f, const struct nvml *nvml, const struct gpu *gpus, int count, int own, const struct links *l,
                       int most)
{
    char text[TEXT_SIZE] = "", part[128], name[64];
    if (l->to_switch) {
        snprintf(part, sizeof part, "%d NVLinks %s to switches", l->to_switch, version_name(l->version));
        add(text, part);
    }
    for (int i = 0; i < count; i++)
        if (l->to[i]) {
            snprintf(part, sizeof part, "GPU %u: %d NVLink%s %s", gpus[i].number, l->to[i], l->to[i] == 1 ? "" : "s",
                     version_name(l->version));
            add(text, part);
        }
    if (!l->to_switch)
        add_pcie(nvml, gpus, count, own, l, text);
    if (!*text)
        add(text, "not told by the driver");
    if (l->up < most)
        snprintf(text + strlen(text), sizeof text - strlen(text), "; %d NVLinks are up, on other GPUs %d", l->up, most);
    snprintf(name, sizeof name, "GPU %u, links", gpus[own].number);
    fact_number(f, "nvlinks_up", l->up);
    fact_tell(f, l->up < most ? MARK_WARNING : MARK_OK, name,
              "links that are down make all exchanges slow: see nvidia-smi nvlink --status, and have the board or the bridge checked", "%s",
              text);
}

void examine_links(struct facts *f, const struct nvml *nvml, const struct gpu *gpus, int count)
{
    struct links links[GPUS_MOST];
    int most = 0;
    for (int i = 0; i < count; i++) {
        read_links(nvml, gpus, count, gpus[i].device, &links[i]);
        most = links[i].up > most ? links[i].up : most;
    }
    for (int i = 0; i < count && count > 1; i++)
        tell_links(f, nvml, gpus, count, i, &links[i], most);
}
