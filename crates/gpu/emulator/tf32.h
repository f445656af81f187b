#pragma once
#include <cstdint>
#include <cstring>

// What tensor cores keep of a float32: 10 bits behind the point, rounded to the nearest.
static inline float to_tf32(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if ((bits & 0x7f800000) == 0x7f800000) return f;
    bits = (bits + 0x1000) & 0xffffe000;
    memcpy(&f, &bits, 4);
    return f;
}
