/* libcuda.so.1 for a machine without a GPU: as much of NVIDIA's driver as cuDNN asks for while it makes a plan. It compiles its kernels
 * itself, and is told here that they were loaded; nothing ever runs. */

/* What a call is told that wants a device. */
enum { SUCCESS = 0, NO_DEVICE = 100 };

#define LOADS(name)                      \
    int name(void **);                   \
    int name(void **loaded)              \
    {                                    \
        static char something;           \
        *loaded = &something;            \
        return SUCCESS;                  \
    }
#define DOES_NOTHING(name)               \
    int name(void);                      \
    int name(void)                       \
    {                                    \
        return SUCCESS;                  \
    }
#define FAILS(name)                      \
    int name(void);                      \
    int name(void)                       \
    {                                    \
        return NO_DEVICE;                \
    }

LOADS(cuLibraryLoadData)
LOADS(cuLibraryGetKernel)
LOADS(cuModuleLoadData)
LOADS(cuModuleGetFunction)
DOES_NOTHING(cuLibraryUnload)
DOES_NOTHING(cuModuleUnload)
DOES_NOTHING(cuFuncSetAttribute)
DOES_NOTHING(cuKernelSetAttribute)
FAILS(cuInit)
FAILS(cuCtxGetCurrent)
FAILS(cuCtxGetDevice)
FAILS(cuCtxGetLimit)
FAILS(cuCtxPopCurrent)
FAILS(cuCtxPushCurrent)
FAILS(cuDeviceGet)
FAILS(cuDeviceGetAttribute)
FAILS(cuDeviceGetCount)
FAILS(cuDevicePrimaryCtxRelease)
FAILS(cuDevicePrimaryCtxReset)
FAILS(cuDevicePrimaryCtxRetain)
FAILS(cuDriverGetVersion)
FAILS(cuFuncGetAttribute)
FAILS(cuGetErrorName)
FAILS(cuGetErrorString)
FAILS(cuGetProcAddress)
FAILS(cuGetProcAddress_v2)
FAILS(cuKernelGetAttribute)
FAILS(cuLaunchCooperativeKernel)
FAILS(cuLaunchKernel)
FAILS(cuLaunchKernelEx)
FAILS(cuLibraryLoadFromFile)
FAILS(cuLinkAddData)
FAILS(cuLinkAddData_v2)
FAILS(cuLinkAddFile_v2)
FAILS(cuLinkComplete)
FAILS(cuLinkCreate)
FAILS(cuLinkCreate_v2)
FAILS(cuLinkDestroy)
FAILS(cuMemcpyDtoH_v2)
FAILS(cuModuleGetGlobal_v2)
FAILS(cuModuleLoadDataEx)
FAILS(cuModuleLoadFatBinary)
FAILS(cuOccupancyMaxActiveBlocksPerMultiprocessor)
FAILS(cuOccupancyMaxPotentialClusterSize)
FAILS(cuStreamGetCtx)
FAILS(cuStreamSynchronize)
FAILS(cuTensorMapEncodeTiled)
