/* Tells the address sanitizer which bytes of a block are an array's, where it is built in.
 *
 * By itself it knows whole blocks of malloc, and nothing of mapped memory. Told, it reports every
 * access to a dead array, and every access beyond the end of a living one.
 */
#ifndef FASTLAYERS_SANITIZER_H
#define FASTLAYERS_SANITIZER_H

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define sanitizer_allow(memory, size) __asan_unpoison_memory_region(memory, size)
#define sanitizer_forbid(memory, size) __asan_poison_memory_region(memory, size)
#else
#define sanitizer_allow(memory, size) ((void)(memory), (void)(size))
#define sanitizer_forbid(memory, size) ((void)(memory), (void)(size))
#endif

#endif
