// The factored product u = sum_l B_l . (A_{l-1} dW_l^T), dW_l = (sum_c u_c B_{l,c})^T A_{l-1} in one go: a block of
// outputs at a time, the contraction with the backward rows done while the products with A are still in the second-level cache.
//
// Samples lie side by side in panels as wide as two registers, so that both contractions are plain vector steps and no
// direction has to be transposed. Two instruction sets are compiled, one is chosen at run time; every function works on one thread.
#pragma once

#include "core/types.hpp"

namespace gnfast::cpu::panels {

// Rows of a block: outputs of the layer times vectors. With the 256 numbers of inner length that are worked on at a time, and
// with a block of samples, it fills about 300 KiB of a second-level cache.
template <class T>
constexpr index block_rows = 384 / index(sizeof(T));
constexpr index inner = 256;               // inner length of one pass of the inner kernel: its panel stays in the first-level cache
constexpr index left_stride = inner + 16;  // apart from a power of two
constexpr index sample_block = 512;

// Numbers side by side in a panel on this processor; 0 where no kernels were compiled for it.
template <class T>
index width();

// One dense layer, packed: panels of `width` samples, the last one filled up with zeros, and of `width` columns of the inputs.
template <class T>
struct Layer {
    index samples, fan_in, fan_out, r, width;
    T* by_sample;  // inputs (panels, fan_in, width)
    T* by_column;  // inputs (column panels, samples, width)
    T* rows;       // backward rows (panels, fan_out, r, width)
};

// The panels from `first` to before `last`, of samples and of columns: inputs (samples, fan_in), rows (samples r, fan_out).
template <class T>
void pack_samples(View<const T> inputs, View<const T> rows, const Layer<T>& layer, index first, index last);
template <class T>
void pack_columns(View<const T> inputs, const Layer<T>& layer, index first, index last);

// The weights (fan_out, fan_in) of `vectors` parameter vectors, `step` numbers apart, of which the outputs first ... first + count - 1
// are worked on; count times vectors is at most block_rows. No bias: null.
template <class T>
struct Block {
    index first, count, vectors;
    T *weight, *bias;
    index step;

    index rows() const { return count * vectors; }  // ordered (output, vector)
    T* weight_row(index row, index fan_in) const { return weight + row % vectors * step + (first + row / vectors) * fan_in; }
    T& bias_of(index row) const { return bias[row % vectors * step + first + row / vectors]; }
};

// Numbers of scratch that each of the two below needs.
template <class T>
constexpr index scratch = block_rows<T> * (left_stride + sample_block + 32);

// u (panels, vectors, r, width) += B . (A dW^T + db) of these outputs.
template <class T>
void project(const Layer<T>& layer, const Block<const T>& block, T* u, T* work);

// dW = (sum_c u_c B_c)^T A and db of these outputs, written over.
template <class T>
void gradient(const Layer<T>& layer, const T* u, const Block<T>& block, T* work);

// A matrix b (rows, length) packed once for many products with few rows: (slices of the length, panels of rows, length of the
// slice, width), the last panel filled up with zeros; the panels from `first` to before `last`.
template <class T>
void pack_matrix(View<const T> b, index first, index last, T* packed);

// The columns of out = a b^T in these panels, a (any rows, length); scratch of block_rows (left_stride + width()).
template <class T>
void multiply_packed(View<const T> a, const T* packed, index first, index last, View<T> out, T* work);

}  // namespace gnfast::cpu::panels
