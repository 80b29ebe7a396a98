// The forward pass of one direction.

#ifndef FLAX_BILSTM_FORWARD_H_
#define FLAX_BILSTM_FORWARD_H_

#include "activations.h"
#include "product.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

// Number of steps multiplied by W_ih at once if the weights are not packed; a multiple of a tile.
constexpr Size kChunk = 48;

template <typename T>
class ForwardPass {
 public:
  using Pass = Forward<T>;
  static constexpr Size kTile = kRows;  // of the batch, computed together

  // A panel holds the columns of one vector of hidden units, for all four gates: first their
  // bias, then the rows of W_ih, then those of W_hh. Columns past the last unit are 0.
  static Size panels(const Pass& pass) {
    return reads_weights_in_place<T>(pass.batch, pass.hidden)
               ? 0
               : whole_vectors(pass.hidden, kLanes<T>);
  }
  static Size count(const Pass& pass) { return pass.batch; }
  static Size panel_size(const Pass& pass) {
    return (1 + pass.input + pass.hidden) * kGates * kLanes<T>;
  }
  static void pack(const Pass& pass, Size panel, T* packed) {
    const Size unit = panel * kLanes<T>, count = pass.hidden - unit;
    T* to = packed + panel * panel_size(pass);
    const auto append = [&](const T* rows, Size number) {
      for (Size row = 0; row < number; ++row) {
        for (Size gate = 0; gate < kGates; ++gate, to += kLanes<T>) {
          store(to, load(rows + (row * kGates + gate) * pass.hidden + unit, count));
        }
      }
    };
    append(pass.bias, 1);
    append(pass.kernel_ih, pass.input);
    append(pass.kernel_hh, pass.hidden);
  }

  static Size scratch_size(const Pass& pass, Size rows) {
    const Size state = whole_vectors(pass.hidden, kLanes<T>) * kLanes<T>;
    const Size gates = kGates * pass.hidden + kLanes<T>;
    return rows * (3 * state + (panels(pass) ? 0 : gates + kChunk * kGates * pass.hidden));
  }

  static void run(const Pass& pass, Size begin, Size end, const T* packed, T* scratch) {
    ForwardPass part(pass, begin, end - begin, scratch);
    if (panels(pass)) {
      part.run_packed(packed);
    } else {
      part.run_in_place();
    }
    part.write_final_state();
  }

 private:
  ForwardPass(const Pass& pass, Size begin, Size rows, T* scratch)
      : pass_(pass),
        begin_(begin),
        rows_(rows),
        width_(whole_vectors(pass.hidden, kLanes<T>) * kLanes<T>),
        cell_(scratch),
        hidden_(cell_ + rows * width_),
        next_(hidden_ + rows * width_),
        rest_(next_ + rows * width_) {
    for (Size row = 0; row < rows; ++row) {
      for (Size unit = 0; unit < width_; unit += kLanes<T>) {
        const Size from = (begin + row) * pass.hidden + unit, count = pass.hidden - unit;
        store(cell_ + row * width_ + unit, load(pass.c_0 + from, count));
        store(hidden_ + row * width_ + unit, load(pass.h_0 + from, count));
      }
    }
  }

  Size time_of(Size step) const { return pass_.reverse ? pass_.time - 1 - step : step; }
  bool valid(Size t, Size row) const { return t < pass_.lengths[begin_ + row]; }
  const T* x(Size t, Size row) const {
    return pass_.x + pass_.row_of(t, begin_ + row) * pass_.input;
  }

  void run_packed(const T* packed) {
    for (Size step = 0; step < pass_.time; ++step) {
      const Size t = time_of(step);
      for_panels(step, panels(pass_), [&](Size panel) {
        for_row_tiles(rows_, [&](auto count, Size row) {
          step_tile<decltype(count)::value>(t, row, panel * kLanes<T>,
                                            packed + panel * panel_size(pass_));
        });
      });
      swap_states();
    }
  }

  template <int Rows>
  inline void step_tile(Size t, Size first, Size unit, const T* panel) {
    constexpr Size stride = kGates * kLanes<T>;
    Vector<T> z[Rows][kGates];
    for (int row = 0; row < Rows; ++row) {
      for (int gate = 0; gate < kGates; ++gate) z[row][gate] = load(panel + gate * kLanes<T>);
    }
    multiply(z, x(t, first), pass_.sequence_stride() * pass_.input, 1, pass_.input,
             panel + stride, stride);
    multiply(z, hidden_ + first * width_, width_, 1, pass_.hidden,
             panel + (1 + pass_.input) * stride, stride);
    for (int row = 0; row < Rows; ++row) {
      if (valid(t, first + row)) {
        activate(t, first + row, unit, z[row]);
      } else {
        carry(t, first + row, unit);
      }
    }
  }

  void run_in_place() {
    const Size columns = kGates * pass_.hidden, row_size = columns + kLanes<T>;
    T* z = rest_;
    T* inputs = rest_ + rows_ * row_size;  // (rows, kChunk, columns)
    for (Size step = 0; step < pass_.time; ++step) {
      const Size t = time_of(step);
      if (step % kChunk == 0) {
        const Size count = pass_.time - step < kChunk ? pass_.time - step : kChunk;
        chunk_ = pass_.reverse ? t - count + 1 : t;
        multiply_inputs(count, inputs);
      }
      for_row_tiles(rows_, [&](auto count, Size row) {
        const T* from = inputs + (row * kChunk + t - chunk_) * columns;
        multiply_hidden<decltype(count)::value>(step, row, from, z + row * row_size, row_size);
      });
      for (Size row = 0; row < rows_; ++row) {
        for (Size unit = 0; unit < pass_.hidden; unit += kLanes<T>) {
          if (valid(t, row)) {
            Vector<T> gates[kGates];
            for (Size gate = 0; gate < kGates; ++gate) {
              gates[gate] = load(z + row * row_size + gate * pass_.hidden + unit);
            }
            activate(t, row, unit, gates);
          } else {
            carry(t, row, unit);
          }
        }
      }
      swap_states();
    }
  }

  // x W_ih + b of `count` steps from chunk_ on. A tile's rows are steps of one sequence.
  void multiply_inputs(Size count, T* inputs) {
    const Size columns = kGates * pass_.hidden;
    for_column_blocks(columns, kGates * kLanes<T>, [&](Size column) {
      for (Size row = 0; row < rows_; ++row) {
        for_row_tiles(count, [&](auto number, Size step) {
          constexpr int steps = decltype(number)::value;
          Vector<T> tile[steps][kGates];
          for (int s = 0; s < steps; ++s) {
            for (int v = 0; v < kGates; ++v) {
              tile[s][v] = load(pass_.bias + column + v * kLanes<T>);
            }
          }
          multiply(tile, x(chunk_ + step, row), pass_.step_stride() * pass_.input, 1, pass_.input,
                   pass_.kernel_ih + column, columns);
          for (int s = 0; s < steps; ++s) {
            for (int v = 0; v < kGates; ++v) {
              store(inputs + (row * kChunk + step + s) * columns + column + v * kLanes<T>,
                    tile[s][v]);
            }
          }
        });
      }
    });
  }

  // z = inputs + h W_hh. W_hh is read in blocks of columns, to and fro as panels are, and
  // of a few rows at a time; the sums of a piece stay in the first cache.
  template <int Rows>
  void multiply_hidden(Size step, Size first, const T* inputs, T* z, Size z_stride) {
    constexpr int depth = Rows > 2 ? 4 : 8;
    constexpr Size block = 32 * kLanes<T>;
    const Size columns = kGates * pass_.hidden;
    for_panels(step, whole_vectors(columns, block), [&](Size number) {
      const Size begin = number * block, end = begin + block < columns ? begin + block : columns;
      for (int row = 0; row < Rows; ++row) {
        std::memcpy(z + row * z_stride + begin, inputs + row * kChunk * columns + begin,
                    static_cast<std::size_t>(end - begin) * sizeof(T));
      }
      Size k = 0;
      for (; k + depth <= pass_.hidden; k += depth) {
        add_products<Rows, depth>(first, k, begin, end, z, z_stride);
      }
      for (; k < pass_.hidden; ++k) add_products<Rows, 1>(first, k, begin, end, z, z_stride);
    });
  }

  // z += h W_hh for `Depth` rows of W_hh from row k on and the columns from `begin` to `end`.
  template <int Rows, int Depth>
  inline void add_products(Size first, Size k, Size begin, Size end, T* z, Size z_stride) const {
    const Size columns = kGates * pass_.hidden;
    const T* weights = pass_.kernel_hh + k * columns;
    Vector<T> h[Rows][Depth];
    for (int row = 0; row < Rows; ++row) {
      for (int d = 0; d < Depth; ++d) h[row][d] = broadcast(hidden_[(first + row) * width_ + k + d]);
    }
    const auto add = [&](Size column, Size count) {
      Vector<T> sums[Rows];
      for (int row = 0; row < Rows; ++row) sums[row] = load(z + row * z_stride + column);
      for (int d = 0; d < Depth; ++d) {
        const Vector<T> w = load(weights + d * columns + column, count);
        for (int row = 0; row < Rows; ++row) sums[row] = fma(h[row][d], w, sums[row]);
      }
      for (int row = 0; row < Rows; ++row) store(z + row * z_stride + column, sums[row]);
    };
    Size column = begin;
    for (; column + kLanes<T> <= end; column += kLanes<T>) add(column, kLanes<T>);
    if (column < end) add(column, end - column);
  }

  inline void activate(Size t, Size row, Size unit, const Vector<T> (&z)[kGates]) {
    const Size count = pass_.hidden - unit, state = row * width_ + unit;
    const Vector<T> i = sigmoid<T>(z[0]), f = sigmoid<T>(z[1]), g = tanh<T>(z[2]),
                    o = sigmoid<T>(z[3]);
    const Vector<T> previous = load(cell_ + state);
    const Vector<T> cell = fma(f, previous, i * g);
    const Vector<T> hidden = o * tanh<T>(cell);
    store(cell_ + state, cell);
    store(next_ + state, hidden);
    store(output(t, row) + unit, hidden, count);
    save(t, row, unit, {i, f, g, o}, previous);
  }

  // A step in the padding: the state is unchanged.
  inline void carry(Size t, Size row, Size unit) {
    const Size count = pass_.hidden - unit, state = row * width_ + unit;
    const Vector<T> none{};
    store(next_ + state, load(hidden_ + state));
    store(output(t, row) + unit, none, count);
    save(t, row, unit, {none, none, none, none}, load(cell_ + state));
  }

  inline void save(Size t, Size row, Size unit, const Vector<T> (&gates)[kGates],
                   Vector<T> cell) {
    if (!pass_.gates) return;
    const Size step = pass_.row_of(t, begin_ + row), count = pass_.hidden - unit;
    for (Size gate = 0; gate < kGates; ++gate) {
      store(pass_.gates + (step * kGates + gate) * pass_.hidden + unit, gates[gate], count);
    }
    store(pass_.cells + step * pass_.hidden + unit, cell, count);
  }

  T* output(Size t, Size row) const {
    return pass_.outputs + pass_.row_of(t, begin_ + row) * pass_.output_stride();
  }

  void swap_states() {
    T* hidden = hidden_;
    hidden_ = next_;
    next_ = hidden;
  }

  void write_final_state() const {
    const Size size = pass_.hidden;
    copy_rows(pass_.h_n + begin_ * size, size, hidden_, width_, rows_, size);
    copy_rows(pass_.c_n + begin_ * size, size, cell_, width_, rows_, size);
  }

  const Pass& pass_;
  const Size begin_, rows_;
  const Size width_;  // of a row of the states: whole vectors
  T *const cell_, *hidden_, *next_, *const rest_;
  Size chunk_ = 0;  // the first step, in time, of the last inputs multiplied
};

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_FORWARD_H_
