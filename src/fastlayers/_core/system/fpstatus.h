/* This thread's floating-point exception flags: clear them, read them. And the environment that a
 * thread computes in: how it rounds, whether it flushes subnormals to zero, which exceptions trap.
 *
 * Each thread has its own environment. OpenMP's threads keep the one of the thread that started
 * them, even if that has changed since. So while they work for a caller, they take the caller's.
 *
 * fenv.h does the same, but on x86 its functions go through the x87 environment: some 20 ns a call,
 * as long as a small kernel takes. The kernels use only SSE and AVX, whose flags are in MXCSR. What
 * NumPy's loops raise by feraiseexcept, glibc puts into the x87 status word: overflow and underflow.
 */
#ifndef FASTLAYERS_FPSTATUS_H
#define FASTLAYERS_FPSTATUS_H

enum { FP_OVERFLOW = 1, FP_UNDERFLOW = 2, FP_INVALID = 4, FP_DIVIDE = 8 };

/* Keeps the compiler from moving the loops, which store to memory, across a read of the flags. */
#if defined(__GNUC__) || defined(__clang__)
#define FP_BARRIER() __asm__ volatile("" ::: "memory")
#elif defined(_MSC_VER)
#include <intrin.h>
#define FP_BARRIER() _ReadWriteBarrier()
#else
#error "this compiler needs a barrier of its own: loops must not move across a look at the flags"
#endif

#if defined(__x86_64__) || defined(_M_X64)

#include <xmmintrin.h>

typedef unsigned int fp_environment;

#define FP_FLAGS \
    (_MM_EXCEPT_OVERFLOW | _MM_EXCEPT_UNDERFLOW | _MM_EXCEPT_INVALID | _MM_EXCEPT_DIV_ZERO)

static inline void fp_get(fp_environment *environment) { *environment = _mm_getcsr(); }

static inline void fp_clear(void)
{
    unsigned int csr = _mm_getcsr();
    /* Writing MXCSR costs more than reading it, and the flags are rarely set. */
    if (csr & FP_FLAGS) {
        _mm_setcsr(csr & ~FP_FLAGS);
    }
    FP_BARRIER();
}

/* MXCSR and the x87 status word have the same bits for the flags. */
static inline int fp_flags_of(unsigned int word)
{
    return (word & _MM_EXCEPT_OVERFLOW ? FP_OVERFLOW : 0)
         | (word & _MM_EXCEPT_UNDERFLOW ? FP_UNDERFLOW : 0)
         | (word & _MM_EXCEPT_INVALID ? FP_INVALID : 0)
         | (word & _MM_EXCEPT_DIV_ZERO ? FP_DIVIDE : 0);
}

static inline int fp_raised(void)
{
    FP_BARRIER();
    return fp_flags_of(_mm_getcsr());
}

/* The flags in the x87 status word, which are cleared. Microsoft's library uses MXCSR alone. */
static inline int fp_take_x87(void)
{
#if defined(__GNUC__) || defined(__clang__)
    unsigned short word;
    __asm__ volatile("fnstsw %0" : "=am"(word));
    if (word & FP_FLAGS) {
        __asm__ volatile("fnclex");
        return fp_flags_of(word);
    }
#endif
    return 0;
}

/* All flags, which are cleared. */
static inline int fp_take(void)
{
    int raised = fp_raised() | fp_take_x87();
    if (raised) {
        fp_clear();
    }
    return raised;
}

static inline void fp_raise(int flags)
{
    _mm_setcsr(_mm_getcsr() | (flags & FP_OVERFLOW ? _MM_EXCEPT_OVERFLOW : 0)
               | (flags & FP_UNDERFLOW ? _MM_EXCEPT_UNDERFLOW : 0)
               | (flags & FP_INVALID ? _MM_EXCEPT_INVALID : 0)
               | (flags & FP_DIVIDE ? _MM_EXCEPT_DIV_ZERO : 0));
}

/* Set everything from `control` except this thread's flags. */
static inline void fp_set_control(fp_environment control)
{
    unsigned int csr = _mm_getcsr();
    unsigned int wanted = (control & ~_MM_EXCEPT_MASK) | (csr & _MM_EXCEPT_MASK);
    if (csr != wanted) {
        _mm_setcsr(wanted);
    }
}

static inline void fp_enter(const fp_environment *callers, fp_environment *own)
{
    fp_get(own);
    fp_set_control(*callers);
    fp_clear();
}

static inline int fp_leave(const fp_environment *own)
{
    int raised = fp_raised();
    fp_set_control(*own);
    return raised;
}

#else

#include <fenv.h>

typedef fenv_t fp_environment;

static inline void fp_get(fp_environment *environment) { fegetenv(environment); }

static inline void fp_clear(void)
{
    feclearexcept(FE_OVERFLOW | FE_UNDERFLOW | FE_INVALID | FE_DIVBYZERO);
    FP_BARRIER();
}

static inline int fp_raised(void)
{
    int raised;
    FP_BARRIER();
    raised = fetestexcept(FE_OVERFLOW | FE_UNDERFLOW | FE_INVALID | FE_DIVBYZERO);
    return (raised & FE_OVERFLOW ? FP_OVERFLOW : 0)
         | (raised & FE_UNDERFLOW ? FP_UNDERFLOW : 0)
         | (raised & FE_INVALID ? FP_INVALID : 0)
         | (raised & FE_DIVBYZERO ? FP_DIVIDE : 0);
}

static inline int fp_take_x87(void) { return 0; }

static inline int fp_take(void)
{
    int raised = fp_raised();
    if (raised) {
        fp_clear();
    }
    return raised;
}

static inline void fp_raise(int flags)
{
    feraiseexcept((flags & FP_OVERFLOW ? FE_OVERFLOW : 0)
                  | (flags & FP_UNDERFLOW ? FE_UNDERFLOW : 0)
                  | (flags & FP_INVALID ? FE_INVALID : 0)
                  | (flags & FP_DIVIDE ? FE_DIVBYZERO : 0));
}

static inline void fp_enter(const fp_environment *callers, fp_environment *own)
{
    fegetenv(own);
    fesetenv(callers);
    fp_clear();
}

static inline int fp_leave(const fp_environment *own)
{
    int raised = fp_raised();
    fesetenv(own);
    return raised;
}

#endif
#endif
