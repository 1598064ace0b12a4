/* Threads as OpenMP has them; one thread where the compiler has no OpenMP. */
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

/* GNU OpenMP hangs in the child of a fork: its threads did not come along. */
static int is_forked_child = 0;

#if defined(_WIN32)
static void notice_fork(void) {}
#else
#include <pthread.h>
static void in_forked_child(void) { is_forked_child = 1; }
static void notice_fork(void) { pthread_atfork(NULL, NULL, in_forked_child); }
#endif

#endif
