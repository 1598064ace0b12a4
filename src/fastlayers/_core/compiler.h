/* The compiler's name and version, as it knows them itself. */
#ifndef FASTLAYERS_COMPILER_H
#define FASTLAYERS_COMPILER_H

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
