// The gradients of one direction's weights: the transpose of [x, h of the step before, 1] times dz,
// summed over all steps and sequences.

#ifndef FLAX_BILSTM_WEIGHT_GRADIENTS_H_
#define FLAX_BILSTM_WEIGHT_GRADIENTS_H_

#include "product.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

template <typename T>
class WeightGradientsPass {
 public:
  using Pass = WeightGradients<T>;
  static constexpr Size kPanel = kGates * kLanes<T>;  // columns of dz
  static constexpr Size kDepth = 128;  // summed in registers at once; such a panel of dz fits in L1

  static constexpr Size kTile = 1;
  static Size count(const Pass& pass) { return whole_vectors(kGates * pass.hidden, kPanel); }
  static Size panels(const Pass&) { return 0; }
  static Size panel_size(const Pass&) { return 0; }
  static void pack(const Pass&, Range, T*) {}
  static Size scratch_size(const Pass& pass, Size) { return kDepth * (width(pass) + kPanel); }

  // The columns of dz from panel `begin` to panel `end`.
  static void run(const Pass& pass, Size begin, Size end, const T*, T* scratch) {
    WeightGradientsPass part(pass, scratch);
    for (Size panel = begin; panel < end; ++panel) part.clear(panel * kPanel);
    const Size steps = pass.time * pass.batch;
    for (Size first = 0; first < steps; first += kDepth) {
      const Size depth = steps - first < kDepth ? steps - first : kDepth;
      part.pack_features(first, depth);
      for (Size panel = begin; panel < end; ++panel) {
        part.pack_dz(first, depth, panel * kPanel);
        part.add_products(depth, panel * kPanel);
      }
    }
  }

 private:
  static Size width(const Pass& pass) { return pass.input + pass.hidden + 1; }

  WeightGradientsPass(const Pass& pass, T* scratch)
      : pass_(pass),
        columns_(kGates * pass.hidden),
        width_(width(pass)),
        dz_(scratch),
        features_(scratch + kDepth * kPanel) {}

  // The destination of a feature's gradients: a row of W_ih or of W_hh, or the bias.
  T* gradient(Size feature) const {
    if (feature < pass_.input) return pass_.d_kernel_ih + feature * columns_;
    feature -= pass_.input;
    return feature < pass_.hidden ? pass_.d_kernel_hh + feature * columns_ : pass_.d_bias;
  }

  void clear(Size column) const {
    for (Size feature = 0; feature < width_; ++feature) {
      for (Size v = column; v < column + kPanel; v += kLanes<T>) {
        store(gradient(feature) + v, Vector<T>{}, columns_ - v);
      }
    }
  }

  // (depth, width): x, the h before the step, and 1; all 0 in the padding.
  void pack_features(Size first, Size depth) {
    T* to = features_;
    for (Size step = first; step < first + depth; ++step, to += width_) {
      const Size t = step / pass_.batch, row = step % pass_.batch;
      if (t >= pass_.lengths[row]) {
        std::memset(to, 0, static_cast<std::size_t>(width_) * sizeof(T));
        continue;
      }
      std::memcpy(to, pass_.x + pass_.row_of(t, row) * pass_.input,
                  static_cast<std::size_t>(pass_.input) * sizeof(T));
      std::memcpy(to + pass_.input, hidden_before(t, row),
                  static_cast<std::size_t>(pass_.hidden) * sizeof(T));
      to[width_ - 1] = T{1};
    }
  }

  const T* hidden_before(Size t, Size row) const {
    const Size before = pass_.reverse ? t + 1 : t - 1;
    if (before < 0 || before >= pass_.lengths[row]) return pass_.h_0 + row * pass_.hidden;
    return pass_.outputs + pass_.row_of(before, row) * pass_.output_stride();
  }

  void pack_dz(Size first, Size depth, Size column) {
    for (Size k = 0; k < depth; ++k) {
      const Size t = (first + k) / pass_.batch, row = (first + k) % pass_.batch;
      const T* from = pass_.dz + pass_.row_of(t, row) * columns_;
      for (Size v = 0; v < kPanel; v += kLanes<T>) {
        store(dz_ + k * kPanel + v, load(from + column + v, columns_ - column - v));
      }
    }
  }

  void add_products(Size depth, Size column) const {
    for_row_tiles(width_, [&](auto number, Size first) {
      constexpr int rows = decltype(number)::value;
      Vector<T> tile[rows][kGates] = {};
      multiply(tile, features_ + first, 1, width_, depth, dz_, kPanel);
      for (int row = 0; row < rows; ++row) {
        T* to = gradient(first + row) + column;
        for (Size v = 0; v < kGates; ++v, to += kLanes<T>) {
          const Size left = columns_ - column - v * kLanes<T>;
          store(to, load(to, left) + tile[row][v], left);
        }
      }
    });
  }

  const Pass& pass_;
  const Size columns_;  // of dz and of every gradient
  const Size width_;    // of the features
  T *const dz_, *const features_;
};

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_WEIGHT_GRADIENTS_H_
