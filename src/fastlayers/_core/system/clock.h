/* Seconds on a monotonic clock. */
#ifndef FASTLAYERS_CLOCK_H
#define FASTLAYERS_CLOCK_H

#if defined(_WIN32)

#include <windows.h>

static double clock_seconds(void)
{
    LARGE_INTEGER ticks, frequency;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&frequency);
    return (double)ticks.QuadPart / (double)frequency.QuadPart;
}

#else

#include <time.h>

static double clock_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

#endif
#endif
