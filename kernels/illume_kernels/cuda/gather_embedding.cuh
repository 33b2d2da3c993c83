// Embeddings of the sampled tokens and of the forced ones behind them, for every guidance row.
#pragma once
#include "numbers.cuh"

constexpr u32 TABLE_INT8 = 3;  // behind the codes of Dtype

// table [num_ids, width] of `format`, int8 with scales [num_ids] (else null); token [B] in its segment, which begins at
// `start`; appended [num_appended] ids; output [sides, B, 1 + num_appended, width]. An id outside the table (so also
// token -1) gives zeros. grid (1 + num_appended, B, sides).
KERNEL(1024)
gather_embedding(const u8* table, u32 format, const float* scales, u32 num_ids, u32 width, const i32* token, u32 start,
                 const i32* appended, float* output) {
    const u32 j = blockIdx.x, b = blockIdx.y;
    const i32 given = j == 0 ? token[b] : appended[j - 1];
    const u32 id = static_cast<u32>(given) + (j == 0 ? start : 0);
    float* to = output + ((static_cast<u64>(blockIdx.z) * gridDim.y + b) * gridDim.x + j) * width;
    if (given < 0 || id >= num_ids) {
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = 0.0f;
        return;
    }
    const u64 first = static_cast<u64>(id) * width;
    if (format == FLOAT32) {
        const float* from = reinterpret_cast<const float*>(table) + first;
        if (((reinterpret_cast<u64>(from) | reinterpret_cast<u64>(to) | width * 4u) & 15) == 0) {
            for (u32 i = threadIdx.x; i < width / 4; i += blockDim.x) {
                reinterpret_cast<Vector16*>(to)[i] = reinterpret_cast<const Vector16*>(from)[i];
            }
        } else {
            for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
        }
    } else if (format == TABLE_INT8) {
        const i8* from = reinterpret_cast<const i8*>(table) + first;
        const float scale = scales[id];
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = __fmul_rn(static_cast<float>(from[i]), scale);
    } else {
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = load(table, format, first + i);
    }
}
