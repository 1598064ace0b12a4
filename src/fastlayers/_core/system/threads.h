/* OpenMP's threads; one thread if the compiler has no OpenMP. */
#ifndef FASTLAYERS_THREADS_H
#define FASTLAYERS_THREADS_H

#ifdef _OPENMP
#include <omp.h>
enum { HAVE_OPENMP = 1 };
static int openmp_threads(void) { return omp_get_max_threads(); }
#else
enum { HAVE_OPENMP = 0 };
static int openmp_threads(void) { return 1; }
#endif

#ifdef _MSC_VER
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL __thread
#endif

/* The most threads that calls of this thread use; 0 if there is no such limit. */
static THREAD_LOCAL int thread_limit = 0;

/* GNU OpenMP hangs in the child of a fork, which does not have its threads. Written in the child,
 * by its only thread.
 */
static int is_forked_child = 0;

#if defined(_WIN32)

static void notice_fork(void) {}
static int can_start_threads(int count)
{
    (void)count;
    return 1;
}

#else

#include <pthread.h>

static void in_forked_child(void) { is_forked_child = 1; }
static void notice_fork(void) { pthread_atfork(NULL, NULL, in_forked_child); }

static void *wait_for_mutex(void *mutex)
{
    pthread_mutex_lock((pthread_mutex_t *)mutex);
    pthread_mutex_unlock((pthread_mutex_t *)mutex);
    return NULL;
}

/* Whether `count` threads can run at once, including this one.
 *
 * GNU OpenMP ends the process if it cannot start a thread. It starts threads for each thread that
 * uses it, and keeps as many as the last loop used. So this tries before a loop uses more. The
 * answer may be out of date if other threads start threads at the same moment.
 */
static int can_start_threads(int count)
{
    enum { MOST = 1024 };
    static THREAD_LOCAL int started = 1; /* by this thread */
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_t threads[MOST];
    int i, running = 0;
    if (count <= started) {
        started = count;
        return 1;
    }
    pthread_mutex_lock(&mutex);
    while (running < count - started && running < MOST
           && pthread_create(&threads[running], NULL, wait_for_mutex, &mutex) == 0) {
        running++;
    }
    pthread_mutex_unlock(&mutex);
    for (i = 0; i < running; i++) {
        pthread_join(threads[i], NULL);
    }
    if (running < count - started) {
        return 0;
    }
    started = count;
    return 1;
}

#endif

#endif
