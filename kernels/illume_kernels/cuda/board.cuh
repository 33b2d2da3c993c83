// Where the CTAs of one row meet: histograms that all add to, a slot that each writes, and a barrier between.
//
// GroupBoard lies in global memory and works on every GPU; all CTAs of a row must be resident at once (launch.py sees to
// it). ClusterBoard lies in the shared memory of a CTA cluster, each histogram cut into one slice per CTA.
#pragma once
#include "numbers.cuh"

constexpr u32 NUM_BINS = 2048;
constexpr u32 MAX_GROUP = 64;
constexpr u32 NUM_HISTOGRAMS = 9;  // three passes of counts, three of weights in a low and a high word

struct Slot {
    u32 top_key;
    u32 num_tied;
    u64 mass;
};

struct GroupMemory {  // of one row; all zero between launches but for the slots, which are written before they are read
    u32 arrived;
    u32 left;
    u32 unused[30];
    Slot slots[MAX_GROUP];
    u32 bins[NUM_HISTOGRAMS][NUM_BINS];
};
static_assert(sizeof(GroupMemory) == 74880, "launch.py allocates 74880 bytes for each row");

struct GroupBoard {
    GroupMemory* memory;
    u32 phase;

    DEVICE u32 rank() const { return blockIdx.x; }
    DEVICE u32 size() const { return gridDim.x; }
    DEVICE u32* bin(u32 histogram, u32 i) { return &memory->bins[histogram][i]; }
    DEVICE Slot* slot(u32 of_rank) { return &memory->slots[of_rank]; }
    DEVICE void open() {}

    DEVICE void sync() {
        __syncthreads();
        if (size() > 1 && threadIdx.x == 0) {
            phase += size();
            __threadfence();
            atomicAdd(&memory->arrived, 1u);
            while (fresh(&memory->arrived) < phase) pause_in_spin();
            __threadfence();
        }
        __syncthreads();
    }

    // After the last sync, when no CTA reads a histogram any more: leaves the memory as it was found.
    DEVICE void close() {
        const u32 total = NUM_HISTOGRAMS * NUM_BINS;
        u32* bins = &memory->bins[0][0];
        for (u32 i = rank() * blockDim.x + threadIdx.x; i < total; i += size() * blockDim.x) bins[i] = 0;
        if (threadIdx.x == 0) {
            __threadfence();
            if (atomicAdd(&memory->left, 1u) + 1 == size()) {
                memory->arrived = 0;
                memory->left = 0;
            }
        }
    }
};

#if defined(ILLUME_CPU) || __CUDA_ARCH__ >= 900
struct ClusterBoard {
    Slot* own_slot;
    u32* own_bins;  // [NUM_HISTOGRAMS][NUM_BINS / size]; the size is a power of two

    DEVICE u32 rank() const { return cluster_rank(); }
    DEVICE u32 size() const { return gridDim.x; }
    DEVICE u32* bin(u32 histogram, u32 i) {
        const u32 slice = NUM_BINS / size();
        return in_rank(own_bins + histogram * slice + i % slice, i / slice);
    }
    DEVICE Slot* slot(u32 of_rank) { return in_rank(own_slot, of_rank); }
    DEVICE void open() {
        for (u32 i = threadIdx.x; i < NUM_HISTOGRAMS * NUM_BINS / size(); i += blockDim.x) own_bins[i] = 0;
        cluster_sync();
    }
    DEVICE void sync() { cluster_sync(); }
    DEVICE void close() { cluster_sync(); }  // the others may still read the slot
};
#endif
