/* Preloaded, lets the C library's allocators fail: the n-th large request from a moment on, or it
 * and all after it. Small requests are Python's own, and fail by other means.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { LARGE = 2048 };

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *block, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static long first = -1, last = -1, requests = 0;

/* Let requests from `from` to `to`, counted from now on and from 0, fail. */
void fail_requests(long from, long to)
{
    requests = 0;
    first = from;
    last = to;
}

/* How many requests there were since; from now on none fails. */
long stop_failing(void)
{
    first = last = -1;
    return requests;
}

static int fails(size_t size)
{
    long request;
    if (first < 0 || size < LARGE) {
        return 0;
    }
    request = requests++;
    return first <= request && request <= last;
}

void *malloc(size_t size)
{
    return fails(size) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails(count * size) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    return fails(size) ? NULL : __libc_realloc(block, size);
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
    *block = fails(size) ? NULL : __libc_memalign(alignment, size);
    return *block == NULL ? ENOMEM : 0;
}

void *mmap(void *address, size_t size, int access, int kind, int file, off_t offset)
{
    if (fails(size)) {
        errno = ENOMEM;
        return (void *)-1;
    }
    return (void *)syscall(SYS_mmap, address, size, access, kind, file, offset);
}
