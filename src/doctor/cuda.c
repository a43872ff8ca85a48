#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "doctor/parts.h"
#include "kernels/plugin.h"

/* ---- the plug-in ---- */

/* A GPU that another job computes on may have no memory left, or be for one process alone: that is no illness. */
static bool is_in_use(cairn_err err)
{
    return err == CAIRN_ENOMEM || strstr(cairn_err_message(), "busy");
}

/* Each GPU that this process sees is opened in turn: one that the driver shows may still fail. Numbers are taken modulo how many there are,
 * so the first that comes again ends the list. */
static void open_all(struct facts *f, int gpus)
{
    char first[32] = "";
    for (int d = 0; d < GPUS_MOST; d++) {
        const struct backend_options options = {.act = DTYPE_F32, .instruction_set = "auto", .device = d};
        struct backend *b = NULL;
        cairn_err err = plugin_open_backend("cuda", &options, &b);
        if (err != CAIRN_OK) {
            bool trouble = err == CAIRN_EUNSUPPORTED || (gpus > 0 && !is_in_use(err));
            fact_tell(f, trouble ? MARK_TROUBLE : MARK_WARNING, "cuda plug-in", "device: auto takes processors until the GPUs can be used",
                      "GPU %d of this process: %s", d, cairn_err_message());
            return;
        }
        bool again = d > 0 && strcmp(first, b->unit) == 0;
        if (d == 0)
            snprintf(first, sizeof first, "%s", b->unit);
        if (!again)
            fact_tell(f, MARK_OK, "cuda plug-in", NULL, "opens %s: %s", b->unit, b->table->signature(b));
        b->table->close(b);
        if (again)
            return;
    }
}

static void tell_plugin(struct facts *f, int gpus)
{
    if (plugin_is_there("cuda"))
        open_all(f, gpus);
    else
        fact_tell(f, gpus > 0 ? MARK_WARNING : MARK_OK, "cuda plug-in",
                  "this node's GPUs are not used: build Cairn by configure --with-cuda", "not installed");
}

/* ---- libraries ---- */

static void *load(const char *file)
{
    char path[1024];
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (library || !*CAIRN_CUDA_LIBDIR)
        return library;
    snprintf(path, sizeof path, "%s/%s", CAIRN_CUDA_LIBDIR, file);
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

/* What the plug-in can use (kernels/cuda/link.cu, attention_cudnn.cu). */
enum { NCCL_LEAST = 21400, CUDNN_LEAST = 91002 };

/* Both count versions as 10000 * major + 100 * minor + patch (since NCCL 2.9 and cuDNN 9). */
static void tell_version(struct facts *f, const char *name, long long version, long long least)
{
    fact_number(f, "version", version);
    fact_tell(f, version < least ? MARK_WARNING : MARK_OK, name, "an older one is passed over, as if it were not there", "%lld.%lld.%lld%s",
              version / 10000, version / 100 % 100, version % 100, version < least ? ", which is too old" : "");
}

/* Without the plug-in nothing would use them. */
static void tell_missing(struct facts *f, const char *name, const char *file, const char *lost)
{
    fact_tell(f, plugin_is_there("cuda") ? MARK_WARNING : MARK_OK, name, lost, "%s cannot be loaded", file);
}

static void tell_nccl(struct facts *f)
{
    int version = 0, (*get_version)(int *);
    void *library = load("libnccl.so.2"), *found = library ? dlsym(library, "ncclGetVersion") : NULL;
    memcpy(&get_version, &found, sizeof found);
    if (found && get_version(&version) == 0)
        tell_version(f, "NCCL", version, NCCL_LEAST);
    else
        tell_missing(f, "NCCL", "libnccl.so.2",
                     "without it GPUs exchange by way of their hosts and MPI, which is slower and excludes ZeRO 2 and 3; install NCCL 2");
}

static void tell_cudnn(struct facts *f)
{
    size_t (*get_version)(void);
    void *library = load("libcudnn.so.9"), *found = library ? dlsym(library, "cudnnGetVersion") : NULL;
    memcpy(&get_version, &found, sizeof found);
    if (found)
        tell_version(f, "cuDNN", (long long)get_version(), CUDNN_LEAST);
    else
        tell_missing(f, "cuDNN", "libcudnn.so.9", "without it Hopper's attention is left to Cairn's own kernels; install cuDNN 9");
}

void examine_cuda(struct facts *f, int gpus)
{
    tell_plugin(f, gpus);
    tell_nccl(f);
    tell_cudnn(f);
}
