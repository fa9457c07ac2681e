#include "cuda/precision.hpp"

#include <atomic>

namespace gnfast::cuda {
namespace {

std::atomic<Precision> chosen{Precision::highest};
thread_local int full = 0;

}  // namespace

void set_precision(Precision precision) { chosen = precision; }
Precision precision_now() { return full > 0 ? Precision::highest : chosen.load(); }

FullPrecision::FullPrecision() { ++full; }
FullPrecision::~FullPrecision() { --full; }

}  // namespace gnfast::cuda
