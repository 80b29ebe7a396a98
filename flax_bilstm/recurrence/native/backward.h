// The backward pass of one direction: dz, the gradient of the gates before σ and tanh. The
// gradients of weights and inputs are products of dz, computed after all steps.

#ifndef FLAX_BILSTM_BACKWARD_H_
#define FLAX_BILSTM_BACKWARD_H_

#include "activations.h"
#include "product.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

template <typename T>
class BackwardPass {
 public:
  using Pass = Backward<T>;
  static constexpr Size kTile = kRows;  // of the batch, computed together
  static constexpr Size kPanel = kGates * kLanes<T>;  // hidden units

  // A panel holds W_hh transposed, (4 hidden, kPanel). Columns past the last unit are 0.
  static Size panels(const Pass& pass) {
    return reads_weights_in_place<T>(pass.batch, pass.hidden) ? 0
                                                              : whole_vectors(pass.hidden, kPanel);
  }
  static Size count(const Pass& pass) { return pass.batch; }
  static Size panel_size(const Pass& pass) { return kGates * pass.hidden * kPanel; }
  static void pack(const Pass& pass, Size panel, T* packed) {
    T* to = packed + panel * panel_size(pass);
    const Size columns = kGates * pass.hidden;
    for (Size k = 0; k < kPanel; ++k) {
      const Size unit = panel * kPanel + k;
      const T* from = pass.kernel_hh + unit * columns;
      for (Size column = 0; column < columns; ++column) {
        to[column * kPanel + k] = unit < pass.hidden ? from[column] : T{0};
      }
    }
  }

  static Size scratch_size(const Pass& pass, Size rows) { return 2 * rows * width(pass); }

  static void run(const Pass& pass, Size begin, Size end, const T* packed, T* scratch) {
    BackwardPass part(pass, begin, end - begin, scratch);
    for (Size step = 0; step < pass.time; ++step) {
      const Size t = pass.reverse ? step : pass.time - 1 - step;
      part.differentiate_gates(t);
      if (panels(pass)) {
        part.multiply_packed(t, packed);
      } else {
        part.multiply_in_place(t);
      }
    }
    part.write_initial_state();
  }

 private:
  static Size width(const Pass& pass) { return whole_vectors(pass.hidden, kPanel) * kPanel; }

  BackwardPass(const Pass& pass, Size begin, Size rows, T* scratch)
      : pass_(pass),
        begin_(begin),
        rows_(rows),
        width_(width(pass)),
        d_cell_(scratch),
        d_hidden_(scratch + rows * width_) {
    for (Size row = 0; row < rows; ++row) {
      for (Size unit = 0; unit < width_; unit += kLanes<T>) {
        const Size from = (begin + row) * pass.hidden + unit, count = pass.hidden - unit;
        store(d_cell_ + row * width_ + unit, load(pass.d_c_n + from, count));
        store(d_hidden_ + row * width_ + unit, load(pass.d_h_n + from, count));
      }
    }
  }

  bool valid(Size t, Size row) const { return t < pass_.lengths[begin_ + row]; }
  T* dz(Size t, Size row) const {
    return pass_.dz + pass_.row_of(t, begin_ + row) * kGates * pass_.hidden;
  }

  void differentiate_gates(Size t) {
    for (Size row = 0; row < rows_; ++row) {
      if (!valid(t, row)) {
        std::memset(dz(t, row), 0, static_cast<std::size_t>(kGates * pass_.hidden) * sizeof(T));
        continue;
      }
      for (Size unit = 0; unit < pass_.hidden; unit += kLanes<T>) differentiate(t, row, unit);
    }
  }

  inline void differentiate(Size t, Size row, Size unit) {
    const Size count = pass_.hidden - unit, state = row * width_ + unit;
    const Size step = pass_.row_of(t, begin_ + row);
    Vector<T> gates[kGates];
    for (Size gate = 0; gate < kGates; ++gate) {
      gates[gate] = load(pass_.gates + (step * kGates + gate) * pass_.hidden + unit, count);
    }
    const auto& [i, f, g, o] = gates;
    const Vector<T> previous = load(pass_.cells + step * pass_.hidden + unit, count);
    const Vector<T> tanh_cell = tanh<T>(fma(f, previous, i * g));
    const T* d_output = pass_.d_outputs + step * pass_.output_stride();
    const Vector<T> d_hidden = load(d_output + unit, count) + load(d_hidden_ + state);
    const Vector<T> one = broadcast(T{1});
    const Vector<T> d_cell =
        fma(d_hidden * o, fma(-tanh_cell, tanh_cell, one), load(d_cell_ + state));
    T* to = dz(t, row) + unit;
    store(to, d_cell * g * (i * (one - i)), count);
    store(to + pass_.hidden, d_cell * previous * (f * (one - f)), count);
    store(to + 2 * pass_.hidden, d_cell * i * fma(-g, g, one), count);
    store(to + 3 * pass_.hidden, d_hidden * tanh_cell * (o * (one - o)), count);
    store(d_cell_ + state, d_cell * f);
  }

  // dh of the step before: dz W_hh transposed. In the padding dh is unchanged.
  void multiply_packed(Size t, const T* packed) {
    const Size depth = kGates * pass_.hidden, stride = pass_.sequence_stride() * depth;
    for_panels(t, panels(pass_), [&](Size number) {
      const Size unit = number * kPanel;
      const T* panel = packed + number * panel_size(pass_);
      for_row_tiles(rows_, [&](auto number, Size first) {
        constexpr int rows = decltype(number)::value;
        Vector<T> tile[rows][kGates] = {};
        multiply(tile, dz(t, first), stride, 1, depth, panel, kPanel);
        for (int row = 0; row < rows; ++row) {
          if (!valid(t, first + row)) continue;
          for (int v = 0; v < kGates; ++v) {
            store(d_hidden_ + (first + row) * width_ + unit + v * kLanes<T>, tile[row][v]);
          }
        }
      });
    });
  }

  // The same from W_hh without packing: each unit is a product of two rows.
  void multiply_in_place(Size t) {
    constexpr int kUnits = 8;  // computed together: 8 sums hide the latency of an addition
    const auto multiply_all = [&](auto number, Size unit) {
      for (Size row = 0; row < rows_; ++row) {
        if (!valid(t, row)) continue;
        multiply_rows<decltype(number)::value>(t, row, unit, d_hidden_ + row * width_);
      }
    };
    const Size groups = pass_.hidden / kUnits;
    for_panels(t, groups, [&](Size group) {
      multiply_all(std::integral_constant<int, kUnits>{}, group * kUnits);
    });
    for (Size unit = groups * kUnits; unit < pass_.hidden; ++unit) {
      multiply_all(std::integral_constant<int, 1>{}, unit);
    }
  }

  template <int Units>
  inline void multiply_rows(Size t, Size row, Size unit, T* to) {
    const Size depth = kGates * pass_.hidden;
    const T* a = dz(t, row);
    const T* b = pass_.kernel_hh + unit * depth;
    Vector<T> sums[Units] = {};
    for (Size k = 0; k < depth; k += kLanes<T>) {
      const Vector<T> a_k = load(a + k, depth - k);
      for (int u = 0; u < Units; ++u) {
        sums[u] = fma(a_k, load(b + u * depth + k, depth - k), sums[u]);
      }
    }
    for (int u = 0; u < Units; ++u) to[unit + u] = sum<T>(sums[u]);
  }

  void write_initial_state() const {
    const Size size = pass_.hidden;
    copy_rows(pass_.d_h_0 + begin_ * size, size, d_hidden_, width_, rows_, size);
    copy_rows(pass_.d_c_0 + begin_ * size, size, d_cell_, width_, rows_, size);
  }

  const Pass& pass_;
  const Size begin_, rows_;
  const Size width_;  // of a row of the states: whole panels
  T *const d_cell_, *const d_hidden_;
};

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_BACKWARD_H_
