/* A background thread for work that can wait: one at a time, and only as long as there is work.
 *
 * It knows nothing of Python: it needs no GIL and handles no signals, and the process exits without
 * waiting for it. It does not exist during a fork: the child would not have it, and newer Pythons
 * warn about a fork while other threads run.
 */
#ifndef FASTLAYERS_BACKGROUND_H
#define FASTLAYERS_BACKGROUND_H

/* The work and the pause before it, in seconds, written before the thread starts. The work returns
 * the pause before its next run. A negative pause ends the thread; then another one may be started.
 */
static double (*background_work)(void);
static double background_pause;

/* Longer than any real pause, and too short to overflow. */
static double background_limited(double seconds) { return seconds < 1e6 ? seconds : 1e6; }

#if defined(_WIN32)

#include <windows.h>

/* There is no fork. */
static void background_prepare(void) {}
static void background_lock(void) {}
static void background_unlock(void) {}
static void background_suspend(void) {}
static void background_resume(void) {}

static DWORD WINAPI background_main(LPVOID unused)
{
    double pause = background_pause;
    (void)unused;
    while (pause >= 0) {
        Sleep((DWORD)(background_limited(pause) * 1e3));
        pause = background_work();
    }
    return 0;
}

/* Start the thread; return whether that worked. */
static int background_start(double (*work)(void), double pause)
{
    const DWORD stack = 1 << 18;
    HANDLE thread;
    background_work = work;
    background_pause = pause;
    thread = CreateThread(NULL, stack, background_main, NULL, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (thread == NULL) {
        return 0;
    }
    CloseHandle(thread);
    return 1;
}

#else

#include <pthread.h>
#include <signal.h>
#include <time.h>

/* Held while the thread starts, and around a fork. */
static pthread_mutex_t background_mutex = PTHREAD_MUTEX_INITIALIZER;
static void background_lock(void) { pthread_mutex_lock(&background_mutex); }
static void background_unlock(void) { pthread_mutex_unlock(&background_mutex); }

/* The thread itself takes only the inner mutex, so that it can end while others wait for it.
 * Whoever clears background_exists joins or detaches the thread.
 */
static pthread_mutex_t background_inner = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t background_news; /* tells the thread to end */
static int background_ends = 0;
static int background_exists = 0;
static pthread_t background_thread;

/* Call this once, before everything else. */
static void background_prepare(void)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#if !defined(__APPLE__)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    pthread_cond_init(&background_news, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* Wait, but stop waiting when the thread is to end; return whether it is. */
static int background_wait(double seconds)
{
    const long second = 1000000000; /* in nanoseconds */
    struct timespec time;
    int ends, waiting = 1;
    seconds = background_limited(seconds);
    time.tv_sec = (time_t)seconds;
    time.tv_nsec = (long)((seconds - (double)time.tv_sec) * (double)second);
#if !defined(__APPLE__)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        time.tv_sec += now.tv_sec + (time.tv_nsec + now.tv_nsec) / second;
        time.tv_nsec = (time.tv_nsec + now.tv_nsec) % second;
    }
#endif
    pthread_mutex_lock(&background_inner);
    while (waiting && !background_ends) {
#if defined(__APPLE__)
        waiting = pthread_cond_timedwait_relative_np(&background_news, &background_inner, &time) == 0;
#else
        waiting = pthread_cond_timedwait(&background_news, &background_inner, &time) == 0;
#endif
    }
    ends = background_ends;
    pthread_mutex_unlock(&background_inner);
    return ends;
}

static void *background_main(void *unused)
{
    double pause = background_pause;
    (void)unused;
    while (pause >= 0 && !background_wait(pause)) {
        pause = background_work();
    }
    pthread_mutex_lock(&background_inner);
    if (background_exists && pthread_equal(background_thread, pthread_self())) {
        background_exists = 0;
        pthread_detach(background_thread);
    }
    pthread_mutex_unlock(&background_inner);
    return NULL;
}

/* With the lock held: start the thread; return whether that worked. */
static int background_start(double (*work)(void), double pause)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int started;
    pthread_attr_init(&attributes);
    /* The default is megabytes, which matters if the address space is limited. */
    pthread_attr_setstacksize(&attributes, 1 << 18);
    pthread_mutex_lock(&background_inner);
    if (background_exists) {
        pthread_detach(background_thread); /* it has finished and is about to return */
    }
    background_work = work;
    background_pause = pause;
    /* Signals are for Python's main thread and must interrupt that. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    started = pthread_create(&background_thread, &attributes, background_main, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    background_exists = started;
    pthread_mutex_unlock(&background_inner);
    pthread_attr_destroy(&attributes);
    return started;
}

/* Before a fork: end the thread, and let none start before background_resume, in both processes. */
static void background_suspend(void)
{
    int exists;
    pthread_mutex_lock(&background_mutex);
    pthread_mutex_lock(&background_inner);
    exists = background_exists;
    background_exists = 0;
    background_ends = 1;
    pthread_cond_signal(&background_news);
    pthread_mutex_unlock(&background_inner);
    if (exists) {
        pthread_join(background_thread, NULL);
    }
    pthread_mutex_lock(&background_inner);
    background_ends = 0;
}
static void background_resume(void)
{
    pthread_mutex_unlock(&background_inner);
    pthread_mutex_unlock(&background_mutex);
}

#endif
#endif
