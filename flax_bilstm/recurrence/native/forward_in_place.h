// A step of the forward pass that reads the weights where they lie: for small batches.

#ifndef FLAX_BILSTM_FORWARD_IN_PLACE_H_
#define FLAX_BILSTM_FORWARD_IN_PLACE_H_

#include "forward_rows.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

template <typename T>
class ForwardInPlace : ForwardRows<T> {
  using Base = ForwardRows<T>;

 public:
  using Base::Base;

  static Size scratch_size(const Forward<T>& pass, Size rows) {
    return rows * (row_size(pass) + kChunk * kGates * pass.hidden);
  }

  void run() {
    if (step_ < 0) {
      this->set_initial_state({0, pass_.hidden});
    } else {
      compute_step();
    }
    this->write_final_state({0, pass_.hidden});
  }

 private:
  using Base::hidden_, Base::width_, Base::pass_, Base::rest_, Base::rows_;
  using Base::step_, Base::time_;

  static Size row_size(const Forward<T>& pass) { return kGates * pass.hidden + kLanes<T>; }

  void compute_step() {
    const Size columns = kGates * pass_.hidden, size = row_size(pass_);
    T* z = rest_;
    T* inputs = rest_ + rows_ * size;  // (rows, kChunk, columns)
    const Range chunk = this->chunk();
    if (this->begins_chunk()) multiply_inputs(chunk, inputs);
    for_row_tiles(rows_, [&](auto count, Size row) {
      const T* from = inputs + (row * kChunk + time_ - chunk.begin) * columns;
      multiply_hidden<decltype(count)::value>(row, from, z + row * size, size);
    });
    for (Size row = 0; row < rows_; ++row) {
      for (Size unit = 0; unit < pass_.hidden; unit += kLanes<T>) {
        Vector<T> gates[kGates];
        for (Size gate = 0; gate < kGates; ++gate) {
          gates[gate] = load(z + row * size + gate * pass_.hidden + unit);
        }
        this->update(row, unit, gates);
      }
    }
  }

  // x W_ih + b of the steps of a chunk. A tile's rows are steps of one sequence.
  void multiply_inputs(Range chunk, T* inputs) {
    const Size columns = kGates * pass_.hidden;
    for_column_blocks(columns, kGates * kLanes<T>, [&](Size column) {
      for (Size row = 0; row < rows_; ++row) {
        for_row_tiles(chunk.size(), [&](auto number, Size step) {
          constexpr int steps = decltype(number)::value;
          Vector<T> tile[steps][kGates];
          for (int s = 0; s < steps; ++s) {
            for (int v = 0; v < kGates; ++v) {
              tile[s][v] = load(pass_.bias + column + v * kLanes<T>);
            }
          }
          multiply(tile, this->x(chunk.begin + step, row), pass_.step_stride() * pass_.input, 1,
                   pass_.input, pass_.kernel_ih + column, columns);
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
  void multiply_hidden(Size first, const T* inputs, T* z, Size z_stride) {
    constexpr int depth = Rows > 2 ? 4 : 8;
    constexpr Size block = 32 * kLanes<T>;
    const Size columns = kGates * pass_.hidden;
    for_panels(step_, {0, whole_vectors(columns, block)}, [&](Size number) {
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
      const T* from = hidden_ + (first + row) * width_ + k;
      for (int d = 0; d < Depth; ++d) h[row][d] = broadcast(from[d]);
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
};

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_FORWARD_IN_PLACE_H_
