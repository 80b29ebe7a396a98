// The gradient of a layer's inputs: the sum over its directions of dz times W_ih transposed.

#ifndef FLAX_BILSTM_INPUT_GRADIENTS_H_
#define FLAX_BILSTM_INPUT_GRADIENTS_H_

#include "product.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

template <typename T>
class InputGradientsPass {
 public:
  using Pass = InputGradients<T>;
  static constexpr Size kPanel = kGates * kLanes<T>;  // features of the input
  static constexpr Size kDepth = 128;  // summed in registers at once; so much of a panel fits in L1
  static constexpr Size kTile = 16 * kRows;  // rows computed from it while it is there

  static Size count(const Pass& pass) { return pass.time * pass.batch; }
  static Size panels(const Pass& pass) {
    return pass.directions * whole_vectors(pass.input, kPanel);
  }
  static Size panel_size(const Pass& pass) { return kGates * pass.hidden * kPanel; }

  // A panel holds W_ih of one direction transposed, (4 hidden, kPanel). Columns past the last
  // feature are 0.
  static void pack(const Pass& pass, Range panels, T* packed) {
    for (Size panel = panels.begin; panel < panels.end; ++panel) {
      pack_transposed(pass.kernel_ih[panel % pass.directions], panel / pass.directions * kPanel,
                      pass.input, kGates * pass.hidden, kPanel, packed + panel * panel_size(pass));
    }
  }

  static Size scratch_size(const Pass&, Size) { return 0; }

  static void run(const Pass& pass, Size begin, Size end, const T* packed, T*) {
    const Size columns = kGates * pass.hidden;
    for (Size row = begin; row < end; row += kTile) {
      const Range rows{row, row + kTile < end ? row + kTile : end};
      for (Size panel = 0; panel < panels(pass); ++panel) {
        for (Size k = 0; k < columns; k += kDepth) {
          const Range depth{k, k + kDepth < columns ? k + kDepth : columns};
          add_products(pass, rows, depth, panel, packed + panel * panel_size(pass));
        }
      }
    }
  }

 private:
  static void add_products(const Pass& pass, Range rows, Range depth, Size panel, const T* packed) {
    const Size columns = kGates * pass.hidden, direction = panel % pass.directions;
    const Size feature = panel / pass.directions * kPanel;
    const bool first = direction == 0 && depth.begin == 0;
    for_row_tiles(rows.size(), [&](auto number, Size row) {
      constexpr int count = decltype(number)::value;
      T* to = pass.d_x + (rows.begin + row) * pass.input + feature;
      Vector<T> tile[count][kGates] = {};
      multiply(tile, pass.dz[direction] + (rows.begin + row) * columns + depth.begin, columns, 1,
               depth.size(), packed + depth.begin * kPanel, kPanel);
      for (int r = 0; r < count; ++r, to += pass.input) {
        for (Size v = 0; v < kGates; ++v) {
          const Size left = pass.input - feature - v * kLanes<T>;
          const Vector<T> before = first ? Vector<T>{} : load(to + v * kLanes<T>, left);
          store(to + v * kLanes<T>, before + tile[r][v], left);
        }
      }
    });
  }
};

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_INPUT_GRADIENTS_H_
