// How exactly products of matrices in float32 are made: PyTorch's names.
#pragma once

namespace gnfast::cuda {

// highest: float32 throughout. high: factors rounded to TensorFloat-32, 10 bits. medium: to bfloat16, 7 bits. Sums in float32 always.
enum class Precision { highest, high, medium };

void set_precision(Precision precision);  // of all threads
// What products are made in now: what was set, or the highest within FullPrecision.
Precision precision_now();

// While one of these lives, this thread's products are made in the highest precision.
class FullPrecision {
   public:
    FullPrecision();
    ~FullPrecision();
    FullPrecision(const FullPrecision&) = delete;
    FullPrecision& operator=(const FullPrecision&) = delete;
};

}  // namespace gnfast::cuda
