/* What two of the expressions take if somebody writes them by hand in C: the value and all gradients
 * in one loop, into arrays that are there already. Streaming stores go past the caches.
 */
#define EACH(LOAD, STORE, MULTIPLY, ADD, LANES)                                                  \
    _Pragma("omp parallel for if (threads > 1) num_threads(threads) schedule(static)")           \
    for (long i = 0; i < n - n % LANES; i += LANES) { BODY(LOAD, STORE, MULTIPLY, ADD) }         \
    for (long i = n - n % LANES; i < n; i++) { BODY(ONE, SET, TIMES, PLUS) }

#define ONE(array) (array)[i]
#define SET(array, value) (array)[i] = (value)
#define TIMES(x, y) ((x) * (y))
#define PLUS(x, y) ((x) + (y))

#ifdef __AVX__
#include <immintrin.h>
enum { DOUBLES = 4, FLOATS = 8 };
#define LOAD8(array) _mm256_loadu_pd((array) + i)
#define STORE8(array, value) _mm256_storeu_pd((array) + i, value)
#define STREAM8(array, value) _mm256_stream_pd((array) + i, value)
#define LOAD4(array) _mm256_loadu_ps((array) + i)
#define STORE4(array, value) _mm256_storeu_ps((array) + i, value)
#define STREAM4(array, value) _mm256_stream_ps((array) + i, value)
#define MULTIPLY8 _mm256_mul_pd
#define MULTIPLY4 _mm256_mul_ps
#define ADD8 _mm256_add_pd
#define ADD4 _mm256_add_ps
#define FINISH _mm_sfence
#else /* the compiler makes vectors of it, and there are no streaming stores */
enum { DOUBLES = 1, FLOATS = 1 };
#define LOAD8 ONE
#define LOAD4 ONE
#define STORE8 SET
#define STORE4 SET
#define STREAM8 SET
#define STREAM4 SET
#define MULTIPLY8 TIMES
#define MULTIPLY4 TIMES
#define ADD8 PLUS
#define ADD4 PLUS
#define FINISH()
#endif

/* (a*b + c*d) * e */
#define BODY(LOAD, STORE, MULTIPLY, ADD)                                                         \
    __auto_type va = LOAD(a); __auto_type vb = LOAD(b); __auto_type vc = LOAD(c);                \
    __auto_type vd = LOAD(d); __auto_type ve = LOAD(e); __auto_type vone = LOAD(one);            \
    __auto_type total = ADD(MULTIPLY(va, vb), MULTIPLY(vc, vd));                                 \
    __auto_type dtotal = MULTIPLY(vone, ve);                                                     \
    STORE(out[0], MULTIPLY(total, ve));                                                          \
    STORE(out[1], MULTIPLY(dtotal, vb)); STORE(out[2], MULTIPLY(dtotal, va));                    \
    STORE(out[3], MULTIPLY(dtotal, vd)); STORE(out[4], MULTIPLY(dtotal, vc));                    \
    STORE(out[5], MULTIPLY(vone, total));

void shop(long n, int threads, int stream, double *const *in, double *const *out)
{
    const double *a = in[0], *b = in[1], *c = in[2], *d = in[3], *e = in[4], *one = in[5];
    if (stream) {
        EACH(LOAD8, STREAM8, MULTIPLY8, ADD8, DOUBLES)
        FINISH();
    } else {
        EACH(LOAD8, STORE8, MULTIPLY8, ADD8, DOUBLES)
    }
}
#undef BODY

/* f*c + g*i */
#define BODY(LOAD, STORE, MULTIPLY, ADD)                                                         \
    __auto_type vf = LOAD(f); __auto_type vc = LOAD(c); __auto_type vg = LOAD(g);                \
    __auto_type vk = LOAD(k); __auto_type vone = LOAD(one);                                      \
    STORE(out[0], ADD(MULTIPLY(vf, vc), MULTIPLY(vg, vk)));                                      \
    STORE(out[1], MULTIPLY(vone, vc)); STORE(out[2], MULTIPLY(vone, vf));                        \
    STORE(out[3], MULTIPLY(vone, vk)); STORE(out[4], MULTIPLY(vone, vg));

void gates(long n, int threads, int stream, float *const *in, float *const *out)
{
    const float *f = in[0], *c = in[1], *g = in[2], *k = in[3], *one = in[4];
    if (stream) {
        EACH(LOAD4, STREAM4, MULTIPLY4, ADD4, FLOATS)
        FINISH();
    } else {
        EACH(LOAD4, STORE4, MULTIPLY4, ADD4, FLOATS)
    }
}
