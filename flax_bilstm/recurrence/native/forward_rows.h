// The states of a part of the batch in the forward pass, and what a step does after its products.

#ifndef FLAX_BILSTM_FORWARD_ROWS_H_
#define FLAX_BILSTM_FORWARD_ROWS_H_

#include "activations.h"
#include "product.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

// Number of steps multiplied by W_ih at once if their products are kept; a multiple of a tile.
constexpr Size kChunk = 48;

// Step 0 sets the initial states; step k computes the k-th step of the sequences.
template <typename T>
class ForwardRows {
 public:
  using Pass = Forward<T>;

  static Size width(const Pass& pass) { return whole_vectors(pass.hidden, kLanes<T>) * kLanes<T>; }
  static Size states_size(const Pass& pass, Size rows) { return 3 * rows * width(pass); }

  ForwardRows(const Pass& pass, Size step, Range rows, T* scratch)
      : pass_(pass),
        begin_(rows.begin),
        rows_(rows.size()),
        width_(width(pass)),
        step_(step - 1),
        time_(pass.reverse ? pass.time - step : step - 1),
        cell_(scratch),
        hidden_(scratch + (step % 2 ? 1 : 2) * rows_ * width_),
        next_(scratch + (step % 2 ? 2 : 1) * rows_ * width_),
        rest_(scratch + states_size(pass, rows_)) {}

 protected:
  bool valid(Size row) const { return time_ < pass_.lengths[begin_ + row]; }
  const T* x(Size t, Size row) const {
    return pass_.x + pass_.row_of(t, begin_ + row) * pass_.input;
  }

  // The steps whose inputs are multiplied together with this one's.
  bool begins_chunk() const { return step_ % kChunk == 0; }
  Range chunk() const {
    const Size first = step_ - step_ % kChunk;
    const Size end = first + kChunk < pass_.time ? first + kChunk : pass_.time;
    return pass_.reverse ? Range{pass_.time - end, pass_.time - first} : Range{first, end};
  }

  void set_initial_state(Range units) {
    for (Size row = 0; row < rows_; ++row) {
      for (Size unit = units.begin; unit < units.end; unit += kLanes<T>) {
        const Size from = (begin_ + row) * pass_.hidden + unit, count = pass_.hidden - unit;
        store(cell_ + row * width_ + unit, load(pass_.c_0 + from, count));
        store(next_ + row * width_ + unit, load(pass_.h_0 + from, count));
      }
    }
  }

  void write_final_state(Range units) const {
    if (step_ + 1 < pass_.time) return;
    for (Size row = 0; row < rows_; ++row) {
      for (Size unit = units.begin; unit < units.end; unit += kLanes<T>) {
        const Size to = (begin_ + row) * pass_.hidden + unit, count = pass_.hidden - unit;
        store(pass_.h_n + to, load(next_ + row * width_ + unit), count);
        store(pass_.c_n + to, load(cell_ + row * width_ + unit), count);
      }
    }
  }

  // The new state of one vector of units, from their gates before σ and tanh.
  inline void update(Size row, Size unit, const Vector<T> (&z)[kGates]) {
    if (valid(row)) {
      activate(row, unit, z);
    } else {
      carry(row, unit);
    }
  }

  const Pass& pass_;
  const Size begin_, rows_;
  const Size width_;  // of a row of the states: whole vectors
  const Size step_;   // from 0 on; −1 while the initial states are set
  const Size time_;   // of the step, in the order of the sequences' elements
  T *const cell_, *const hidden_, *const next_, *const rest_;

 private:
  FLAX_BILSTM_NOINLINE void activate(Size row, Size unit, const Vector<T> (&z)[kGates]) {
    const Size count = pass_.hidden - unit, state = row * width_ + unit;
    const Vector<T> i = sigmoid<T>(z[0]), f = sigmoid<T>(z[1]), g = tanh<T>(z[2]),
                    o = sigmoid<T>(z[3]);
    const Vector<T> previous = load(cell_ + state);
    const Vector<T> cell = fma(f, previous, i * g);
    const Vector<T> hidden = o * tanh<T>(cell);
    store(cell_ + state, cell);
    store(next_ + state, hidden);
    store(output(row) + unit, hidden, count);
    save(row, unit, {i, f, g, o}, previous);
  }

  // A step in the padding: the state is unchanged.
  inline void carry(Size row, Size unit) {
    const Size count = pass_.hidden - unit, state = row * width_ + unit;
    const Vector<T> none{};
    store(next_ + state, load(hidden_ + state));
    store(output(row) + unit, none, count);
    save(row, unit, {none, none, none, none}, load(cell_ + state));
  }

  inline void save(Size row, Size unit, const Vector<T> (&gates)[kGates], Vector<T> cell) {
    if (!pass_.gates) return;
    const Size step = pass_.row_of(time_, begin_ + row), count = pass_.hidden - unit;
    for (Size gate = 0; gate < kGates; ++gate) {
      store(pass_.gates + (step * kGates + gate) * pass_.hidden + unit, gates[gate], count);
    }
    store(pass_.cells + step * pass_.hidden + unit, cell, count);
  }

  T* output(Size row) const {
    return pass_.outputs + pass_.row_of(time_, begin_ + row) * pass_.output_stride();
  }
};

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_FORWARD_ROWS_H_
