// A solver's state between two steps, as named matrices on the host that a caller can put away and hand back.
#pragma once

#include <deque>
#include <memory>
#include <type_traits>

#include "algo/solvers/options.hpp"
#include "algo/solvers/orthonormalize.hpp"

namespace gnfast::solvers {

constexpr const char* foreign_snapshot = "the saved state is of another search";

// Long vectors are referred to where they lie on the host, else copied, as small numbers are: parts() is valid as long as the writer and
// the vectors are.
class SnapshotWriter {
   public:
    template <class B, class T>
    void vectors(B& backend, const char* name, View<const T> rows) {
        auto room = std::make_shared<std::vector<T>>();
        const View<const T> host = backend.on_host(rows, *room);
        vectors_.push_back(std::move(room));
        parts_.push_back({name, host.data, host.rows, host.cols, std::is_same_v<T, double>});
    }
    void numbers(const char* name, std::vector<double> values) {
        numbers_.push_back(std::move(values));
        parts_.push_back({name, numbers_.back().data(), 1, index(numbers_.back().size()), true});
    }
    void numbers(const char* name, const Small& matrix) {
        numbers_.push_back(matrix.values);
        parts_.push_back({name, numbers_.back().data(), matrix.rows, matrix.cols, true});
    }
    const Snapshot& parts() const { return parts_; }

   private:
    std::vector<std::shared_ptr<void>> vectors_;
    std::deque<std::vector<double>> numbers_;  // a deque: addresses stay
    Snapshot parts_;
};

// Each part has the shape that the rest of the state says, or the state is refused.
class SnapshotReader {
   public:
    explicit SnapshotReader(const Snapshot& parts) : parts_(parts) {}

    template <class T>
    View<const T> vectors(const char* name, index rows, index cols) const {
        return {static_cast<const T*>(find(name, rows, cols, std::is_same_v<T, double>).data), rows, cols};
    }
    std::vector<double> numbers(const char* name, index rows, index cols) const {
        const auto* first = static_cast<const double*>(find(name, rows, cols, true).data);
        return {first, first + rows * cols};
    }

   private:
    const Part& find(const char* name, index rows, index cols, bool is_double) const {
        for (const Part& part : parts_)
            if (part.name == name && part.rows * part.cols == rows * cols && (rows * cols == 0 || part.cols == cols) &&
                part.is_double == is_double)
                return part;
        throw saved_state_error(foreign_snapshot);
    }

    const Snapshot& parts_;
};

}  // namespace gnfast::solvers
