#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/folder_lock.h"
#include "doctor/parts.h"
#include "job/memory.h"
#include "job/threads.h"
#include "kernels/backend.h"

/* Docker and Podman give a container 64 MiB unless --shm-size says otherwise. */
static const double shm_least = 128 << 20;

static void tell_processor(struct facts *f)
{
    const struct backend_options options = {.act = DTYPE_BF16, .instruction_set = "auto"};
    struct backend *b = NULL;
    int bound = threads_bound(), online = threads_online();
    if (backend_open("cpu", &options, &b) != CAIRN_OK) {
        fact_tell(f, MARK_TROUBLE, "processor", "no training can run here", "%s", cairn_err_message());
        return;
    }
    const char *signature = b->table->signature(b);
    fact_tell(f, MARK_OK, "processor", NULL, "%s; bfloat16 %s", signature,
              strstr(signature, "widened")  ? "is computed in float32"
              : strstr(signature, "amx")    ? "has its own products (AMX)"
                                            : "has its own products");
    b->table->close(b);
    fact_number(f, "allowed", bound);
    fact_number(f, "online", online);
    fact_tell(f, MARK_OK, "cores", NULL, "%d of %d", bound, online);
}

static void tell_memory(struct facts *f)
{
    int64_t bytes = memory_of_node();
    if (bytes > 0) {
        fact_number(f, "bytes", bytes);
        fact_tell(f, MARK_OK, "memory", NULL, "%.1f GB for all ranks of this node", (double)bytes / 1e9);
    }
}

static void tell_shared_memory(struct facts *f)
{
    struct statvfs s;
    if (statvfs("/dev/shm", &s) != 0) {
        fact_tell(f, MARK_WARNING, "/dev/shm", "mount a tmpfs there: ranks of one node exchange by it", "%s", strerror(errno));
        return;
    }
    double all = (double)s.f_blocks * (double)s.f_frsize, left = (double)s.f_bavail * (double)s.f_frsize;
    fact_number(f, "bytes", (long long)all);
    fact_number(f, "bytes_left", (long long)left);
    fact_tell(f, left < shm_least ? MARK_WARNING : MARK_OK, "/dev/shm",
              "several ranks on this node may fail for want of it: give the container more (--shm-size=1g), or remove what is left there",
              "%.0f MB, %.0f MB of them free", all / 1e6, left / 1e6);
}

static bool has_infiniband(void)
{
    DIR *folder = opendir("/sys/class/infiniband");
    int entries = 0;
    while (folder && readdir(folder))
        entries++;
    if (folder)
        closedir(folder);
    return entries > 2; /* "." and ".." */
}

/* RDMA needs memory that stays where it is. */
static void tell_locked_memory(struct facts *f)
{
    struct rlimit limit;
    if (!has_infiniband() || getrlimit(RLIMIT_MEMLOCK, &limit) != 0)
        return;
    bool unlimited = limit.rlim_cur == RLIM_INFINITY;
    fact_tell(f, unlimited ? MARK_OK : MARK_WARNING, "locked memory",
              "InfiniBand is here, and needs more: LimitMEMLOCK=infinity for slurmd, or ulimit -l unlimited", "%s",
              unlimited ? "unlimited" : "limited (ulimit -l)");
}

static void tell_locks(struct facts *f)
{
    char folder[1024];
    if (!getcwd(folder, sizeof folder))
        return;
    if (access(folder, W_OK) != 0) {
        fact_tell(f, MARK_OK, "file locks", NULL, "not tried: %s cannot be written", folder);
        return;
    }
    cairn_err err = folder_lock_try(folder);
    fact_tell(f, err ? MARK_WARNING : MARK_OK, "file locks",
              "nothing keeps two runs from writing into one folder there: mount it with locks (Lustre: -o flock)", "%s%s",
              err ? cairn_err_message() : "work in ", err ? "" : folder);
}

void examine_machine(struct facts *f, int unused)
{
    (void)unused;
    tell_processor(f);
    tell_memory(f);
    tell_shared_memory(f);
    tell_locked_memory(f);
    tell_locks(f);
}
