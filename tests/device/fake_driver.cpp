// A CUDA driver without a GPU: libcuda.so.1 for the real packages (cuda-core, cuda-bindings, PyCUDA) on a CPU.
//
// Device memory is host memory. Work waits in one queue, in order, until something synchronizes, so that a host that
// reads too early reads what was there before. Kernels run in the shim of tests/kernels (ILLUME_SHIM names it).
// fake_log() gives the names of the calls since fake_clear().
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

using Result = int;
using Device = int;
using Pointer = unsigned long long;
using Handle = void*;
enum : Result { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_CONTEXT = 201, NO_BINARY = 209, NOT_FOUND = 500, NOT_SUPPORTED = 801, CAPTURE = 900 };

namespace {

using Work = std::function<Result()>;
struct Graph { std::vector<Work> work; };
struct Stream { Graph* capturing = nullptr; };
struct Event { bool done = true, timed = false; std::chrono::steady_clock::time_point time; };
struct Kernel { std::string name; int shared = 48 << 10; };
struct Pool { std::uint64_t threshold = 0, cached = 0; };  // what is cached was given back and is not free
struct Library { std::map<std::string, Kernel> kernels; };

std::string calls;
std::deque<Work> queue;
std::map<Pointer, std::size_t> sizes;
std::map<Pointer, Pool*> pool_of;
int context;
Pool default_pool;
std::vector<Pool*> pools = {&default_pool};
thread_local Handle current = nullptr;
Stream legacy;
std::size_t used = 0;
int number(const char* name, int otherwise) { const char* text = std::getenv(name); return text ? std::atoi(text) : otherwise; }
std::size_t total() { return static_cast<std::size_t>(number("FAKE_MEMORY_MB", 1024)) << 20; }

void log(const char* name) { calls += name; calls += '\n'; }
#define CALL(name, ...) extern "C" Result name(__VA_ARGS__)
#define LOG log(__func__)

Stream* stream_of(Handle handle) { return reinterpret_cast<std::uintptr_t>(handle) <= 2 ? &legacy : static_cast<Stream*>(handle); }

Result put(Handle handle, Work work) {
    if (!current) return NO_CONTEXT;
    Stream* stream = stream_of(handle);
    if (stream->capturing) stream->capturing->work.push_back(std::move(work));
    else queue.push_back(std::move(work));
    return OK;
}

bool any_capture = false;
Result drain() {
    if (any_capture) return CAPTURE;
    Result result = OK;
    while (!queue.empty()) {
        Work work = std::move(queue.front());
        queue.pop_front();
        if (Result code = work()) result = code;
    }
    for (Pool* pool : pools) pool->cached = std::min(pool->cached, pool->threshold);
    return result;
}

std::uint64_t cached() {
    std::uint64_t sum = 0;
    for (Pool* pool : pools) sum += pool->cached;
    return sum;
}

Result take(Pointer* out, std::size_t count, Pool* pool = nullptr) {
    if (!current) return NO_CONTEXT;
    if (any_capture) return CAPTURE;
    const std::uint64_t again = pool ? std::min<std::uint64_t>(pool->cached, count) : 0;
    if (used + cached() - again + count > total()) return OUT_OF_MEMORY;
    if (pool) pool->cached -= again;
    void* memory = std::aligned_alloc(256, (count + 255) / 256 * 256);
    std::memset(memory, 0xA5, count);
    *out = reinterpret_cast<Pointer>(memory);
    sizes[*out] = count;
    if (pool) pool_of[*out] = pool;
    used += count;
    return OK;
}

Result give(Pointer address) {
    drain();
    auto found = sizes.find(address);
    if (found == sizes.end()) return INVALID;
    used -= found->second;
    if (auto pool = pool_of.find(address); pool != pool_of.end()) {
        pool->second->cached += found->second;  // until something is waited for
        pool_of.erase(pool);
    }
    sizes.erase(found);
    std::free(reinterpret_cast<void*>(address));
    return OK;
}

using Launch = const char* (*)(const char*, void**, const std::size_t*, std::size_t, const unsigned*, unsigned, unsigned, unsigned, unsigned, unsigned long long);
using Sizes = std::size_t (*)(const char*, std::size_t*);
void* shim() { static void* library = dlopen(std::getenv("ILLUME_SHIM"), RTLD_NOW); return library; }

Result launch(Kernel* kernel, const unsigned* grid, const unsigned* block, unsigned shared, Handle stream, void** given, const void* packed, unsigned cluster) {
    if (!shim()) return NOT_FOUND;
    if (static_cast<int>(shared) > kernel->shared || grid[0] == 0 || (cluster > 1 && grid[0] % cluster)) return INVALID;
    std::size_t size[32];
    const std::size_t count = reinterpret_cast<Sizes>(dlsym(shim(), "illume_argument_sizes"))(kernel->name.c_str(), size);
    std::vector<std::vector<char>> values;
    std::size_t offset = 0;
    for (std::size_t i = 0; i < count; ++i) {
        offset = (offset + size[i] - 1) / size[i] * size[i];
        const char* from = packed ? static_cast<const char*>(packed) + offset : static_cast<const char*>(given[i]);
        values.emplace_back(from, from + size[i]);
        offset += size[i];
    }
    std::vector<std::size_t> lengths(size, size + count);
    std::vector<unsigned> shape(grid, grid + 3);
    const unsigned threads = block[0];
    return put(stream, [=]() mutable {
        std::vector<void*> pointers;
        for (auto& value : values) pointers.push_back(value.data());
        auto run = reinterpret_cast<Launch>(dlsym(shim(), "illume_launch"));
        const char* error = run(kernel->name.c_str(), pointers.data(), lengths.data(), count, shape.data(), threads, cluster, shared, 0, 1);
        if (error) log(error);
        return error ? INVALID : OK;
    });
}

Result loaded(Handle* out, const void* image) {
    if (!shim()) return NOT_FOUND;
    const std::uint32_t magic = *static_cast<const std::uint32_t*>(image);
    if (magic != 0xBA55ED50u && magic != 0x464C457Fu) return 200;  // neither a fatbin nor ELF
    *out = new Library;
    return number("FAKE_NO_BINARY", 0) ? NO_BINARY : OK;
}

Result found(Handle* out, Handle library, const char* name) {
    std::size_t size[32];
    if (!reinterpret_cast<Sizes>(dlsym(shim(), "illume_argument_sizes"))(name, size)) return NOT_FOUND;
    Kernel& kernel = static_cast<Library*>(library)->kernels[name];
    kernel.name = name;
    *out = &kernel;
    return OK;
}

}  // namespace

extern "C" const char* fake_log() { return calls.c_str(); }
extern "C" void fake_clear() { calls.clear(); }

CALL(cuInit, unsigned) { return number("FAKE_NO_GPU", 0) ? 100 : OK; }
CALL(cuDriverGetVersion, int* version) { *version = number("FAKE_DRIVER", 13000); return OK; }
CALL(cuDeviceGet, Device* device, int ordinal) { *device = ordinal; return ordinal == 0 ? OK : 101; }
CALL(cuDeviceGetCount, int* count) { *count = 1; return OK; }
CALL(cuDeviceGetName, char* name, int length, Device) { std::strncpy(name, "fake GPU", length); return OK; }
CALL(cuDeviceTotalMem_v2, std::size_t* bytes, Device) { *bytes = total(); return OK; }
CALL(cuDeviceGetUuid_v2, char* uuid, Device) { std::memset(uuid, 7, 16); return OK; }
CALL(cuDeviceGetAttribute, int* value, int attribute, Device) {
    const int capability = number("FAKE_CAPABILITY", 90);
    switch (attribute) {
        case 75: *value = capability / 10; break;
        case 76: *value = capability % 10; break;
        case 16: *value = 4; break;            // multiprocessors
        case 97: *value = 163 << 10; break;    // shared memory that a block may opt in to
        case 115: *value = number("FAKE_POOLS", 1); break;  // memory pools
        default: *value = 1;
    }
    return OK;
}
CALL(cuDeviceComputeCapability, int* major, int* minor, Device) {
    *major = number("FAKE_CAPABILITY", 90) / 10;
    *minor = number("FAKE_CAPABILITY", 90) % 10;
    return OK;
}
CALL(cuDevicePrimaryCtxRetain, Handle* out, Device) { *out = &context; return OK; }
CALL(cuDevicePrimaryCtxRelease_v2, Device) { return OK; }
CALL(cuCtxGetCurrent, Handle* out) { *out = current; return OK; }
CALL(cuCtxSetCurrent, Handle given) { current = given; return OK; }
CALL(cuCtxPushCurrent_v2, Handle given) { current = given; return OK; }
CALL(cuCtxPopCurrent_v2, Handle* out) { *out = current; current = nullptr; return OK; }
CALL(cuCtxGetDevice, Device* device) { *device = 0; return current ? OK : 201; }
CALL(cuCtxGetDevice_v2, Device* device, Handle) { *device = 0; return OK; }
CALL(cuCtxGetId, Handle, unsigned long long* id) { *id = 1; return OK; }
CALL(cuCtxGetApiVersion, Handle, unsigned* version) { *version = 13000; return OK; }
CALL(cuCtxDetach, Handle) { return OK; }
CALL(cuCtxSynchronize) { LOG; return drain(); }
CALL(cuCtxGetStreamPriorityRange, int* least, int* greatest) { *least = 0; *greatest = -5; return OK; }
CALL(cuMemGetInfo_v2, std::size_t* free, std::size_t* all) { *free = total() - used - cached(); *all = total(); return OK; }

CALL(cuMemAlloc_v2, Pointer* out, std::size_t count) { LOG; return take(out, count); }
CALL(cuMemFree_v2, Pointer address) { LOG; return give(address); }
CALL(cuMemAllocAsync, Pointer* out, std::size_t count, Handle) { LOG; return take(out, count, &default_pool); }
CALL(cuMemAllocFromPoolAsync, Pointer* out, std::size_t count, Handle pool, Handle) { LOG; return take(out, count, static_cast<Pool*>(pool)); }
CALL(cuMemFreeAsync, Pointer address, Handle) { LOG; return give(address); }
CALL(cuMemAllocHost_v2, void** out, std::size_t count) { LOG; return take(reinterpret_cast<Pointer*>(out), count); }
CALL(cuMemHostAlloc, void** out, std::size_t count, unsigned) { LOG; return take(reinterpret_cast<Pointer*>(out), count); }
CALL(cuMemHostGetDevicePointer_v2, Pointer* out, void* host, unsigned) { *out = reinterpret_cast<Pointer>(host); return OK; }
CALL(cuMemFreeHost, void* address) { LOG; return give(reinterpret_cast<Pointer>(address)); }
CALL(cuDeviceGetMemPool, Handle* out, Device) { *out = &default_pool; return OK; }
CALL(cuDeviceGetDefaultMemPool, Handle* out, Device) { *out = &default_pool; return OK; }
CALL(cuMemPoolCreate, Handle* out, const void*) { pools.push_back(new Pool); *out = pools.back(); return OK; }
CALL(cuMemPoolGetAttribute, Handle pool, int attribute, void* value) {
    *static_cast<std::uint64_t*>(value) = attribute == 4 ? static_cast<Pool*>(pool)->threshold : 0;
    return OK;
}
CALL(cuMemPoolSetAttribute, Handle pool, int attribute, void* value) {
    if (attribute == 4) static_cast<Pool*>(pool)->threshold = *static_cast<std::uint64_t*>(value);
    return OK;
}
CALL(cuMemPoolDestroy, Handle) { return OK; }
CALL(cuMemPoolSetAccess, Handle, const void*, std::size_t) { return OK; }
CALL(cuPointerGetAttribute, void* value, int attribute, Pointer) {
    if (attribute == 2) *static_cast<int*>(value) = 2;  // memory type: device
    else *static_cast<int*>(value) = 0;
    return OK;
}
CALL(cuPointerGetAttributes, unsigned count, const int* attributes, void** values, Pointer address) {
    for (unsigned i = 0; i < count; ++i) cuPointerGetAttribute(values[i], attributes[i], address);
    return OK;
}

Result moved(Handle stream, void* to, const void* from, std::size_t count) {
    return put(stream, [=] { std::memmove(to, from, count); return OK; });
}
CALL(cuMemcpyHtoDAsync_v2, Pointer to, const void* from, std::size_t count, Handle stream) {
    LOG;
    if (sizes.count(reinterpret_cast<Pointer>(from))) return moved(stream, reinterpret_cast<void*>(to), from, count);
    std::vector<char> staged(static_cast<const char*>(from), static_cast<const char*>(from) + count);  // pageable
    return put(stream, [=] { std::memcpy(reinterpret_cast<void*>(to), staged.data(), count); return OK; });
}
CALL(cuMemcpyDtoHAsync_v2, void* to, Pointer from, std::size_t count, Handle stream) {
    LOG;
    return moved(stream, to, reinterpret_cast<void*>(from), count);
}
CALL(cuMemcpyDtoDAsync_v2, Pointer to, Pointer from, std::size_t count, Handle stream) {
    LOG;
    return moved(stream, reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), count);
}
CALL(cuMemsetD8Async, Pointer to, unsigned char value, std::size_t count, Handle stream) {
    LOG;
    return put(stream, [=] { std::memset(reinterpret_cast<void*>(to), value, count); return OK; });
}

CALL(cuStreamCreate, Handle* out, unsigned flags) { LOG; *out = new Stream; return flags == 1 ? OK : INVALID; }
CALL(cuStreamCreateWithPriority, Handle* out, unsigned flags, int) { LOG; *out = new Stream; return flags == 1 ? OK : INVALID; }
CALL(cuStreamDestroy_v2, Handle) { return OK; }
CALL(cuStreamSynchronize, Handle) { LOG; return drain(); }
CALL(cuStreamGetCtx, Handle, Handle* out) { *out = &context; return OK; }
CALL(cuStreamGetCtx_v2, Handle, Handle* out, Handle* green) { *out = &context; if (green) *green = nullptr; return OK; }
CALL(cuStreamGetFlags, Handle, unsigned* flags) { *flags = 1; return OK; }
CALL(cuStreamGetPriority, Handle, int* priority) { *priority = 0; return OK; }
CALL(cuStreamWaitEvent, Handle, Handle, unsigned) { LOG; return OK; }  // one queue: it came before
CALL(cuEventCreate, Handle* out, unsigned flags) {
    Event* event = new Event;
    event->timed = !(flags & 2);  // CU_EVENT_DISABLE_TIMING
    *out = event;
    return OK;
}
CALL(cuEventDestroy_v2, Handle) { return OK; }
CALL(cuEventRecord, Handle given, Handle stream) {
    LOG;
    Event* event = static_cast<Event*>(given);
    event->done = false;
    return put(stream, [=] {
        event->done = true;
        event->time = std::chrono::steady_clock::now();
        return OK;
    });
}
CALL(cuEventElapsedTime_v2, float* ms, Handle start, Handle end) {
    const Event &from = *static_cast<Event*>(start), &to = *static_cast<Event*>(end);
    if (!from.timed || !to.timed) return 400;  // CUDA_ERROR_INVALID_HANDLE
    if (!from.done || !to.done) return 600;    // CUDA_ERROR_NOT_READY
    *ms = std::chrono::duration<float, std::milli>(to.time - from.time).count();
    return OK;
}
CALL(cuEventElapsedTime, float* ms, Handle start, Handle end) { return cuEventElapsedTime_v2(ms, start, end); }
CALL(cuEventSynchronize, Handle event) { LOG; return static_cast<Event*>(event)->done ? OK : drain(); }
CALL(cuEventQuery, Handle event) { return static_cast<Event*>(event)->done ? OK : 600; }

CALL(cuStreamBeginCapture_v2, Handle stream, int) {
    LOG;
    stream_of(stream)->capturing = new Graph;
    any_capture = true;
    return OK;
}
CALL(cuStreamEndCapture, Handle stream, Handle* out) {
    LOG;
    any_capture = false;
    *out = stream_of(stream)->capturing;
    stream_of(stream)->capturing = nullptr;
    return OK;
}
CALL(cuStreamIsCapturing, Handle stream, int* status) { *status = stream_of(stream)->capturing ? 1 : 0; return OK; }
CALL(cuStreamGetCaptureInfo_v2, Handle stream, int* status, unsigned long long* id, Handle* graph, const Handle** dependencies, std::size_t* count) {
    *status = stream_of(stream)->capturing ? 1 : 0;
    if (id) *id = 1;
    if (graph) *graph = stream_of(stream)->capturing;
    if (dependencies) *dependencies = nullptr;
    if (count) *count = 0;
    return OK;
}
CALL(cuStreamGetCaptureInfo_v3, Handle stream, int* status, unsigned long long* id, Handle* graph, const Handle** dependencies, const Handle** edges, std::size_t* count) {
    if (edges) *edges = nullptr;
    return cuStreamGetCaptureInfo_v2(stream, status, id, graph, dependencies, count);
}
CALL(cuGraphInstantiateWithFlags, Handle* out, Handle graph, unsigned long long) { LOG; *out = new Graph(*static_cast<Graph*>(graph)); return OK; }
CALL(cuGraphInstantiateWithParams, Handle* out, Handle graph, void* params) {
    LOG;
    *out = new Graph(*static_cast<Graph*>(graph));
    static_cast<int*>(params)[6] = 0;  // result_out: success (flags u64, stream, error node, result)
    return OK;
}
CALL(cuGraphDestroy, Handle graph) { delete static_cast<Graph*>(graph); return OK; }
CALL(cuGraphExecDestroy, Handle graph) { drain(); delete static_cast<Graph*>(graph); return OK; }
CALL(cuGraphLaunch, Handle graph, Handle stream) {
    LOG;
    return put(stream, [=] {
        Result result = OK;
        for (Work& work : static_cast<Graph*>(graph)->work) if (Result code = work()) result = code;
        return result;
    });
}

CALL(cuUserObjectCreate, Handle* out, void*, void*, unsigned, unsigned) { *out = &default_pool; return OK; }
CALL(cuUserObjectRelease, Handle, unsigned) { return OK; }
CALL(cuGraphRetainUserObject, Handle, Handle, unsigned, unsigned) { return OK; }
CALL(cuGraphReleaseUserObject, Handle, Handle, unsigned) { return OK; }

CALL(cuModuleLoadDataEx, Handle* out, const void* image, unsigned, void*, void*) { LOG; return loaded(out, image); }
CALL(cuModuleLoadFatBinary, Handle* out, const void* image) { LOG; return loaded(out, image); }
CALL(cuModuleUnload, Handle) { return OK; }
CALL(cuModuleGetFunction, Handle* out, Handle library, const char* name) { return found(out, library, name); }
CALL(cuLibraryLoadData, Handle* out, const void* image, void*, void*, unsigned, void*, void*, unsigned) { LOG; return loaded(out, image); }
CALL(cuLibraryUnload, Handle) { return OK; }
CALL(cuLibraryGetKernel, Handle* out, Handle library, const char* name) { return found(out, library, name); }
CALL(cuKernelGetFunction, Handle* out, Handle kernel) { *out = kernel; return OK; }
CALL(cuKernelGetAttribute, int* value, int, Handle kernel, Device) { *value = static_cast<Kernel*>(kernel)->shared; return OK; }
CALL(cuKernelSetAttribute, int attribute, int value, Handle kernel, Device) {
    LOG;
    if (attribute == 8) static_cast<Kernel*>(kernel)->shared = value;
    return OK;
}
CALL(cuFuncSetAttribute, Handle kernel, int attribute, int value) { return cuKernelSetAttribute(attribute, value, kernel, 0); }
CALL(cuFuncGetAttribute, int* value, int, Handle kernel) { *value = static_cast<Kernel*>(kernel)->shared; return OK; }
CALL(cuFuncSetBlockShape, Handle, int, int, int) { return OK; }

struct Configuration {
    unsigned grid[3], block[3], shared;
    Handle stream;
    const struct Attribute { int id; char pad[4]; unsigned value[16]; }* attributes;
    unsigned count;
};
CALL(cuLaunchKernelEx, const Configuration* given, Handle kernel, void** arguments, void** extra) {
    LOG;
    unsigned cluster = 1;
    for (unsigned i = 0; i < given->count; ++i) if (given->attributes[i].id == 4) cluster = given->attributes[i].value[0];
    return launch(static_cast<Kernel*>(kernel), given->grid, given->block, given->shared, given->stream, arguments, extra ? extra[1] : nullptr, cluster);
}
CALL(cuLaunchKernel, Handle kernel, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared, Handle stream, void** arguments, void** extra) {
    LOG;
    const unsigned grid[3] = {x, y, z}, block[3] = {bx, by, bz};
    return launch(static_cast<Kernel*>(kernel), grid, block, shared, stream, arguments, extra ? extra[1] : nullptr, 1);
}
CALL(cuGetErrorName, int code, const char** name) {
    static const std::map<int, const char*> names = {
        {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {100, "CUDA_ERROR_NO_DEVICE"}, {101, "CUDA_ERROR_INVALID_DEVICE"},
        {200, "CUDA_ERROR_INVALID_IMAGE"}, {201, "CUDA_ERROR_INVALID_CONTEXT"}, {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {500, "CUDA_ERROR_NOT_FOUND"}, {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}};
    auto found = names.find(code);
    *name = found == names.end() ? "CUDA_ERROR_OTHER" : found->second;
    return OK;
}
CALL(cuGetErrorString, int code, const char** text) {
    *text = code == 2 ? "out of memory" : code == 200 ? "device kernel image is invalid" : code == 209 ? "no kernel image is available for execution on the device" : "refused by the fake driver";
    return OK;
}

// PyCUDA links these, and what we do with it calls none of them.
#define NOT_HERE(name) CALL(name) { std::fprintf(stderr, "the fake driver has no %s\n", #name); return NOT_SUPPORTED; }
NOT_HERE(cuArray3DCreate_v2) NOT_HERE(cuArray3DGetDescriptor_v2) NOT_HERE(cuArrayCreate_v2) NOT_HERE(cuArrayDestroy)
NOT_HERE(cuArrayGetDescriptor_v2) NOT_HERE(cuCtxAttach) NOT_HERE(cuCtxCreate_v4) NOT_HERE(cuCtxDisablePeerAccess)
NOT_HERE(cuCtxEnablePeerAccess) NOT_HERE(cuCtxGetCacheConfig) NOT_HERE(cuCtxGetLimit)
NOT_HERE(cuCtxGetSharedMemConfig) NOT_HERE(cuCtxSetCacheConfig) NOT_HERE(cuCtxSetLimit)
NOT_HERE(cuCtxSetSharedMemConfig) NOT_HERE(cuDeviceCanAccessPeer) NOT_HERE(cuDeviceGetByPCIBusId)
NOT_HERE(cuDeviceGetPCIBusId) NOT_HERE(cuFuncSetCacheConfig)
NOT_HERE(cuFuncSetSharedSize) NOT_HERE(cuIpcCloseMemHandle) NOT_HERE(cuIpcGetEventHandle) NOT_HERE(cuIpcGetMemHandle)
NOT_HERE(cuIpcOpenEventHandle) NOT_HERE(cuIpcOpenMemHandle_v2) NOT_HERE(cuLaunch) NOT_HERE(cuLaunchGrid)
NOT_HERE(cuLaunchGridAsync) NOT_HERE(cuLinkAddData_v2) NOT_HERE(cuLinkAddFile_v2) NOT_HERE(cuLinkComplete)
NOT_HERE(cuLinkCreate_v2) NOT_HERE(cuLinkDestroy) NOT_HERE(cuMemAllocManaged) NOT_HERE(cuMemAllocPitch_v2)
NOT_HERE(cuMemGetAddressRange_v2) NOT_HERE(cuMemHostGetFlags) NOT_HERE(cuMemHostRegister_v2)
NOT_HERE(cuMemHostUnregister) NOT_HERE(cuMemcpy2DAsync_v2) NOT_HERE(cuMemcpy2DUnaligned_v2) NOT_HERE(cuMemcpy2D_v2)
NOT_HERE(cuMemcpy3DAsync_v2) NOT_HERE(cuMemcpy3DPeer) NOT_HERE(cuMemcpy3DPeerAsync) NOT_HERE(cuMemcpy3D_v2)
NOT_HERE(cuMemcpyAtoA_v2) NOT_HERE(cuMemcpyAtoD_v2) NOT_HERE(cuMemcpyAtoH_v2) NOT_HERE(cuMemcpyDtoA_v2)
NOT_HERE(cuMemcpyDtoD_v2) NOT_HERE(cuMemcpyDtoH_v2) NOT_HERE(cuMemcpyHtoA_v2) NOT_HERE(cuMemcpyHtoD_v2)
NOT_HERE(cuMemcpyPeer) NOT_HERE(cuMemcpyPeerAsync) NOT_HERE(cuMemsetD16Async) NOT_HERE(cuMemsetD16_v2)
NOT_HERE(cuMemsetD2D16Async) NOT_HERE(cuMemsetD2D16_v2) NOT_HERE(cuMemsetD2D32Async) NOT_HERE(cuMemsetD2D32_v2)
NOT_HERE(cuMemsetD2D8Async) NOT_HERE(cuMemsetD2D8_v2) NOT_HERE(cuMemsetD32Async) NOT_HERE(cuMemsetD32_v2)
NOT_HERE(cuMemsetD8_v2) NOT_HERE(cuModuleGetGlobal_v2) NOT_HERE(cuModuleGetSurfRef) NOT_HERE(cuModuleGetTexRef)
NOT_HERE(cuModuleLoad) NOT_HERE(cuModuleLoadData) NOT_HERE(cuParamSetSize) NOT_HERE(cuParamSetTexRef)
NOT_HERE(cuParamSetf) NOT_HERE(cuParamSeti) NOT_HERE(cuParamSetv) NOT_HERE(cuProfilerInitialize)
NOT_HERE(cuProfilerStart) NOT_HERE(cuProfilerStop) NOT_HERE(cuStreamAttachMemAsync) NOT_HERE(cuStreamQuery)
NOT_HERE(cuSurfRefGetArray) NOT_HERE(cuSurfRefSetArray) NOT_HERE(cuTexRefCreate) NOT_HERE(cuTexRefDestroy)
NOT_HERE(cuTexRefGetAddressMode) NOT_HERE(cuTexRefGetAddress_v2) NOT_HERE(cuTexRefGetArray)
NOT_HERE(cuTexRefGetFilterMode) NOT_HERE(cuTexRefGetFlags) NOT_HERE(cuTexRefGetFormat)
NOT_HERE(cuTexRefSetAddress2D_v3) NOT_HERE(cuTexRefSetAddressMode) NOT_HERE(cuTexRefSetAddress_v2)
NOT_HERE(cuTexRefSetArray) NOT_HERE(cuTexRefSetFilterMode) NOT_HERE(cuTexRefSetFlags) NOT_HERE(cuTexRefSetFormat)

// What is not here says so when it is called.
std::vector<std::string> missing_names;
template <std::size_t I>
Result missing() {
    std::fprintf(stderr, "the fake driver has no %s\n", missing_names[I].c_str());
    return NOT_SUPPORTED;
}
template <std::size_t... I>
Result (*missing_called(const char* name, std::index_sequence<I...>))() {
    static Result (*const stubs[])() = {&missing<I>...};
    missing_names.push_back(name);
    return stubs[missing_names.size() - 1];
}

CALL(cuGetProcAddress_v2, const char* name, void** out, int, std::uint64_t, int* status) {
    for (const char* suffix : {"_v3", "_v2", ""}) {
        *out = dlsym(RTLD_DEFAULT, (std::string(name) + suffix).c_str());
        if (!*out) if (void* self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD)) *out = dlsym(self, (std::string(name) + suffix).c_str());
        if (*out) break;
    }
    if (!*out) *out = reinterpret_cast<void*>(missing_called(name, std::make_index_sequence<1024>()));
    if (status) *status = *out ? 0 : 1;
    return *out ? OK : NOT_FOUND;
}
CALL(cuGetProcAddress, const char* name, void** out, int version, std::uint64_t flags) { return cuGetProcAddress_v2(name, out, version, flags, nullptr); }
