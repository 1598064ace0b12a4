/* The compiler's name and version; and errors for arithmetic modes that change results. */
#ifndef FASTLAYERS_COMPILER_H
#define FASTLAYERS_COMPILER_H

#include <float.h>

/* Results must have NumPy's bits: each operation is done as written and rounded to its type. */
#if defined(__FAST_MATH__)
#error "fastlayers cannot be built with -ffast-math or -Ofast, which change results"
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "fastlayers needs FLT_EVAL_METHOD 0: on 32-bit x86, compile with -msse2 -mfpmath=sse"
#endif

#define FASTLAYERS_TEXT_OF(number) #number
#define FASTLAYERS_TEXT(number) FASTLAYERS_TEXT_OF(number)

#if defined(__clang__)
#define COMPILER "Clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "GCC " __VERSION__
#elif defined(_MSC_VER)
#define COMPILER "MSVC " FASTLAYERS_TEXT(_MSC_FULL_VER)
#else
#define COMPILER "unknown"
#endif

#endif
