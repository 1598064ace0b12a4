/* Tells the address sanitizer, if it is built in, which bytes of a block belong to an array.
 *
 * By itself it knows only whole malloc blocks, and no mapped memory. With this it reports every
 * access to a dead array, and every access beyond the end of a live one.
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
