/* Preloaded, counts what threads cost: those that are started, and those that GNU OpenMP wakes for a
 * loop, all of its team but the one that calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>

typedef int create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
typedef void parallel(void (*)(void *), void *, unsigned, unsigned);

long started = 0, woken = 0;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*work)(void *),
                   void *argument)
{
    create *next = (create *)dlsym(RTLD_NEXT, "pthread_create");
    __atomic_add_fetch(&started, 1, __ATOMIC_RELAXED);
    return next(thread, attributes, work, argument);
}

void GOMP_parallel(void (*work)(void *), void *data, unsigned team, unsigned flags)
{
    parallel *next = (parallel *)dlsym(RTLD_NEXT, "GOMP_parallel");
    __atomic_add_fetch(&woken, team - 1, __ATOMIC_RELAXED);
    next(work, data, team, flags);
}
