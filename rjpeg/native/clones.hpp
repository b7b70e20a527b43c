// Functions that are compiled once more for the wider vectors of newer processors, where the compiler and the C library
// can choose between the two when the module is loaded. Both compute the same numbers: no multiplication is fused with
// an addition (-ffp-contract=off).
#pragma once

#ifdef RJPEG_CLONES
#define RJPEG_WIDE __attribute__((target_clones(RJPEG_CLONES, "default")))
#else
#define RJPEG_WIDE
#endif
// What such a function calls becomes part of it.
#define RJPEG_INLINE inline __attribute__((always_inline))
