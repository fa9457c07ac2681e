// An operator of any size as one of about 1: a power of two is taken out, which costs no digit, so that no square under- or overflows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "algo/solvers/options.hpp"
#include "core/backend.hpp"

namespace gnfast::solvers {

// 2^-exponent A. The exponent is settled by the first product that is not zero; it stays 0, and products are those of A, where |A v| / |v|
// lies in a window whose ends leave room for squares of residuals, eps |A|, and of inverses.
template <class B, class T>
class InUnits {
   public:
    InUnits(B& backend, Apply<T> apply, index size) : backend_(backend), apply_(std::move(apply)), size_(size) {}

    int exponent() const { return exponent_; }

    // By a product with a random vector, where none was made before; for A + at_least I, so to speak.
    void settle(double at_least) {
        if (std::exchange(settled_, true)) return;
        double size = probe();
        if (at_least > std::ldexp(size, -shift_)) size = at_least, shift_ = 0;
        take_out(size);
    }

    void operator()(View<const T> in, View<T> out) {
        if (exponent_ != 0) return scaled(in, out);
        apply_(in, out);
        if (settled_) return;
        const double before = largest(in), after = largest(View<const T>(out));
        if (after == 0 || before == 0) return;
        settled_ = true;
        if (std::isfinite(after) && in_window(after / before)) return;
        take_out(probe());
        if (exponent_ != 0) scaled(in, out);
    }

   private:
    static constexpr bool is_double = std::is_same_v<T, double>;
    static constexpr double top = is_double ? 1e60 : 1e8;
    static constexpr int far = is_double ? 500 : 60;  // by which a vector is made larger or smaller where a product is lost at its size

    static bool in_window(double size) { return size > 1 / top && size < top; }

    void take_out(double size) {
        if (size > 0 && std::isfinite(size) && !in_window(std::ldexp(size, -shift_))) exponent_ = std::ilogb(size) - shift_;
    }

    // The size of A v, v a random vector with entries of about 2^shift_; 0 where A is zero, infinite or NaN where its entries are.
    double probe() {
        auto buffer = backend_.template allocate<T>(2 * size_);
        const View<T> v(buffer.data(), 1, size_), y(buffer.data() + size_, 1, size_);
        double size = 0;
        for (const int shift : {0, far, -far}) {
            shift_ = shift;
            backend_.fill_normal(v, 0, 0x756e6974, std::ldexp(1.0, shift));
            apply_(View<const T>(v), y);
            size = largest(View<const T>(y));
            if (size >= double(std::numeric_limits<T>::min()) && std::isfinite(size)) break;
        }
        return size;
    }

    double largest(View<const T> rows) {
        std::vector<double> squares;
        backend_.row_dots(rows, rows, squares);
        double square = 0;
        for (const double one : squares) square = one > square || std::isnan(one) ? one : square;
        if (square > 1e-200 && square < 1e200) return std::sqrt(square / double(rows.cols));
        std::vector<T> room;  // squares that were lost
        const View<const T> host = backend_.on_host(rows, room);
        double size = 0;
        for (index i = 0; i < host.rows; ++i)
            for (index j = 0; j < host.cols; ++j)
                if (const double one = std::abs(double(host.row(i)[j])); one > size || std::isnan(one)) size = one;
        return size;
    }

    // Half of the power before the product and half after it, so that what lies between, as J v, has a middling size.
    void scaled(View<const T> in, View<T> out) {
        const int before = -exponent_ / 2, after = -exponent_ - before;
        auto buffer = backend_.template allocate<T>(in.rows * in.cols);
        const View<T> v(buffer.data(), in.rows, in.cols);
        const std::vector<double> none(static_cast<std::size_t>(in.rows)), first(none.size(), std::ldexp(1.0, before)),
            second(none.size(), std::ldexp(1.0, after));
        backend_.combine_rows(first, in, none, v);
        apply_(View<const T>(v), out);
        backend_.combine_rows(none, View<const T>(v), second, out);
    }

    B& backend_;
    Apply<T> apply_;
    index size_;
    bool settled_ = false;
    int exponent_ = 0, shift_ = 0;
};

}  // namespace gnfast::solvers
