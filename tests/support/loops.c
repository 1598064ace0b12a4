/* Loops of ufuncs from elsewhere, of one float64 that is doubled: whatever else a loop may do.
 *
 * Python's functions are declared here, so that no headers are needed.
 */
#include <pthread.h>
#include <stddef.h>

extern int PyGILState_Ensure(void);
extern void PyGILState_Release(int);
extern void PyErr_SetString(void *, const char *);
extern void *PyExc_LookupError;

#define LOOP(name) void name(char **args, ptrdiff_t *n, ptrdiff_t *steps, void *data)
#define X(i) (*(double *)(args[0] + (i) * steps[0]))
#define OUT(i) (*(double *)(args[1] + (i) * steps[1]))

static void scale(char **args, ptrdiff_t n, ptrdiff_t *steps, double by) {
    for (ptrdiff_t i = 0; i < n; i++)
        OUT(i) = by * X(i);
}

LOOP(doubling) { scale(args, *n, steps, 2); }

/* Another one of the same name: what it does depends on what it is given. */
LOOP(scaling) { scale(args, *n, steps, *(double *)data); }

/* As Cython's and Numba's that work on objects, or raise. */
LOOP(locking) {
    int state = PyGILState_Ensure();
    scale(args, *n, steps, 2);
    PyGILState_Release(state);
}

/* Goes through its operands by what it was given to find them. */
LOOP(changing) {
    for (; *n > 0; --*n, args[0] += steps[0], args[1] += steps[1])
        scale(args, 1, steps, 2);
    steps[0] = steps[1] = 0;
}

/* Of what is negative. */
LOOP(raising) {
    int found = 0;
    for (ptrdiff_t i = 0; i < *n; i++)
        found |= X(i) < 0;
    scale(args, *n, steps, 2);
    if (found) {
        int state = PyGILState_Ensure();
        PyErr_SetString(PyExc_LookupError, "less than nothing");
        PyGILState_Release(state);
    }
}

/* Of as many operands as it is given the number of. */
LOOP(adding) {
    int count = *(int *)data;
    for (ptrdiff_t i = 0; i < *n; i++) {
        double total = 0;
        for (int k = 0; k < count; k++)
            total += *(double *)(args[k] + i * steps[k]);
        *(double *)(args[count] + i * steps[count]) = total;
    }
}

/* Which thread computes an element. */
LOOP(telling) {
    for (ptrdiff_t i = 0; i < *n; i++)
        OUT(i) = X(i) + (double)((size_t)pthread_self() >> 8);
}
