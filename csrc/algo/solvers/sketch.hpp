// What XTrace and XDiag know of an operator: its image of some test vectors, from which each of them can be left out afterwards.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "algo/solvers/probes.hpp"
#include "algo/solvers/small.hpp"

namespace gnfast::solvers {

// Test vectors W (m, size) with A W = C Q, Q orthonormal rows, and what leaving one of them out needs: H = Q A Q^T and W Q^T.
template <class B, class T>
class Sketch {
   public:
    // keep_image: A Q stays, which is one more block of vectors.
    Sketch(B& backend, const Apply<T>& apply, index size, Probe kind, std::uint64_t seed, bool keep_image)
        : backend_(backend), apply_(apply), size_(size), kind_(kind), seed_(seed), keep_image_(keep_image), blocks_(backend, seed) {}

    index count() const { return count_; }
    View<T> tests() const { return {tests_.data(), count_, size_}; }
    View<T> basis() const { return {basis_.data(), count_, size_}; }
    View<T> image() const { return {image_.data(), count_, size_}; }  // A Q

    // Adds test vectors until there are m; 2 products each.
    void grow(index m, index block, const Monitor& monitor, const char* stage) {
        reserve(m);
        while (count_ < m) {
            add(std::min(block, m - count_));
            report(monitor, stage, double(2 * count_), double(2 * m));
        }
    }

    Small c, h, w;              // (m, m)
    std::vector<double> forms;  // w^T A w of each test vector
    double scale = 0;           // the largest of |A w|
    Blocks<B, T>& blocks() { return blocks_; }

   private:
    void add(index s) {
        const index old = count_;
        const View<T> test(tests_.data() + old * size_, s, size_), q(basis_.data() + old * size_, s, size_);
        if (!keep_image_ && image_.size() < s * size_) image_ = backend_.template allocate<T>(s * size_);
        const View<T> z(image_.data() + (keep_image_ ? old * size_ : 0), s, size_);
        Board<B>& board = blocks_.board();
        board.clear();
        fill_probes(backend_, kind_, seed_, old, test);
        apply_(View<const T>(test), q);
        const View<const double> seen = blocks_.dots(test, q), squares = blocks_.dots(q, q);
        const View<const T> known(basis_.data(), old, size_);
        const View<const T> taken = blocks_.project_out(known, q);
        const auto passes = blocks_.orthonormalize(known, q);
        board.read();
        for (const double form : finite(board[seen].values)) forms.push_back(form);
        for (const double square : finite(board[squares].values)) scale = std::max(scale, std::sqrt(square));
        const Small before = blocks_.taken(taken, s), within = blocks_.settle(known, q, passes, 4 * apply_.resolution * scale);
        board.clear();
        apply_(View<const T>(q), z);
        count_ += s;
        const View<const T> on_basis = blocks_.inner(z, basis()), of_tests = blocks_.inner(tests(), basis());
        board.read();
        const Small images = board[on_basis];
        finite(images.values);
        w = board[of_tests];
        resize(c), resize(h);
        for (index i = 0; i < s; ++i) {
            for (index j = 0; j < old; ++j) c(old + i, j) = before(i, j);
            for (index j = 0; j < s; ++j) c(old + i, old + j) = within(i, j);
            for (index j = 0; j < old + s; ++j) h(old + i, j) = h(j, old + i) = images(i, j);
        }
    }

    void resize(Small& a) const {
        Small larger(count_, count_);
        for (index i = 0; i < a.rows; ++i)
            for (index j = 0; j < a.cols; ++j) larger(i, j) = a(i, j);
        a = larger;
    }

    void reserve(index m) {
        for (auto* buffer : {&tests_, &basis_, &image_}) {
            if (buffer->size() >= m * size_ || (buffer == &image_ && !keep_image_)) continue;
            auto larger = backend_.template allocate<T>(m * size_);
            if (count_ > 0) backend_.copy(View<const T>(buffer->data(), count_, size_), View<T>(larger.data(), count_, size_));
            *buffer = std::move(larger);
        }
    }

    using Buffer = typename B::template buffer<T>;
    B& backend_;
    const Apply<T>& apply_;
    index size_, count_ = 0;
    Probe kind_;
    std::uint64_t seed_;
    bool keep_image_;
    Blocks<B, T> blocks_;
    Buffer tests_, basis_, image_;
};

}  // namespace gnfast::solvers
