/* Where the static __shared__ arrays are. They are variables of this module that are local to a thread (vector_types.h) and to
 * a function; the module's table of symbols tells which: a name that begins with _ZZ (Itanium C++ ABI, "Scope Encoding"). */
#include "fibers.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <unordered_map>
#include <vector>

namespace cuda_on_cpu {

/* Where this module's variables of this host thread begin. No array, and written first so that there are such variables. */
static thread_local char *volatile local;

struct array {
    size_t at, bytes;    /* within the host thread's part of this module */
    std::string of;      /* the function it is in, as mangled names have it, without _Z */
};

static struct {
    bool read;
    std::string path;
    ElfW(Addr) base;
    void *local; /* the beginning of this host thread's part */
    std::vector<array> arrays;
    std::unordered_map<const void *, std::vector<array>> of_kernel;
    std::unordered_map<uintptr_t, std::string> functions; /* by address within the file */
} module;

/* Finds this module, and this host thread's part of it. */
static int find_module(dl_phdr_info *info, size_t, void *)
{
    uintptr_t here = reinterpret_cast<uintptr_t>(&find_module);
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || here < info->dlpi_addr + p->p_vaddr || here >= info->dlpi_addr + p->p_vaddr + p->p_memsz)
            continue;
        module.path = info->dlpi_name && *info->dlpi_name ? info->dlpi_name : "/proc/self/exe";
        module.base = info->dlpi_addr;
        module.local = info->dlpi_tls_data;
        return 1;
    }
    return 0;
}

static void read_symbols(const char *file)
{
    const ElfW(Ehdr) *header = reinterpret_cast<const ElfW(Ehdr) *>(file);
    const ElfW(Shdr) *sections = reinterpret_cast<const ElfW(Shdr) *>(file + header->e_shoff);
    for (int s = 0; s < header->e_shnum; s++) {
        if (sections[s].sh_type != SHT_SYMTAB)
            continue;
        const ElfW(Sym) *symbols = reinterpret_cast<const ElfW(Sym) *>(file + sections[s].sh_offset);
        const char *names = file + sections[sections[s].sh_link].sh_offset;
        for (size_t i = 0; i < sections[s].sh_size / sizeof *symbols; i++) {
            const char *name = names + symbols[i].st_name;
            int type = ELF64_ST_TYPE(symbols[i].st_info);
            if (type == STT_FUNC && strncmp(name, "_Z", 2) == 0)
                module.functions[symbols[i].st_value] = name + 2;
            else if (type == STT_TLS && strncmp(name, "_ZZ", 3) == 0)
                module.arrays.push_back({symbols[i].st_value, symbols[i].st_size, name + 3});
        }
    }
}

static void read_module()
{
    module.read = true;
    int file = open(module.path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (file < 0 || fstat(file, &about) != 0)
        return;
    void *p = mmap(nullptr, static_cast<size_t>(about.st_size), PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (p == MAP_FAILED)
        return;
    read_symbols(static_cast<const char *>(p));
    munmap(p, static_cast<size_t>(about.st_size));
}

static bool is_of(const array &a, const std::string &function)
{
    return a.of.compare(0, function.size(), function) == 0 && a.of[function.size()] == 'E';
}

/* Those of the kernel, and those of functions that are no kernel of their own, which it may have called. */
static std::vector<array> select(const void *kernel)
{
    std::vector<array> selected;
    auto self_found = module.functions.find(reinterpret_cast<uintptr_t>(kernel) - module.base);
    for (const array &a : module.arrays) {
        bool of_another = false;
        if (self_found != module.functions.end() && !is_of(a, self_found->second))
            for (const auto &f : module.functions)
                of_another = of_another || is_of(a, f.second);
        if (!of_another)
            selected.push_back(a);
    }
    return selected;
}

void poison_static_shared(const void *kernel)
{
    static const void *last_kernel;
    if (!local)
        local = nullptr;
    static const std::vector<array> *last;
    if (kernel != last_kernel || !last) {
        if (!module.read) {
            dl_iterate_phdr(find_module, nullptr);
            read_module();
        }
        auto found = module.of_kernel.find(kernel);
        if (found == module.of_kernel.end())
            found = module.of_kernel.emplace(kernel, select(kernel)).first;
        last = &found->second;
        last_kernel = kernel;
    }
    if (last->empty())
        return;
    if (!local) {
        dl_iterate_phdr(find_module, nullptr);
        local = static_cast<char *>(module.local);
    }
    for (const array &a : *last)
        memset(local + a.at, 0xff, a.bytes);
}

} // namespace cuda_on_cpu
