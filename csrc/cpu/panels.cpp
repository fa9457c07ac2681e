#include "cpu/panels.hpp"

#include "cpu/panel_loops.hpp"

// Registers of 32 bytes (x86-64-v3: AVX2 and FMA) and of 64 (x86-64-v4: AVX-512), whichever this processor has.
#if defined(__x86_64__) && defined(__GNUC__)
#define GNFAST_V3 __attribute__((target("arch=x86-64-v3")))
#define GNFAST_V4 __attribute__((target("arch=x86-64-v4")))
#define GNFAST_HAS(feature) __builtin_cpu_supports(feature)
#else
#define GNFAST_V3
#define GNFAST_V4
#define GNFAST_HAS(feature) 0
#endif

namespace gnfast::cpu::panels {
namespace {

bool wide() {
    static const bool found = GNFAST_HAS("avx512f") && GNFAST_HAS("avx512dq") && GNFAST_HAS("avx512vl") && GNFAST_HAS("avx512bw");
    return found;
}

template <class T>
GNFAST_V3 void project_v3(const Layer<T>& layer, const Block<const T>& block, T* u, T* work) {
    project_all<T, 32>(layer, block, u, work);
}
template <class T>
GNFAST_V4 void project_v4(const Layer<T>& layer, const Block<const T>& block, T* u, T* work) {
    project_all<T, 64>(layer, block, u, work);
}
template <class T>
GNFAST_V3 void gradient_v3(const Layer<T>& layer, const T* u, const Block<T>& block, T* work) {
    gradient_all<T, 32>(layer, u, block, work);
}
template <class T>
GNFAST_V4 void gradient_v4(const Layer<T>& layer, const T* u, const Block<T>& block, T* work) {
    gradient_all<T, 64>(layer, u, block, work);
}

template <class T>
GNFAST_V3 void multiply_v3(View<const T> a, const T* packed, index first, index last, View<T> out, T* work) {
    multiply_packed_all<T, 32>(a, packed, first, last, out, work);
}
template <class T>
GNFAST_V4 void multiply_v4(View<const T> a, const T* packed, index first, index last, View<T> out, T* work) {
    multiply_packed_all<T, 64>(a, packed, first, last, out, work);
}

}  // namespace

template <class T>
index width() {
    if (!GNFAST_HAS("avx2") || !GNFAST_HAS("fma")) return 0;
    return (wide() ? 128 : 64) / index(sizeof(T));
}

template <class T>
void project(const Layer<T>& layer, const Block<const T>& block, T* u, T* work) {
    wide() ? project_v4(layer, block, u, work) : project_v3(layer, block, u, work);
}

template <class T>
void gradient(const Layer<T>& layer, const T* u, const Block<T>& block, T* work) {
    wide() ? gradient_v4(layer, u, block, work) : gradient_v3(layer, u, block, work);
}

template <class T>
void multiply_packed(View<const T> a, const T* packed, index first, index last, View<T> out, T* work) {
    wide() ? multiply_v4(a, packed, first, last, out, work) : multiply_v3(a, packed, first, last, out, work);
}

template <class T>
void pack_matrix(View<const T> b, index first, index last, T* packed) {
    const index w = width<T>(), panels = ceil_div(b.rows, w), slices = ceil_div(b.cols, inner);
    for (index slice = 0; slice < slices; ++slice) {
        const index k0 = b.cols * slice / slices, steps = b.cols * (slice + 1) / slices - k0;
        for (index p = first; p < last; ++p)
            for (index lane = 0; lane < w; ++lane) {
                T* const to = packed + panels * w * k0 + p * w * steps + lane;
                const T* const from = p * w + lane < b.rows ? b.row(p * w + lane) + k0 : nullptr;
                for (index k = 0; k < steps; ++k) to[k * w] = from ? from[k] : T(0);
            }
    }
}

template <class T>
void pack_samples(View<const T> inputs, View<const T> rows, const Layer<T>& layer, index first, index last) {
    const index w = layer.width, r = layer.r;
    for (index p = first; p < last; ++p)
        for (index lane = 0; lane < w; ++lane) {
            const index i = p * w + lane;
            const bool there = i < layer.samples;
            T* const a = layer.by_sample + p * layer.fan_in * w + lane;
            for (index k = 0; k < layer.fan_in; ++k) a[k * w] = there ? inputs.row(i)[k] : T(0);
            for (index c = 0; c < r; ++c) {
                T* const b = layer.rows + (p * layer.fan_out * r + c) * w + lane;
                for (index o = 0; o < layer.fan_out; ++o) b[o * r * w] = there ? rows.row(i * r + c)[o] : T(0);
            }
        }
}

template <class T>
void pack_columns(View<const T> inputs, const Layer<T>& layer, index first, index last) {
    const index w = layer.width;
    for (index p = first; p < last; ++p)
        for (index i = 0; i < layer.samples; ++i) {
            T* const a = layer.by_column + (p * layer.samples + i) * w;
            for (index q = 0; q < w; ++q) a[q] = p * w + q < layer.fan_in ? inputs.row(i)[p * w + q] : T(0);
        }
}

#define GNFAST_INSTANTIATE(T)                                                                \
    template index width<T>();                                                               \
    template void pack_samples(View<const T>, View<const T>, const Layer<T>&, index, index); \
    template void pack_columns(View<const T>, const Layer<T>&, index, index);                \
    template void pack_matrix(View<const T>, index, index, T*);                              \
    template void multiply_packed(View<const T>, const T*, index, index, View<T>, T*);       \
    template void project(const Layer<T>&, const Block<const T>&, T*, T*);                   \
    template void gradient(const Layer<T>&, const T*, const Block<T>&, T*);

GNFAST_INSTANTIATE(float)
GNFAST_INSTANTIATE(double)

}  // namespace gnfast::cpu::panels
