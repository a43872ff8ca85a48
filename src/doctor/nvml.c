#include "doctor/nvml.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Stands for every function but error_string: all that they have in common is what they return, and the caller takes arguments away. */
static nvmlReturn_t not_there(void)
{
    return NVML_ERROR_FUNCTION_NOT_FOUND;
}

static const char *no_words(nvmlReturn_t code)
{
    return code == NVML_ERROR_FUNCTION_NOT_FOUND ? "the driver's library lacks the function" : "an error that the driver has no words for";
}

static const struct {
    const char *name;
    size_t place; /* of the pointer, in struct nvml */
} functions[] = {
#define PLACE(field, function) {#function, offsetof(struct nvml, field)},
    NVML_FUNCTIONS(PLACE)
};

bool nvml_load(struct nvml *nvml, char *why, int size)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(why, (size_t)size, "%s", dlerror());
        return false;
    }
    nvmlReturn_t (*const missing)(void) = not_there;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        void *found = dlsym(library, functions[i].name);
        memcpy((char *)nvml + functions[i].place, found ? (const void *)&found : (const void *)&missing, sizeof found);
    }
    if (!dlsym(library, "nvmlErrorString"))
        nvml->error_string = no_words;
    return true;
}
