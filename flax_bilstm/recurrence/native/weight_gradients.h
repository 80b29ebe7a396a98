// The gradients of W_ih, W_hh and the bias of one direction: sums over all steps of all sequences of
// (x, h of the step before, 1) times dz.

#ifndef FLAX_BILSTM_WEIGHT_GRADIENTS_H_
#define FLAX_BILSTM_WEIGHT_GRADIENTS_H_

#include "product.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

// Columns of the weights are computed in blocks, on any thread. Steps are summed in groups, and then
// the groups: long sums lose less so, and what a group reads stays in the cache for all blocks.
template <typename T>
class WeightGradientsOfBlocks {
 public:
  using Pass = WeightGradients<T>;

  static Size blocks(const Pass& pass) { return whole_vectors(kGates * pass.hidden, kBlock); }

  static void run(const Pass& pass, Size begin, Size end) {
    WeightGradientsOfBlocks part(pass, begin * kBlock, end * kBlock);
    part.clear(pass.d_kernel_ih, pass.input);
    part.clear(pass.d_kernel_hh, pass.hidden);
    part.clear(pass.d_bias, 1);
    for (Size t = 0; t < pass.time; ++t) {
      for (Size row = 0; row < pass.batch; ++row) {
        if (t < pass.lengths[row]) part.append(t, row);
      }
    }
    part.add_group();
  }

 private:
  static constexpr Size kBlock = kGates * kLanes<T>;  // columns
  static constexpr Size kSteps = 128;  // of a group: its dz of a block stays in the first cache

  WeightGradientsOfBlocks(const Pass& pass, Size begin, Size end)
      : pass_(pass), begin_(begin), end_(end), columns_(kGates * pass.hidden) {}

  void clear(T* gradient, Size rows) const {
    for (Size row = 0; row < rows; ++row) {
      for (Size column = begin_; column < end_; column += kLanes<T>) {
        store(gradient + row * columns_ + column, Vector<T>{}, columns_ - column);
      }
    }
  }

  void append(Size t, Size row) {
    const Size step = t * pass_.batch + row;
    x_[steps_] = pass_.x + step * pass_.input;
    hidden_[steps_] = previous_hidden(t, row);
    one_[steps_] = &kOne;
    dz_[steps_] = pass_.dz + step * columns_;
    if (++steps_ == kSteps) add_group();
  }

  const T* previous_hidden(Size t, Size row) const {
    const Size first = pass_.reverse ? pass_.lengths[row] - 1 : 0;
    if (t == first) return pass_.h_0 + row * pass_.hidden;
    const Size before = pass_.reverse ? t + 1 : t - 1;
    return pass_.outputs + (before * pass_.batch + row) * pass_.output_stride;
  }

  void add_group() {
    for (Size column = begin_; column < end_; column += kBlock) {
      for (Size step = 0; step < steps_; ++step) {
        for (Size k = 0; k < kBlock; k += kLanes<T>) {
          store(block_[step] + k, load(dz_[step] + column + k, columns_ - column - k));
        }
      }
      add_products(x_, pass_.input, pass_.d_kernel_ih, column);
      add_products(hidden_, pass_.hidden, pass_.d_kernel_hh, column);
      add_products(one_, 1, pass_.d_bias, column);
    }
    steps_ = 0;
  }

  // gradient += a transposed times dz in the block at `column`; `a` has one row for each step.
  void add_products(const T* const* a, Size rows, T* gradient, Size column) const {
    for_row_tiles(0, rows, [&](auto number, Size first) {
      constexpr int count = decltype(number)::value;
      Vector<T> tile[count][kGates] = {};
      for (Size step = 0; step < steps_; ++step) {
        Vector<T> b[kGates];
        for (int v = 0; v < kGates; ++v) b[v] = load(block_[step] + v * kLanes<T>);
        for (int row = 0; row < count; ++row) {
          const Vector<T> a_row = broadcast(a[step][first + row]);
          for (int v = 0; v < kGates; ++v) tile[row][v] = fma(a_row, b[v], tile[row][v]);
        }
      }
      for (int row = 0; row < count; ++row) {
        for (int v = 0; v < kGates; ++v) {
          const Size at = column + v * kLanes<T>;
          T* to = gradient + (first + row) * columns_ + at;
          store(to, load(to, columns_ - at) + tile[row][v], columns_ - at);
        }
      }
    });
  }

  static constexpr T kOne = 1;
  const Pass& pass_;
  const Size begin_, end_, columns_;  // of the weights: ours, and how many there are
  Size steps_ = 0;                    // in the group so far
  const T *x_[kSteps], *hidden_[kSteps], *one_[kSteps], *dz_[kSteps];
  alignas(kVectorBytes) T block_[kSteps][kBlock];
};

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_WEIGHT_GRADIENTS_H_
