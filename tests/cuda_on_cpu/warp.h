/* Functions that the lanes of a warp or the threads of a block do together. */
#ifndef CUDA_ON_CPU_WARP_H
#define CUDA_ON_CPU_WARP_H

#include "fibers.h"

#include <cstring>

namespace cuda_on_cpu {

/* What a lane gives to an exchange and takes from it. */
struct exchange {
    unsigned char value[8];
    unsigned char result[8];
    int from; /* the lane whose value it wants */
};

inline void join_exchange(void *const *given, unsigned mask)
{
    for (unsigned left = mask; left; left &= left - 1) {
        exchange *e = static_cast<exchange *>(given[__builtin_ctz(left)]);
        if (mask >> e->from & 1)
            memcpy(e->result, static_cast<exchange *>(given[e->from])->value, 8);
        else
            memset(e->result, 0xff, 8); /* of a lane that is not there: undefined */
    }
}

inline int lane_number() { return static_cast<int>(self->lane); }

template <typename T> inline T exchange_lanes(unsigned mask, T value, int from, const char *what, place at)
{
    static_assert(sizeof(T) <= 8, "no exchange of a value this large");
    exchange e;
    memset(e.value, 0, 8);
    memcpy(e.value, &value, sizeof value);
    e.from = from;
    meet_warp(mask, join_exchange, &e, what, at);
    memcpy(static_cast<void *>(&value), e.result, sizeof value);
    return value;
}

struct vote {
    unsigned long long value;
    unsigned result;
};

inline void join_ballot(void *const *given, unsigned mask)
{
    unsigned all = 0;
    for (unsigned left = mask; left; left &= left - 1)
        all |= static_cast<unsigned>(static_cast<vote *>(given[__builtin_ctz(left)])->value != 0) << __builtin_ctz(left);
    for (unsigned left = mask; left; left &= left - 1)
        static_cast<vote *>(given[__builtin_ctz(left)])->result = all;
}

inline void join_match(void *const *given, unsigned mask)
{
    for (unsigned left = mask; left; left &= left - 1) {
        vote *v = static_cast<vote *>(given[__builtin_ctz(left)]);
        v->result = 0;
        for (unsigned other = mask; other; other &= other - 1)
            v->result |= static_cast<unsigned>(static_cast<vote *>(given[__builtin_ctz(other)])->value == v->value) << __builtin_ctz(other);
    }
}

inline unsigned vote_lanes(unsigned mask, unsigned long long value, join_lanes join, const char *what, place at)
{
    vote v = {value, 0};
    meet_warp(mask, join, &v, what, at);
    return v.result;
}

template <typename T, typename Op> struct reduction {
    T value, result;
    static void join(void *const *given, unsigned mask)
    {
        T all = static_cast<reduction *>(given[__builtin_ctz(mask)])->value;
        for (unsigned left = mask & (mask - 1); left; left &= left - 1)
            all = Op::join(all, static_cast<reduction *>(given[__builtin_ctz(left)])->value);
        for (unsigned left = mask; left; left &= left - 1)
            static_cast<reduction *>(given[__builtin_ctz(left)])->result = all;
    }
};

} // namespace cuda_on_cpu

/* The place where a function is called. */
#define CUDA_ON_CPU_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define CUDA_ON_CPU_HERE ::cuda_on_cpu::place{file, line}

inline void __syncthreads(CUDA_ON_CPU_PLACE)
{
    ::cuda_on_cpu::meet_block(CUDA_ON_CPU_HERE);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_CPU_PLACE)
{
    ::cuda_on_cpu::meet_warp(mask, nullptr, nullptr, "__syncwarp", CUDA_ON_CPU_HERE);
}

/* Lanes are exchanged within segments of WIDTH, a power of two; where there is no such lane, a lane keeps its own value. */
template <typename T> inline T __shfl_sync(unsigned mask, T value, int from, int width = 32, CUDA_ON_CPU_PLACE)
{
    int lane = ::cuda_on_cpu::lane_number();
    return ::cuda_on_cpu::exchange_lanes(mask, value, (lane & ~(width - 1)) | (from & (width - 1)), "__shfl_sync", CUDA_ON_CPU_HERE);
}

template <typename T> inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, CUDA_ON_CPU_PLACE)
{
    int lane = ::cuda_on_cpu::lane_number(), from = lane - static_cast<int>(by);
    return ::cuda_on_cpu::exchange_lanes(mask, value, from < (lane & ~(width - 1)) ? lane : from, "__shfl_up_sync", CUDA_ON_CPU_HERE);
}

template <typename T> inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, CUDA_ON_CPU_PLACE)
{
    int lane = ::cuda_on_cpu::lane_number(), from = lane + static_cast<int>(by);
    return ::cuda_on_cpu::exchange_lanes(mask, value, from > (lane | (width - 1)) ? lane : from, "__shfl_down_sync", CUDA_ON_CPU_HERE);
}

template <typename T> inline T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32, CUDA_ON_CPU_PLACE)
{
    int lane = ::cuda_on_cpu::lane_number(), from = lane ^ by;
    return ::cuda_on_cpu::exchange_lanes(mask, value, from > (lane | (width - 1)) ? lane : from, "__shfl_xor_sync", CUDA_ON_CPU_HERE);
}

inline unsigned __ballot_sync(unsigned mask, int yes, CUDA_ON_CPU_PLACE)
{
    return ::cuda_on_cpu::vote_lanes(mask, yes != 0, ::cuda_on_cpu::join_ballot, "__ballot_sync", CUDA_ON_CPU_HERE);
}

inline int __any_sync(unsigned mask, int yes, CUDA_ON_CPU_PLACE)
{
    return ::cuda_on_cpu::vote_lanes(mask, yes != 0, ::cuda_on_cpu::join_ballot, "__any_sync", CUDA_ON_CPU_HERE) != 0;
}

inline int __all_sync(unsigned mask, int yes, CUDA_ON_CPU_PLACE)
{
    return ::cuda_on_cpu::vote_lanes(mask, yes != 0, ::cuda_on_cpu::join_ballot, "__all_sync", CUDA_ON_CPU_HERE) == mask;
}

template <typename T> inline unsigned __match_any_sync(unsigned mask, T value, CUDA_ON_CPU_PLACE)
{
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof value);
    return ::cuda_on_cpu::vote_lanes(mask, bits, ::cuda_on_cpu::join_match, "__match_any_sync", CUDA_ON_CPU_HERE);
}

#define CUDA_ON_CPU_REDUCE(type, name, expression)                                                                  \
    namespace cuda_on_cpu {                                                                                         \
    struct reduce_##name##_##type { static type join(type a, type b) { return expression; } };                      \
    }                                                                                                               \
    inline type __reduce_##name##_sync(unsigned mask, type value, CUDA_ON_CPU_PLACE)                                \
    {                                                                                                               \
        ::cuda_on_cpu::reduction<type, ::cuda_on_cpu::reduce_##name##_##type> r = {value, 0};                       \
        ::cuda_on_cpu::meet_warp(mask, r.join, &r, "__reduce_" #name "_sync", CUDA_ON_CPU_HERE);                    \
        return r.result;                                                                                            \
    }

CUDA_ON_CPU_REDUCE(int, add, static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)))
CUDA_ON_CPU_REDUCE(int, min, a < b ? a : b)
CUDA_ON_CPU_REDUCE(int, max, a > b ? a : b)
CUDA_ON_CPU_REDUCE(unsigned, add, a + b)
CUDA_ON_CPU_REDUCE(unsigned, min, a < b ? a : b)
CUDA_ON_CPU_REDUCE(unsigned, max, a > b ? a : b)
CUDA_ON_CPU_REDUCE(unsigned, and, a & b)
CUDA_ON_CPU_REDUCE(unsigned, or, a | b)
CUDA_ON_CPU_REDUCE(unsigned, xor, a ^ b)

#endif
