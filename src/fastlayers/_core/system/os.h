/* Memory on each operating system: aligned blocks, pages, a mutex, and hooks for fork. */
#ifndef FASTLAYERS_OS_H
#define FASTLAYERS_OS_H

#include <stddef.h>
#include <stdlib.h>

#if defined(_WIN32)

#include <malloc.h>
#include <windows.h>

static SRWLOCK os_mutex = SRWLOCK_INIT;
static void os_lock(void) { AcquireSRWLockExclusive(&os_mutex); }
static void os_unlock(void) { ReleaseSRWLockExclusive(&os_mutex); }
static void os_at_fork(void (*before)(void), void (*after)(void))
{
    (void)before;
    (void)after;
}

static void *os_aligned_alloc(size_t alignment, size_t size) { return _aligned_malloc(size, alignment); }
static void os_aligned_free(void *block) { _aligned_free(block); }

static void *os_map(size_t size)
{
    return VirtualAlloc(NULL, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}
static void os_unmap(void *block, size_t size)
{
    (void)size;
    VirtualFree(block, 0, MEM_RELEASE);
}
static void os_discard(void *memory, size_t size)
{
    (void)memory;
    (void)size;
}

#else

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Held for some 20 ns and rarely contended. A step on 1000 elements takes it six times; with a
 * pthreads mutex that cost 70 ns of 850.
 */
static int os_mutex = 0; /* not a char: older GCCs for RISC-V cannot exchange one */
static void os_lock(void)
{
    int yields = 0;
    while (__atomic_exchange_n(&os_mutex, 1, __ATOMIC_ACQUIRE)) {
        if (yields < 100) {
            yields++;
            sched_yield();
        } else {
            /* Yielding does not let threads of lower priority run, and one of them may hold it. */
            const struct timespec time = {0, 100000};
            nanosleep(&time, NULL);
        }
    }
}
static void os_unlock(void) { __atomic_store_n(&os_mutex, 0, __ATOMIC_RELEASE); }

/* Register functions to call before each fork, and after it in both processes. */
static void os_at_fork(void (*before)(void), void (*after)(void)) { pthread_atfork(before, after, after); }

static void *os_aligned_alloc(size_t alignment, size_t size)
{
    void *block = NULL;
    return posix_memalign(&block, alignment, size) ? NULL : block;
}
static void os_aligned_free(void *block) { free(block); }

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

enum { OS_HUGE_PAGE = 1 << 21 };

/* Zeroed memory, in huge pages if it is large enough and the kernel grants them on advice. */
static void *os_map(size_t size)
{
    const int access = PROT_READ | PROT_WRITE, kind = MAP_PRIVATE | MAP_ANONYMOUS;
    char *block;
#ifdef MADV_HUGEPAGE
    if (size >= 2 * (size_t)OS_HUGE_PAGE) {
        /* A huge page must start at a multiple of its size: map more, and unmap the edges. */
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        size_t edge;
        size = (size + page - 1) & ~(page - 1);
        block = mmap(NULL, size + OS_HUGE_PAGE, access, kind, -1, 0);
        if (block == MAP_FAILED) {
            return NULL;
        }
        edge = (size_t)(-(uintptr_t)block & (OS_HUGE_PAGE - 1));
        if (edge) {
            munmap(block, edge);
        }
        if (edge < OS_HUGE_PAGE) {
            munmap(block + edge + size, OS_HUGE_PAGE - edge);
        }
        block += edge;
        madvise(block, size, MADV_HUGEPAGE);
        return block;
    }
#endif
    block = mmap(NULL, size, access, kind, -1, 0);
    return block == MAP_FAILED ? NULL : block;
}
static void os_unmap(void *block, size_t size) { munmap(block, size); }

/* Return the pages of memory that is about to be freed. malloc keeps what it cannot return as a
 * whole: 300 MiB in blocks of 80 kB stayed resident when all were freed (GNU C library 2.36).
 */
static void os_discard(void *memory, size_t size)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = ((uintptr_t)memory + page - 1) & ~(page - 1);
    const uintptr_t end = ((uintptr_t)memory + size) & ~(page - 1);
    if (begin < end) {
        madvise((void *)begin, end - begin, MADV_DONTNEED);
    }
}

#endif
#endif
