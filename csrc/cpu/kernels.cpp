#include "cpu/kernels.hpp"

#include <algorithm>

#include "core/philox.hpp"

// One clone per x86-64 level; the dynamic loader picks. Helpers are inlined into each clone, so that no inline
// function of another translation unit can end up compiled for a processor that is not there.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define GNFAST_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GNFAST_CLONES
#endif
#define GNFAST_INLINE static inline __attribute__((always_inline))

namespace gnfast::cpu::kernels {
namespace {

// 32-byte vectors: one AVX2 register, two of SSE; four rows by two keeps 8 accumulators and 6 operands in 16 registers.
template <class T>
struct Vector32 {
    typedef T type __attribute__((vector_size(32), aligned(sizeof(T)), may_alias));
};
template <class T>
using Pack = typename Vector32<T>::type;

template <class T>
constexpr index lanes = 32 / sizeof(T);

template <class T>
GNFAST_INLINE Pack<T> load(const T* p) {
    return *reinterpret_cast<const Pack<T>*>(p);
}

template <class T>
GNFAST_INLINE void store(T* p, const Pack<T>& v) {
    *reinterpret_cast<Pack<T>*>(p) = v;
}

// The caller walks over matrices of r rows that lie one after another. Rows are as short as a page, so that the processor's own
// prefetchers start anew at each; asking for the next matrix' lines while this one's are multiplied hides that. An
// address past the end is harmless.
template <class T>
GNFAST_INLINE void prefetch(const T* p) {
    __builtin_prefetch(p, 0, 2);
}

template <class T, int J, int C>
GNFAST_INLINE void out_block(const T* rows, index row_step, index ahead, index m, const T* t, index t_step, Strided<T> u, index j0,
                             index c0) {
    Pack<T> acc[J][C] = {};
    index q = 0;
    for (; q + lanes<T> <= m; q += lanes<T>) {
        Pack<T> b[C];
        if (q % (2 * lanes<T>) == 0)
            for (int c = 0; c < C; ++c) prefetch(rows + ahead + c * row_step + q);
        for (int c = 0; c < C; ++c) b[c] = load(rows + c * row_step + q);
        for (int j = 0; j < J; ++j) {
            const Pack<T> x = load(t + j * t_step + q);
            for (int c = 0; c < C; ++c) acc[j][c] += x * b[c];
        }
    }
    for (int j = 0; j < J; ++j)
        for (int c = 0; c < C; ++c) {
            T total = 0;
            for (index lane = 0; lane < lanes<T>; ++lane) total += acc[j][c][lane];
            for (index p = q; p < m; ++p) total += t[j * t_step + p] * rows[c * row_step + p];
            u.data[(j0 + j) * u.step + (c0 + c) * u.column] += total;
        }
}

template <class T, int J>
GNFAST_INLINE void out_columns(const T* rows, index row_step, index r, index m, const T* t, index t_step, Strided<T> u, index j) {
    const index ahead = r * row_step;
    index c = 0;
    for (; c + 2 <= r; c += 2) out_block<T, J, 2>(rows + c * row_step, row_step, ahead, m, t, t_step, u, j, c);
    if (c < r) out_block<T, J, 1>(rows + c * row_step, row_step, ahead, m, t, t_step, u, j, c);
}

template <class T>
GNFAST_INLINE void out_all(const T* rows, index row_step, index r, index m, const T* t, index t_step, index s, Strided<T> u) {
    index j = 0;
    for (; j + 4 <= s; j += 4) out_columns<T, 4>(rows, row_step, r, m, t + j * t_step, t_step, u, j);
    for (; j < s; ++j) out_columns<T, 1>(rows, row_step, r, m, t + j * t_step, t_step, u, j);
}

template <class T, int J>
GNFAST_INLINE void in_block(const T* rows, index row_step, index r, index m, Strided<const T> u, index j0, T beta, T* out, index out_step) {
    const auto entry = [&](index j, index c) { return u.data[(j0 + j) * u.step + c * u.column]; };
    index q = 0;
    for (; q + 2 * lanes<T> <= m; q += 2 * lanes<T>) {
        Pack<T> acc[J][2] = {};
        if (beta != T(0))
            for (int j = 0; j < J; ++j)
                for (int half = 0; half < 2; ++half) acc[j][half] = load(out + j * out_step + q + half * lanes<T>);
        for (index c = 0; c < r; ++c) {
            const T* row = rows + c * row_step + q;
            if (q % (4 * lanes<T>) == 0) prefetch(row + r * row_step);
            const Pack<T> b0 = load(row), b1 = load(row + lanes<T>);
            for (int j = 0; j < J; ++j) {
                const T x = entry(j, c);
                acc[j][0] += b0 * x;
                acc[j][1] += b1 * x;
            }
        }
        for (int j = 0; j < J; ++j)
            for (int half = 0; half < 2; ++half) store(out + j * out_step + q + half * lanes<T>, acc[j][half]);
    }
    for (int j = 0; j < J; ++j)
        for (index p = q; p < m; ++p) {
            T total = beta != T(0) ? out[j * out_step + p] : T(0);
            for (index c = 0; c < r; ++c) total += entry(j, c) * rows[c * row_step + p];
            out[j * out_step + p] = total;
        }
}

template <class T>
GNFAST_INLINE void in_all(const T* rows, index row_step, index r, index m, Strided<const T> u, index s, T beta, T* out, index out_step) {
    index j = 0;
    for (; j + 4 <= s; j += 4) in_block<T, 4>(rows, row_step, r, m, u, j, beta, out + j * out_step, out_step);
    for (; j < s; ++j) in_block<T, 1>(rows, row_step, r, m, u, j, beta, out + j * out_step, out_step);
}

template <class T>
GNFAST_INLINE T sum_lanes(Pack<T> v) {
    T half[lanes<T>];
    store(half, v);
    if constexpr (lanes<T> == 4) return (half[0] + half[2]) + (half[1] + half[3]);
    return ((half[0] + half[4]) + (half[1] + half[5])) + ((half[2] + half[6]) + (half[3] + half[7]));
}

// R rows of a tile and J vectors: per R + 2 J loads and J stores 2 R J multiply-adds, 2 R J + R + 2 registers: 2 by 2 fills 14 of 16.
// Ahead: the rows that follow are asked for meanwhile, since a processor's own prefetchers start anew at every row.
template <class T, int R, int J, bool Ahead>
GNFAST_INLINE void symmetric_block(const T* tile, index stride, index cols, const T* x, const T* y, T* down, T* across, index step) {
    Pack<T> acc[R][J] = {}, mine[R][J];
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < J; ++j) mine[r][j] = Pack<T>{} + y[j * step + r];
    index q = 0;
    for (; q + lanes<T> <= cols; q += lanes<T>) {
        Pack<T> entry[R];
        for (int r = 0; r < R; ++r) {
            if (Ahead && q % (2 * lanes<T>) == 0) prefetch(tile + (R + r) * stride + q);
            entry[r] = load(tile + r * stride + q);
        }
        for (int j = 0; j < J; ++j) {
            const Pack<T> here = load(x + j * step + q);
            Pack<T> sum = load(across + j * step + q);
            for (int r = 0; r < R; ++r) {
                acc[r][j] += entry[r] * here;
                sum += entry[r] * mine[r][j];
            }
            store(across + j * step + q, sum);
        }
    }
    for (int j = 0; j < J; ++j)
        for (int r = 0; r < R; ++r) down[j * step + r] += sum_lanes<T>(acc[r][j]);
    for (; q < cols; ++q)
        for (int j = 0; j < J; ++j)
            for (int r = 0; r < R; ++r) {
                down[j * step + r] += tile[r * stride + q] * x[j * step + q];
                across[j * step + q] += tile[r * stride + q] * y[j * step + r];
            }
}

template <class T, int R>
GNFAST_INLINE void symmetric_vectors(const T* tile, index stride, index cols, const T* x, const T* y, T* down, T* across, index step,
                                     index s) {
    if (s == 1) return symmetric_block<T, R, 1, true>(tile, stride, cols, x, y, down, across, step);
    symmetric_block<T, R, 2, true>(tile, stride, cols, x, y, down, across, step);
    index j = 2;
    for (; j + 2 <= s; j += 2)
        symmetric_block<T, R, 2, false>(tile, stride, cols, x + j * step, y + j * step, down + j * step, across + j * step, step);
    if (j < s) symmetric_block<T, R, 1, false>(tile, stride, cols, x + j * step, y + j * step, down + j * step, across + j * step, step);
}

template <class T>
GNFAST_INLINE void symmetric_all(const T* tile, index stride, index rows, index cols, const T* x, const T* y, T* down, T* across,
                                 index step, index s) {
    index r = 0;
    for (; r + 2 <= rows; r += 2) symmetric_vectors<T, 2>(tile + r * stride, stride, cols, x, y + r, down + r, across, step, s);
    if (r < rows) symmetric_vectors<T, 1>(tile + r * stride, stride, cols, x, y + r, down + r, across, step, s);
}

// Numbers are made so many at a time, whole registers of words, wherever a row begins or ends: each depends on its place alone, its last
// digit too.
constexpr index quads_at_once = 16;

template <class T>
GNFAST_INLINE void normal_block(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, std::uint32_t quad, T scale, T* out) {
    std::uint32_t words[4][quads_at_once];
    for (std::uint32_t i = 0; i < quads_at_once; ++i) {
        const philox::Words found = philox::generate(seed, stream, row, quad + i);
        for (int w = 0; w < 4; ++w) words[w][i] = found.w[w];
    }
    for (index i = 0; i < quads_at_once; ++i) {
        T z[4];
        philox::normal_pair(words[0][i], words[1][i], z[0], z[1]);
        philox::normal_pair(words[2][i], words[3][i], z[2], z[3]);
        for (int w = 0; w < 4; ++w) out[4 * i + w] = scale * z[w];
    }
}

template <class T>
GNFAST_INLINE void normal_all(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, std::uint64_t first, double scale, T* out,
                              index count) {
    constexpr index block = 4 * quads_at_once;
    index q = 0;
    for (; q < count; q += block) {
        const auto quad = static_cast<std::uint32_t>((first + std::uint64_t(q)) / 4);
        if (q + block <= count) {
            normal_block(seed, stream, row, quad, T(scale), out + q);
        } else {
            T last[block];
            normal_block(seed, stream, row, quad, T(scale), last);
            std::copy_n(last, count - q, out + q);
        }
    }
}

template <class T>
GNFAST_INLINE void uniform_all(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, double low, double high, T* out, index count) {
    for (index q = 0; q < count; q += 4) {
        const philox::Words words = philox::generate(seed, stream, row, static_cast<std::uint32_t>(q / 4));
        for (index p = 0; p < 4 && q + p < count; ++p) out[q + p] = static_cast<T>(philox::between(low, high, words.w[p]));
    }
}

template <class T>
GNFAST_INLINE void sign_all(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, T* out, index count) {
    for (index q = 0; q < count; q += 128) {
        const philox::Words words = philox::generate(seed, stream, row, static_cast<std::uint32_t>(q / 128));
        for (index p = 0; p < 128 && q + p < count; ++p) out[q + p] = philox::positive(words, p) ? T(1) : T(-1);
    }
}

template <class T>
GNFAST_INLINE void combine_all(T alpha, const T* x, T beta, T* y, index count) {
    if (alpha == T(0) && beta == T(0))
        for (index q = 0; q < count; ++q) y[q] = T(0);
    else if (beta == T(0))
        for (index q = 0; q < count; ++q) y[q] = alpha * x[q];
    else if (alpha == T(0))
        for (index q = 0; q < count; ++q) y[q] *= beta;
    else
        for (index q = 0; q < count; ++q) y[q] = alpha * x[q] + beta * y[q];
}

template <class T>
GNFAST_INLINE void multiply_accumulate_all(const T* a, const T* b, T* k, index count) {
    for (index q = 0; q < count; ++q) k[q] += a[q] * b[q];
}

template <class T>
GNFAST_INLINE void multiply_all(const T* d, T* x, index count) {
    for (index q = 0; q < count; ++q) x[q] *= d[q];
}

template <class T>
GNFAST_INLINE void asymmetry_all(const T* tile, const T* mirror, index stride, index rows, index cols, Extremes<T>& seen) {
    const auto grow = [](T& most, T value) { most = value > most ? value : most; };
    const auto size = [](T x) { return x < 0 ? -x : x; };
    T scale = seen.scale, difference = seen.difference, zero = seen.zero;
    for (index i = 0; i < rows; ++i)
        for (index j = 0; j < cols; ++j) {
            const T a = tile[i * stride + j], b = mirror[j * stride + i];
            zero += (a + b) * T(0);
            grow(scale, size(a));
            grow(scale, size(b));
            grow(difference, size(a - b));
        }
    seen = {scale, difference, zero};
}

}  // namespace

#define GNFAST_INSTANTIATE(T)                                                                                                             \
    GNFAST_CLONES void contract_out(const T* rows, index row_step, index r, index m, const T* t, index t_step, index s, Strided<T> u) {   \
        out_all<T>(rows, row_step, r, m, t, t_step, s, u);                                                                                \
    }                                                                                                                                     \
    GNFAST_CLONES void contract_in(const T* rows, index row_step, index r, index m, Strided<const T> u, index s, T beta, T* out,          \
                                   index out_step) {                                                                                      \
        in_all<T>(rows, row_step, r, m, u, s, beta, out, out_step);                                                                       \
    }                                                                                                                                     \
    GNFAST_CLONES void multiply_accumulate(const T* a, const T* b, T* k, index count) { multiply_accumulate_all<T>(a, b, k, count); }     \
    GNFAST_CLONES void asymmetry(const T* tile, const T* mirror, index stride, index rows, index cols, Extremes<T>& seen) {               \
        asymmetry_all<T>(tile, mirror, stride, rows, cols, seen);                                                                         \
    }                                                                                                                                     \
    GNFAST_CLONES void symmetric_tile(const T* tile, index stride, index rows, index cols, const T* x, const T* y, T* down, T* across,    \
                                      index step, index s) {                                                                              \
        symmetric_all<T>(tile, stride, rows, cols, x, y, down, across, step, s);                                                          \
    }                                                                                                                                     \
    GNFAST_CLONES void multiply(const T* d, T* x, index count) { multiply_all<T>(d, x, count); }                                          \
    GNFAST_CLONES void combine(T alpha, const T* x, T beta, T* y, index count) { combine_all<T>(alpha, x, beta, y, count); }              \
    void sign_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, T* out, index count) {                                     \
        sign_all<T>(seed, stream, row, out, count);                                                                                       \
    }                                                                                                                                     \
    GNFAST_CLONES void normal_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, std::uint64_t first, double scale, T* out, \
                                  index count) {                                                                                          \
        normal_all<T>(seed, stream, row, first, scale, out, count);                                                                       \
    }                                                                                                                                     \
    void uniform_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, double low, double high, T* out, index count) {         \
        uniform_all<T>(seed, stream, row, low, high, out, count);                                                                         \
    }

GNFAST_INSTANTIATE(float)
GNFAST_INSTANTIATE(double)

}  // namespace gnfast::cpu::kernels
