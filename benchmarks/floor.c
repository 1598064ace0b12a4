/* What the layers and two of the expressions take at least: loops as one writes them by hand in C,
 * into arrays that are there already. A layer's forward is one loop and both gradients are another,
 * since its caller computes dout in between; an expression's value and gradients are one.
 */
#include <string.h>

enum { TILE = 64 }; /* elements, of which the results of a loop stay in the nearest cache */

#ifdef __AVX512F__
#pragma GCC target("prefer-vector-width=512")
#endif

#ifdef __AVX__
#include <immintrin.h>

/* Past the caches: nobody waits for the lines that are overwritten. Both begin at a cache line. */
static inline void stream(char *to, const char *from, long bytes)
{
    long i = 0;
    for (; i + 32 <= bytes; i += 32) {
        _mm256_stream_si256((__m256i *)(to + i), _mm256_load_si256((const __m256i *)(from + i)));
    }
    memcpy(to + i, from + i, bytes - i);
}
#else
#define stream memcpy
#define _mm_sfence()
#endif

/* The elements from start to stop of the results that are numbered from FIRST to LAST. */
#define LOOP(NAME, T, FIRST, LAST, ...)                                                          \
    void NAME(long start, long stop, int streaming, void *const *in, void *const *out)           \
    {                                                                                            \
        typedef T element;                                                                       \
        _Alignas(64) element tiles[LAST + 1][TILE];                                              \
        element *to[LAST + 1];                                                                   \
        long origin = 0;                                                                         \
        for (int k = FIRST; k <= LAST; k++) {                                                    \
            to[k] = streaming ? tiles[k] : out[k];                                               \
        }                                                                                        \
        if (!streaming) {                                                                        \
            _Pragma("omp simd") for (long i = start; i < stop; i++) { __VA_ARGS__ }              \
            return;                                                                              \
        }                                                                                        \
        for (origin = start; origin < stop; origin += TILE) {                                    \
            long end = origin + TILE < stop ? origin + TILE : stop;                              \
            _Pragma("omp simd") for (long i = origin; i < end; i++) { __VA_ARGS__ }              \
            for (int k = FIRST; k <= LAST; k++) {                                                \
                stream((char *)((element *)out[k] + origin), (const char *)tiles[k],             \
                       (end - origin) * (long)sizeof(element));                                  \
            }                                                                                    \
        }                                                                                        \
        _mm_sfence();                                                                            \
    }
#define IN(k) ((const element *)in[k])[i]
#define OUT(k) to[k][i - origin]
#define BOTH(NAME, FIRST, LAST, ...)                                                             \
    LOOP(NAME##_float32, float, FIRST, LAST, __VA_ARGS__)                                        \
    LOOP(NAME##_float64, double, FIRST, LAST, __VA_ARGS__)

/* Of x, y and dout: the value, and the gradients of x and y. */
BOTH(multiply, 0, 0, OUT(0) = IN(0) * IN(1);)
BOTH(multiply_backward, 1, 2, OUT(1) = IN(2) * IN(1); OUT(2) = IN(2) * IN(0);)
BOTH(add, 0, 0, OUT(0) = IN(0) + IN(1);)
BOTH(add_backward, 1, 2, OUT(1) = IN(2); OUT(2) = IN(2);)

/* (a*b + c*d) * e and its gradients, of the value's gradient and the operands. */
BOTH(shop, 0, 5,
     element total = IN(1) * IN(2) + IN(3) * IN(4); element dtotal = IN(0) * IN(5);
     OUT(0) = total * IN(5); OUT(1) = dtotal * IN(2); OUT(2) = dtotal * IN(1);
     OUT(3) = dtotal * IN(4); OUT(4) = dtotal * IN(3); OUT(5) = IN(0) * total;)

/* f*c + g*i, likewise. */
BOTH(gates, 0, 4,
     OUT(0) = IN(1) * IN(2) + IN(3) * IN(4); OUT(1) = IN(0) * IN(2); OUT(2) = IN(0) * IN(1);
     OUT(3) = IN(0) * IN(4); OUT(4) = IN(0) * IN(3);)

typedef void loop(long start, long stop, int streaming, void *const *in, void *const *out);

/* Run steps, each of one or more loops. The results of step number k go into set k % 2, as those of
 * a program do that keeps its last results until the new ones are there.
 */
void repeat(loop *const *loops, int count, long first, long steps, long n, int threads,
            int streaming, void *const *in, void *const *const *sets)
{
    long share = (n / threads / TILE + 1) * TILE;
    for (long step = first; step < first + steps; step++) {
        void *const *out = sets[step % 2];
        for (int each = 0; each < count; each++) {
            if (threads == 1) {
                loops[each](0, n, streaming, in, out);
                continue;
            }
#pragma omp parallel for num_threads(threads) schedule(static)
            for (int part = 0; part < threads; part++) {
                long start = part * share < n ? part * share : n;
                long stop = start + share < n ? start + share : n;
                loops[each](start, stop, streaming, in, out);
            }
        }
    }
}
