// How the windows of a kernel lie on an image: the index arithmetic of convolutions and pooling, host and device.
#pragma once

#include "core/pointwise.hpp"
#include "core/types.hpp"

namespace gnfast {

// One axis of it. Position `at` and tap `tap` of the kernel read the pixel at * stride + tap * dilation - before.
struct Axis {
    index size = 1;    // pixels
    index kernel = 1;  // taps
    index stride = 1;
    index dilation = 1;
    index before = 0;     // padding in front; what is behind only shows in `positions`
    index positions = 1;  // of the window

    // The pixel, or -1 in the padding, where a circular image goes on from its other end (once: padding is no longer than it).
    GNFAST_HD index pixel(index at, index tap, bool circular) const {
        const index found = at * stride + tap * dilation - before;
        if (found >= 0 && found < size) return found;
        return !circular ? -1 : found < 0 ? found + size : found - size;
    }
    // The position at which the tap reads the pixel, or -1; a circular image's pixels also lie a `size` before and behind it.
    GNFAST_HD index position(index pixel, index tap) const {
        const index found = pixel + before - tap * dilation, at = stride == 1 ? found : found / stride;
        return found < 0 || at * stride != found || at >= positions ? -1 : at;
    }
    // The positions [first, last) at which the tap reads a pixel and no padding.
    GNFAST_HD index first(index tap) const {
        const index behind = before - tap * dilation;
        return behind <= 0 ? 0 : smaller(ceil_div(behind, stride), positions);
    }
    GNFAST_HD index last(index tap) const {
        const index room = size + before - tap * dilation;
        return room <= 0 ? 0 : smaller(ceil_div(room, stride), positions);
    }

    // Whether position `at` reads pixel `at`, each once. A stride may give as many positions as pixels too, with padding behind.
    GNFAST_HD bool trivial() const { return kernel == 1 && before == 0 && positions == size && (stride == 1 || positions == 1); }

   private:
    GNFAST_HD static index smaller(index a, index b) { return a < b ? a : b; }
};

// An image is (channels, height, width), a patch (channels, taps of y, taps of x) at each of the positions.
struct Windows {
    index channels = 1;
    Axis y, x;
    bool circular = false;

    GNFAST_HD index pixels() const { return y.size * x.size; }
    GNFAST_HD index inputs() const { return channels * pixels(); }
    GNFAST_HD index positions() const { return y.positions * x.positions; }
    GNFAST_HD index taps() const { return y.kernel * x.kernel; }
    GNFAST_HD index patch() const { return channels * taps(); }
    // Whether the patches are the image itself.
    GNFAST_HD bool trivial() const { return y.trivial() && x.trivial(); }
};

}  // namespace gnfast
