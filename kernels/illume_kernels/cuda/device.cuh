// Types, and the few things that a compiler without CUDA has to be given otherwise (ILLUME_CPU: see tests/kernels/shim).
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i8 = signed char;
using i32 = int;
using i64 = long long;

struct alignas(16) Vector16 {  // what one 16-byte load brings
    u32 word[4];
};

#ifndef ILLUME_CPU
#define DEVICE __device__ __forceinline__
#define KERNEL(max_threads) extern "C" __global__ void __launch_bounds__(max_threads, 1)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) u8 name[]

DEVICE void pause_in_spin() {}

DEVICE float float_from_half(u16 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

DEVICE u16 half_from_float(float x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

#if __CUDA_ARCH__ >= 900
DEVICE u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

DEVICE void cluster_sync() {  // not `.aligned`: lanes of a warp may still be apart behind `if (threadIdx.x == 0)`
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

template <class T>
DEVICE T* in_rank(T* own, u32 rank) {  // the same place in the shared memory of another CTA of the cluster
    u64 there;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(reinterpret_cast<u64>(own)), "r"(rank));
    return reinterpret_cast<T*>(there);
}
#endif
#endif

constexpr u32 ALL_LANES = 0xFFFFFFFFu;
constexpr u32 WARP = 32;

template <class T>
DEVICE T fresh(const T* address) {  // past the first-level cache: other CTAs wrote it
    return *const_cast<const volatile T*>(address);
}

DEVICE u32 smaller(u32 a, u32 b) { return a < b ? a : b; }
DEVICE u32 round_up(u32 a, u32 unit) { return (a + unit - 1) / unit * unit; }
