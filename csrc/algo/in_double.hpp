// The numbers of a view in double: the view itself, or a copy of it; nothing of nothing.
#pragma once

#include <type_traits>

#include "core/types.hpp"

namespace gnfast {

template <class B, class T>
class InDouble {
   public:
    InDouble(B& backend, View<const T> from) {
        if (!from.data) return;
        if constexpr (std::is_same_v<T, double>) {
            view_ = from;
        } else {
            owner_ = backend.template allocate<double>(from.rows * from.cols);
            const View<double> to(owner_.data(), from.rows, from.cols);
            backend.copy(from, to);
            view_ = to;
        }
    }
    View<const double> view() const { return view_; }

   private:
    typename B::template buffer<double> owner_;
    View<const double> view_;
};

}  // namespace gnfast
