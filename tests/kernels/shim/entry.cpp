// kernels.cu as a shared library: illume_launch runs one kernel by name, with arguments as the CUDA driver takes them.
#include "cpu_cuda.h"

using std::rintf;
#include "kernels.cu"

#include <tuple>
#include <type_traits>
#include <utility>

namespace {

std::string last_error;

template <auto KERNEL_FUNCTION>
struct Unpacked;
template <class... A, void (*KERNEL_FUNCTION)(A...)>
struct Unpacked<KERNEL_FUNCTION> {
    template <std::size_t... I>
    static void call(void** arguments, std::index_sequence<I...>) {
        KERNEL_FUNCTION(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
    }
    static void run(void** arguments) { call(arguments, std::index_sequence_for<A...>{}); }
    static std::size_t sizes(std::size_t* out) {
        std::size_t i = 0;
        ((out[i++] = sizeof(A)), ...);
        return i;
    }
};

struct Entry {
    const char* name;
    void (*run)(void**);
    std::size_t (*sizes)(std::size_t*);
};
#define ENTRY(kernel) {#kernel, &Unpacked<kernel>::run, &Unpacked<kernel>::sizes}
const Entry entries[] = {
    ENTRY(sample_group),    ENTRY(sample_cluster),  ENTRY(sample_gumbel),   ENTRY(guidance_step),   ENTRY(gather_embedding),
    ENTRY(head_gemv_w16_2), ENTRY(head_gemv_w16_8), ENTRY(head_gemv_w16_16), ENTRY(head_gemv_w8_2),  ENTRY(head_gemv_w8_8),
    ENTRY(head_gemv_w8_16), ENTRY(head_gemv_w4_2),  ENTRY(head_gemv_w4_8),  ENTRY(head_gemv_w4_16),
    ENTRY(advance_step)};

}  // namespace

// Null, or what went wrong.
extern "C" const char* illume_launch(const char* name, void** arguments, const std::size_t* sizes, std::size_t count,
                                     const unsigned* grid, unsigned threads, unsigned cluster, unsigned shared_bytes,
                                     unsigned schedule, unsigned long long seed) {
    for (const Entry& entry : entries) {
        if (std::string(entry.name) != name) continue;
        std::size_t expected[32];
        if (entry.sizes(expected) != count) return "wrong number of arguments";
        for (std::size_t i = 0; i < count; ++i) {
            if (expected[i] != sizes[i]) return "an argument has the wrong size";
        }
        last_error = shim::run(entry.run, arguments, {grid[0], grid[1], grid[2]}, threads, cluster, shared_bytes, schedule, seed);
        return last_error.empty() ? nullptr : last_error.c_str();
    }
    return "no such kernel";
}

// How many arguments a kernel has, and their sizes; 0 for an unknown name.
extern "C" std::size_t illume_argument_sizes(const char* name, std::size_t* sizes) {
    for (const Entry& entry : entries) {
        if (std::string(entry.name) == name) return entry.sizes(sizes);
    }
    return 0;
}
