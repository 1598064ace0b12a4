/* The threads of OpenMP that run a parallel block; one if the compiler has no OpenMP. */
#ifndef FASTLAYERS_TEAM_H
#define FASTLAYERS_TEAM_H

#ifdef _OPENMP
#include <omp.h>
static inline int team_size(void) { return omp_get_num_threads(); }
#else
static inline int team_size(void) { return 1; }
#endif

#endif
