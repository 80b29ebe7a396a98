// The backward pass of one direction: dz, the gradient of the gates before σ and tanh. The
// gradients of weights and inputs are products of dz, computed after all steps.

#ifndef FLAX_BILSTM_BACKWARD_H_
#define FLAX_BILSTM_BACKWARD_H_

#include "activations.h"
#include "product.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

// Step 0 sets the gradients of the final states. Step k > 0 multiplies dz of the k-th step from the
// end: the gradient of the state before it. Each then computes dz of the step before it.
template <typename T>
class BackwardPass {
 public:
  using Pass = Backward<T>;
  static constexpr Size kTile = kRows;  // of the batch, computed together
  static constexpr Size kPanel = kGates * kLanes<T>;  // hidden units

  // A panel holds W_hh transposed, (4 hidden, kPanel). Columns past the last unit are 0.
  static Size panels(const Pass& pass) {
    return reads_weights_in_place<T>(pass.batch, pass.hidden) ? 0 : blocks(pass);
  }
  static Size count(const Pass& pass) { return pass.batch; }
  static Size blocks(const Pass& pass) { return whole_vectors(pass.hidden, kPanel); }
  static Size panel_size(const Pass& pass) { return kGates * pass.hidden * kPanel; }
  static void pack(const Pass& pass, Range panels, T* packed) {
    for (Size panel = panels.begin; panel < panels.end; ++panel) {
      pack_transposed(pass.kernel_hh, panel * kPanel, pass.hidden, kGates * pass.hidden, kPanel,
                      packed + panel * panel_size(pass));
    }
  }

  static Size scratch_size(const Pass& pass, Size rows) { return 2 * rows * width(pass); }

  static void step(const Pass& pass, Size step, Range rows, Range blocks, const T* packed,
                   T* scratch) {
    BackwardPass part(pass, rows, scratch);
    const auto time = [&](Size k) { return pass.reverse ? k : pass.time - 1 - k; };
    const Range units{blocks.begin * kPanel, blocks.end * kPanel};
    if (step == 0) {
      part.set_final_state(units);
    } else if (panels(pass)) {
      part.multiply_packed(time(step - 1), blocks, packed);
    } else {
      part.multiply_in_place(time(step - 1), units);
    }
    if (step < pass.time) {
      part.differentiate_gates(time(step), units);
    } else {
      part.write_initial_state(units);
    }
  }

 private:
  static Size width(const Pass& pass) { return blocks(pass) * kPanel; }

  BackwardPass(const Pass& pass, Range rows, T* scratch)
      : pass_(pass),
        begin_(rows.begin),
        rows_(rows.size()),
        width_(width(pass)),
        d_cell_(scratch),
        d_hidden_(scratch + rows_ * width_) {}

  void set_final_state(Range units) {
    for_vectors(units, [&](Size row, Size unit) {
      const Size from = (begin_ + row) * pass_.hidden + unit, count = pass_.hidden - unit;
      store(d_cell_ + row * width_ + unit, load(pass_.d_c_n + from, count));
      store(d_hidden_ + row * width_ + unit, load(pass_.d_h_n + from, count));
    });
  }

  void write_initial_state(Range units) const {
    for_vectors(units, [&](Size row, Size unit) {
      const Size to = (begin_ + row) * pass_.hidden + unit, count = pass_.hidden - unit;
      store(pass_.d_h_0 + to, load(d_hidden_ + row * width_ + unit), count);
      store(pass_.d_c_0 + to, load(d_cell_ + row * width_ + unit), count);
    });
  }

  template <typename F>
  void for_vectors(Range units, const F& f) const {
    for (Size row = 0; row < rows_; ++row) {
      for (Size unit = units.begin; unit < units.end && unit < pass_.hidden; unit += kLanes<T>) {
        f(row, unit);
      }
    }
  }

  bool valid(Size t, Size row) const { return t < pass_.lengths[begin_ + row]; }
  T* dz(Size t, Size row) const {
    return pass_.dz + pass_.row_of(t, begin_ + row) * kGates * pass_.hidden;
  }

  void differentiate_gates(Size t, Range units) {
    for_vectors(units, [&](Size row, Size unit) {
      if (valid(t, row)) {
        differentiate(t, row, unit);
      } else {
        T* to = dz(t, row) + unit;
        for (Size gate = 0; gate < kGates; ++gate) {
          store(to + gate * pass_.hidden, Vector<T>{}, pass_.hidden - unit);
        }
      }
    });
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
  void multiply_packed(Size t, Range panels, const T* packed) {
    const Size depth = kGates * pass_.hidden, stride = pass_.sequence_stride() * depth;
    for_panels(t, panels, [&](Size number) {
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
  void multiply_in_place(Size t, Range units) {
    constexpr int kUnits = 8;  // computed together: 8 sums hide the latency of an addition
    const auto multiply_all = [&](auto number, Size unit) {
      for (Size row = 0; row < rows_; ++row) {
        if (!valid(t, row)) continue;
        multiply_rows<decltype(number)::value>(t, row, unit, d_hidden_ + row * width_);
      }
    };
    const Size end = units.end < pass_.hidden ? units.end : pass_.hidden;
    const Range groups{units.begin / kUnits, end / kUnits};
    for_panels(t, groups, [&](Size group) {
      multiply_all(std::integral_constant<int, kUnits>{}, group * kUnits);
    });
    for (Size unit = groups.end * kUnits; unit < end; ++unit) {
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

  const Pass& pass_;
  const Size begin_, rows_;
  const Size width_;  // of a row of the states: whole panels
  T *const d_cell_, *const d_hidden_;
};

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_BACKWARD_H_
