// Small matrices that a step leaves in the backend's memory, to be multiplied by, and that the host reads together at its end.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "core/backend.hpp"

namespace gnfast::solvers {

// Numbers on the host in double, row-major: what every solver projects to.
struct Small {
    index rows = 0, cols = 0;
    std::vector<double> values;

    Small() = default;
    Small(index rows_, index cols_) : rows(rows_), cols(cols_), values(static_cast<std::size_t>(rows_ * cols_)) {}
    double& operator()(index i, index j) { return values[static_cast<std::size_t>(i * cols + j)]; }
    double operator()(index i, index j) const { return values[static_cast<std::size_t>(i * cols + j)]; }
};

// read() waits once for all that was added, or once a page where a step had more than any before it.
template <class B>
class Board {
   public:
    explicit Board(B& backend) : backend_(backend) {}

    // Not initialised; there until clear().
    template <class T>
    View<T> add(index rows, index cols) {
        const index numbers = ceil_div(rows * cols * index(sizeof(T)), index(sizeof(double)));
        if (pages_.empty() || pages_.back().used + numbers > pages_.back().memory.size()) add_page(std::max(numbers, least_page));
        Page& page = pages_.back();
        T* const first = reinterpret_cast<T*>(page.memory.data() + page.used);
        page.used += numbers;
        return {first, rows, cols};
    }

    void read() {
        for (Page& page : pages_)
            page.host = page.used == 0 ? nullptr : backend_.on_host(View<const double>(page.memory.data(), 1, page.used), page.room).data;
    }

    // What was in it when it was read.
    template <class T>
    Small operator[](View<T> place) const {
        Small out(place.rows, place.cols);
        if (out.values.empty()) return out;
        const auto address = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
        for (const Page& page : pages_) {
            const std::uintptr_t first = address(page.memory.data()), at = address(place.data);
            if (at < first || at >= first + sizeof(double) * static_cast<std::size_t>(page.used)) continue;
            const char* from = reinterpret_cast<const char*>(page.host) + (at - first);
            for (double& value : out.values) {
                std::remove_const_t<T> number;
                std::copy_n(from, sizeof(T), reinterpret_cast<char*>(&number));
                value = double(number), from += sizeof(T);
            }
            return out;
        }
        throw std::logic_error("a small matrix was asked for that is not on the board");
    }

    // Makes room for the next step, in one page.
    void clear() {
        index numbers = 0;
        for (const Page& page : pages_) numbers += page.memory.size();
        if (pages_.size() > 1) pages_.clear(), add_page(numbers);
        for (Page& page : pages_) page.used = 0;
    }

   private:
    struct Page {
        typename B::template buffer<double> memory;
        index used = 0;
        std::vector<double> room;
        const double* host = nullptr;
    };

    void add_page(index numbers) {
        pages_.emplace_back();
        pages_.back().memory = backend_.template allocate<double>(numbers);
    }

    static constexpr index least_page = 1 << 13;
    B& backend_;
    std::deque<Page> pages_;
};

}  // namespace gnfast::solvers
