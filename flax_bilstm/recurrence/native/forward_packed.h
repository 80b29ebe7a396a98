// A step of the forward pass with packed weights: of all hidden units, or of some.

#ifndef FLAX_BILSTM_FORWARD_PACKED_H_
#define FLAX_BILSTM_FORWARD_PACKED_H_

#include "forward_rows.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

// A panel holds the columns of one vector of hidden units, for all four gates: first their bias,
// then the rows of W_ih, then those of W_hh. Columns past the last unit are 0.
template <typename T>
class ForwardPacked : ForwardRows<T> {
  using Base = ForwardRows<T>;
  using Pass = Forward<T>;

 public:
  using Base::Base;

  static Size panels(const Pass& pass) { return whole_vectors(pass.hidden, kLanes<T>); }
  static Size panel_size(const Pass& pass) { return (1 + pass.input + pass.hidden) * kColumn; }

  // Row by row, so that what is read lies together.
  static void pack(const Pass& pass, Range panels, T* packed) {
    T* to = packed;
    const auto append = [&](const T* rows, Size number) {
      for (Size row = 0; row < number; ++row, to += kColumn) {
        for (Size panel = panels.begin; panel < panels.end; ++panel) {
          const Size unit = panel * kLanes<T>, count = pass.hidden - unit;
          for (Size gate = 0; gate < kGates; ++gate) {
            store(to + panel * panel_size(pass) + gate * kLanes<T>,
                  load(rows + (row * kGates + gate) * pass.hidden + unit, count));
          }
        }
      }
    };
    append(pass.bias, 1);
    append(pass.kernel_ih, pass.input);
    append(pass.kernel_hh, pass.hidden);
  }

  static Size scratch_size(const Pass& pass, Size rows) {
    return keeps_inputs(pass) ? rows * kChunk * panels(pass) * kColumn : 0;
  }

  void run(Range panels, const T* packed) {
    const Range units{panels.begin * kLanes<T>, panels.end * kLanes<T>};
    if (step_ < 0) {
      this->set_initial_state(units);
    } else {
      compute_step(panels, packed);
    }
    this->write_final_state(units);
  }

 private:
  using Base::hidden_, Base::width_, Base::pass_, Base::rest_, Base::rows_;
  using Base::step_, Base::time_;

  static constexpr Size kColumn = kGates * kLanes<T>;  // one row of a panel

  // Whether the inputs' products are computed for many steps at once, so that a step reads W_hh
  // only. With more rows, W_ih is read from the cache either way.
  static bool keeps_inputs(const Pass& pass) { return pass.batch <= kLargestUnpackedBatch; }

  void compute_step(Range panels, const T* packed) {
    const bool keeps = keeps_inputs(pass_);
    for_panels(step_, panels, [&](Size number) {
      const T* panel = packed + number * panel_size(pass_);
      if (keeps && this->begins_chunk()) multiply_inputs(number, panel);
      for_row_tiles(rows_, [&](auto count, Size row) {
        constexpr int rows = decltype(count)::value;
        if (keeps) {
          multiply_hidden<rows>(row, number, panel);
        } else {
          multiply_both<rows>(row, number, panel);
        }
      });
    });
  }

  template <int Rows>
  FLAX_BILSTM_NOINLINE void multiply_both(Size first, Size number, const T* panel) {
    Vector<T> z[Rows][kGates];
    for (int row = 0; row < Rows; ++row) {
      for (int gate = 0; gate < kGates; ++gate) z[row][gate] = load(panel + gate * kLanes<T>);
    }
    multiply(z, this->x(time_, first), pass_.sequence_stride() * pass_.input, 1,
             pass_.input, panel + kColumn, kColumn);
    add_hidden(z, first, number, panel);
  }

  template <int Rows>
  FLAX_BILSTM_NOINLINE void multiply_hidden(Size first, Size number, const T* panel) {
    Vector<T> z[Rows][kGates];
    for (int row = 0; row < Rows; ++row) {
      const T* from = inputs(time_ - this->chunk().begin, first + row, number);
      for (int gate = 0; gate < kGates; ++gate) z[row][gate] = load(from + gate * kLanes<T>);
    }
    add_hidden(z, first, number, panel);
  }

  template <int Rows>
  inline void add_hidden(Vector<T> (&z)[Rows][kGates], Size first, Size number, const T* panel) {
    multiply(z, hidden_ + first * width_, width_, 1, pass_.hidden,
             panel + (1 + pass_.input) * kColumn, kColumn);
    for (int row = 0; row < Rows; ++row) this->update(first + row, number * kLanes<T>, z[row]);
  }

  // x W_ih + b of the steps of a chunk. A tile's rows are steps of one sequence.
  void multiply_inputs(Size number, const T* panel) {
    const Range chunk = this->chunk();
    for (Size row = 0; row < rows_; ++row) {
      for_row_tiles(chunk.size(), [&](auto count, Size step) {
        constexpr int steps = decltype(count)::value;
        Vector<T> z[steps][kGates];
        for (int s = 0; s < steps; ++s) {
          for (int gate = 0; gate < kGates; ++gate) z[s][gate] = load(panel + gate * kLanes<T>);
        }
        multiply(z, this->x(chunk.begin + step, row), pass_.step_stride() * pass_.input, 1,
                 pass_.input, panel + kColumn, kColumn);
        for (int s = 0; s < steps; ++s) {
          T* to = inputs(step + s, row, number);
          for (int gate = 0; gate < kGates; ++gate) store(to + gate * kLanes<T>, z[s][gate]);
        }
      });
    }
  }

  // Those of the chunk: (panels, rows, kChunk, kColumn).
  T* inputs(Size step, Size row, Size number) const {
    return rest_ + ((number * rows_ + row) * kChunk + step) * kColumn;
  }
};

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_FORWARD_PACKED_H_
