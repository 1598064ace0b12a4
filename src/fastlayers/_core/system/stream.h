/* Copies that bypass the caches: for results too large to stay there until they are next read.
 *
 * A plain store first reads the cache line that it will overwrite; these do not.
 */
#ifndef FASTLAYERS_STREAM_H
#define FASTLAYERS_STREAM_H

#include <stddef.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
typedef __m512i stream_vector;
#define STREAM_LOAD _mm512_load_si512
#define STREAM_STORE _mm512_stream_si512
#elif defined(__AVX__)
#include <immintrin.h>
typedef __m256i stream_vector;
#define STREAM_LOAD _mm256_load_si256
#define STREAM_STORE _mm256_stream_si256
#elif defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
typedef __m128i stream_vector;
#define STREAM_LOAD _mm_load_si128
#define STREAM_STORE _mm_stream_si128
#endif

#ifdef STREAM_STORE

enum { CAN_STREAM = 1 };

/* Both ends must be aligned to a cache line. */
static inline void stream_copy(void *to, const void *from, size_t size)
{
    stream_vector *target = (stream_vector *)to;
    const stream_vector *source = (const stream_vector *)from;
    size_t i, whole = size / sizeof(stream_vector);
    for (i = 0; i < whole; i++) {
        STREAM_STORE(target + i, STREAM_LOAD(source + i));
    }
    memcpy(target + whole, source + whole, size - whole * sizeof(stream_vector));
}

/* Orders streaming stores, which is needed before another thread may read them. */
static inline void stream_finish(void)
{
    _mm_sfence();
}

#else

enum { CAN_STREAM = 0 };

static inline void stream_copy(void *to, const void *from, size_t size)
{
    memcpy(to, from, size);
}

static inline void stream_finish(void)
{
}

#endif
#endif
