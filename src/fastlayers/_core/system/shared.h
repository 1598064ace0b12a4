/* Variables that any thread may read and write at any time, always as a whole.
 *
 * A thread that reads a value also sees everything that the writer had written before it.
 */
#ifndef FASTLAYERS_SHARED_H
#define FASTLAYERS_SHARED_H

#include <stddef.h>

#if defined(__GNUC__) || defined(__clang__)
#define SHARED_LOAD(variable, value) __atomic_load(variable, value, __ATOMIC_ACQUIRE)
#define SHARED_STORE(variable, value) __atomic_store(variable, value, __ATOMIC_RELEASE)
#define SHARED_OR(variable, flags) __atomic_fetch_or(variable, flags, __ATOMIC_RELAXED)
#define SHARED_ADD(variable, value) __atomic_fetch_add(variable, value, __ATOMIC_RELAXED)
#else
#include <intrin.h>
/* With /volatile:ms (setup.py), which MSVC has by default on x86 and not on ARM, an aligned
 * volatile word has all these properties.
 */
#define SHARED_LOAD(variable, value) (*(value) = *(variable))
#define SHARED_STORE(variable, value) (*(variable) = *(value))
#define SHARED_OR(variable, flags) _InterlockedOr((volatile long *)(variable), flags)
#define SHARED_ADD(variable, value) _InterlockedExchangeAdd64((volatile __int64 *)(variable), value)
#endif

#define SHARED(type, name) \
    static inline type load_##name(volatile type *variable) \
    { \
        type value; \
        SHARED_LOAD(variable, &value); \
        return value; \
    } \
    static inline void store_##name(volatile type *variable, type value) \
    { \
        SHARED_STORE(variable, &value); \
    }

typedef void *shared_pointer;

SHARED(ptrdiff_t, size)
SHARED(double, double)
SHARED(shared_pointer, pointer)

/* Count. */
static inline void add_size(ptrdiff_t *variable, ptrdiff_t value) { SHARED_ADD(variable, value); }

/* Add flags to those of all threads. Most have none to add, and leave the variable alone. */
static inline void add_flags(int *variable, int flags)
{
    if (flags) {
        SHARED_OR(variable, flags);
    }
}

#endif
