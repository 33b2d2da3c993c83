// Embeddings of the sampled tokens and of the forced ones behind them, for every guidance row.
#pragma once
#include "device.cuh"

// table [num_ids, row_bytes]; token [B] in its segment, which begins at `start`; appended [num_appended] ids;
// output [sides, B, 1 + num_appended, row_bytes]. An id outside the table (so also token -1) gives zeros. row_bytes is a
// multiple of 4, of 16 where both addresses are. grid (1 + num_appended, B, sides).
KERNEL(1024)
gather_embedding(const u8* table, u32 num_ids, u64 row_bytes, const i32* token, u32 start, const i32* appended, u8* output) {
    const u32 j = blockIdx.x, b = blockIdx.y;
    const i32 given = j == 0 ? token[b] : appended[j - 1];
    const u32 id = static_cast<u32>(given) + (j == 0 ? start : 0);
    const bool known = given >= 0 && id < num_ids;
    const u8* from = table + (known ? id : 0) * row_bytes;
    u8* to = output + ((static_cast<u64>(blockIdx.z) * gridDim.y + b) * gridDim.x + j) * row_bytes;
    if (((reinterpret_cast<u64>(from) | reinterpret_cast<u64>(to) | row_bytes) & 15) == 0) {
        for (u64 i = threadIdx.x; i < row_bytes / 16; i += blockDim.x) {
            const Vector16 zero = {{0, 0, 0, 0}};
            reinterpret_cast<Vector16*>(to)[i] = known ? reinterpret_cast<const Vector16*>(from)[i] : zero;
        }
    } else {
        for (u64 i = threadIdx.x; i < row_bytes / 4; i += blockDim.x) {
            reinterpret_cast<u32*>(to)[i] = known ? reinterpret_cast<const u32*>(from)[i] : 0;
        }
    }
}
