/* The x86-64 microarchitecture level of this CPU, as the x86-64 psABI defines it: 1 to 4.
 *
 * 0 on other architectures. Not all compilers have a builtin for this, and its name differs; the
 * CPUID bits are the same everywhere (Intel SDM vol. 2A, CPUID; AMD APM vol. 3, app. E).
 */
#ifndef FASTLAYERS_CPU_H
#define FASTLAYERS_CPU_H

#if defined(__x86_64__) || defined(_M_X64)

#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
static void cpu_id(int leaf, unsigned int r[4])
{
    __cpuidex((int *)r, leaf, 0);
}
static unsigned int cpu_saved_state(void)
{
    return (unsigned int)_xgetbv(0);
}
#else
#include <cpuid.h>
static void cpu_id(unsigned int leaf, unsigned int r[4])
{
    __cpuid_count(leaf, 0, r[0], r[1], r[2], r[3]);
}
static unsigned int cpu_saved_state(void)
{
    unsigned int low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}
#endif

static int cpu_level(void)
{
    enum { EAX, EBX, ECX, EDX };
    unsigned int highest[4], leaf1[4], leaf7[4] = {0, 0, 0, 0}, extended[4];
    /* cx16, sse3, ssse3, sse4.1, sse4.2, popcnt; lahf is checked with the extended leaf. */
    const unsigned int v2 = 1u << 13 | 1u << 0 | 1u << 9 | 1u << 19 | 1u << 20 | 1u << 23;
    /* fma, movbe, osxsave, avx, f16c; then bmi1, avx2, bmi2; then lzcnt. */
    const unsigned int v3 = 1u << 12 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29;
    const unsigned int v3_leaf7 = 1u << 3 | 1u << 5 | 1u << 8;
    /* avx512 f, dq, cd, bw, vl. */
    const unsigned int v4_leaf7 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
    /* State that the operating system saves: xmm, ymm; then opmask and both halves of zmm. */
    const unsigned int avx_state = 0x6, avx512_state = 0xe6;

    cpu_id(0, highest);
    cpu_id(1, leaf1);
    cpu_id(0x80000001u, extended);
    if (highest[EAX] >= 7) {
        cpu_id(7, leaf7);
    }
    if ((leaf1[ECX] & v2) != v2 || !(extended[ECX] & 1u << 0)) {
        return 1;
    }
    if ((leaf1[ECX] & v3) != v3 || (leaf7[EBX] & v3_leaf7) != v3_leaf7
        || !(extended[ECX] & 1u << 5) || (cpu_saved_state() & avx_state) != avx_state) {
        return 2;
    }
    if ((leaf7[EBX] & v4_leaf7) != v4_leaf7 || (cpu_saved_state() & avx512_state) != avx512_state) {
        return 3;
    }
    return 4;
}

#else

static int cpu_level(void)
{
    return 0;
}

#endif
#endif
