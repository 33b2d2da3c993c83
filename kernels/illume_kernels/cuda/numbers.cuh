// Keys, weights and random numbers: the same bits as fixed_point.py and philox.py. Every rounding is spelt out (_rn),
// which also keeps the compiler from contracting a multiply and an add.
#pragma once
#include "device.cuh"

enum Dtype : u32 { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2 };

constexpr u64 ONE = 1ull << 40;
constexpr u32 KEY_ILLEGAL = 0x007FFFFFu;  // of -inf; a NaN is taken as -inf
constexpr u32 KEY_INFINITE = 0xFF800000u;

DEVICE float float_from_bfloat(u16 bits) { return __uint_as_float(static_cast<u32>(bits) << 16); }

DEVICE u16 bfloat_from_float(float x) {
    const u32 bits = __float_as_uint(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<u16>(bits >> 16 | 0x40u);
    return static_cast<u16>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

DEVICE float float_of(u32 dtype, u16 bits) { return dtype == FLOAT16 ? float_from_half(bits) : float_from_bfloat(bits); }

DEVICE float load(const void* data, u32 dtype, u64 i) {
    if (dtype == FLOAT32) return static_cast<const float*>(data)[i];
    return float_of(dtype, static_cast<const u16*>(data)[i]);
}

DEVICE void store(void* data, u32 dtype, u64 i, float x) {
    if (dtype == FLOAT32) {
        static_cast<float*>(data)[i] = x;
    } else {
        static_cast<u16*>(data)[i] = dtype == FLOAT16 ? half_from_float(x) : bfloat_from_float(x);
    }
}

// Monotone: x < y iff key(x) < key(y); -0 is +0 before it comes here.
DEVICE u32 key_from_score(float x) {
    const u32 bits = __float_as_uint(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return KEY_ILLEGAL;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

DEVICE float score_from_key(u32 key) { return __uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key); }

// trunc(2^40 exp(x - top)); see fixed_point.py for the constants.
DEVICE u64 weight_from_key(u32 key, u32 top_key) {
    if (top_key == KEY_INFINITE) return key == KEY_INFINITE ? ONE : 0;
    float d = __fsub_rn(score_from_key(key), score_from_key(top_key));
    if (!(d > -30.0f)) return 0;
    const float k = rintf(__fmul_rn(d, 1.4426950408889634f));
    d = __fsub_rn(d, __fmul_rn(k, 355.0f / 512.0f));
    d = __fsub_rn(d, __fmul_rn(k, static_cast<float>(0.6931471805599453 - 355.0 / 512.0)));
    float p = __fmul_rn(d, static_cast<float>(0.0013814539415761828));
    p = __fmul_rn(__fadd_rn(p, static_cast<float>(0.00836874544620514)), d);
    p = __fmul_rn(__fadd_rn(p, static_cast<float>(0.04166838899254799)), d);
    p = __fmul_rn(__fadd_rn(p, static_cast<float>(0.1666652113199234)), d);
    p = __fmul_rn(__fadd_rn(p, 0.5f), d);
    p = __fmul_rn(__fadd_rn(p, 1.0f), d);
    p = __fadd_rn(p, 1.0f);
    const i32 exponent = (static_cast<i32>(k) + 40) * (1 << 23);
    return static_cast<u64>(__uint_as_float(__float_as_uint(p) + static_cast<u32>(exponent)));
}

// ceil(total * fraction / 2^64), at least 1.
DEVICE u64 ceil_share(u64 total, u64 fraction) {
    const u64 share = __umul64hi(total, fraction) + (total * fraction != 0);
    return share > 1 ? share : 1;
}

struct Words {
    u32 word[4];
};

constexpr u32 STREAM_TOKENS = 0;
constexpr u32 STREAM_GUMBEL = 2;

DEVICE Words philox(u64 seed, u32 request, u32 step, u32 stream, u32 block) {
    u32 c0 = request, c1 = step, c2 = stream, c3 = block;
    u32 k0 = static_cast<u32>(seed), k1 = static_cast<u32>(seed >> 32);
    for (u32 round = 0; round < 10; ++round) {
        const u64 a = static_cast<u64>(c0) * 0xD2511F53u, b = static_cast<u64>(c2) * 0xCD9E8D57u;
        c0 = static_cast<u32>(b >> 32) ^ c1 ^ k0;
        c1 = static_cast<u32>(b);
        c2 = static_cast<u32>(a >> 32) ^ c3 ^ k1;
        c3 = static_cast<u32>(a);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// u + g (c - u), rounded after each operation: guidance.py.
DEVICE float guided(float cond, float uncond, float guidance) {
    return __fadd_rn(uncond, __fmul_rn(guidance, __fsub_rn(cond, uncond)));
}
