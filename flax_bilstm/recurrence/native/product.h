// The matrix products: each tile of rows and columns is summed in registers.

#ifndef FLAX_BILSTM_PRODUCT_H_
#define FLAX_BILSTM_PRODUCT_H_

#include <type_traits>

#include "vectors.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

constexpr int kGates = 4;

// Number of vectors in a row of a tile of `Rows` rows: 4, or 8 if few rows leave registers free.
template <int Rows>
constexpr int kColumns = Rows * 8 <= kRows * 4 ? 8 : 4;

// tile += a b, where `a` is (Rows, depth), with rows `a_stride` apart and columns `a_step` apart,
// and `b` is (depth, Columns vectors).
template <typename T, int Rows, int Columns>
inline void multiply(Vector<T> (&tile)[Rows][Columns], const T* a, Size a_stride,
                     Size a_step, Size depth, const T* b, Size b_stride) {
  for (Size k = 0; k < depth; ++k, a += a_step, b += b_stride) {
    Vector<T> b_k[Columns];
    for (int column = 0; column < Columns; ++column) b_k[column] = load(b + column * kLanes<T>);
    for (int row = 0; row < Rows; ++row) {
      const Vector<T> a_rk = broadcast(a[row * a_stride]);
      for (int column = 0; column < Columns; ++column) {
        tile[row][column] = fma(a_rk, b_k[column], tile[row][column]);
      }
    }
  }
}

// A panel of the transpose: the `width` rows of `from` (rows, columns) from `first` on become
// columns of `to` (columns, width), those past the last row 0.
template <typename T>
inline void pack_transposed(const T* from, Size first, Size rows, Size columns, Size width, T* to) {
  constexpr Size kBlock = 16;  // columns: what is written stays in the first cache
  for (Size begin = 0; begin < columns; begin += kBlock) {
    const Size end = begin + kBlock < columns ? begin + kBlock : columns;
    for (Size k = 0; k < width; ++k) {
      const T* row = from + (first + k) * columns;
      for (Size column = begin; column < end; ++column) {
        to[column * width + k] = first + k < rows ? row[column] : T{0};
      }
    }
  }
}

// Calls f(`rows` as a type).
template <int Rows = static_cast<int>(kRows), typename F>
inline void with_rows(Size rows, const F& f) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return with_rows<Rows - 1>(rows, f);
  }
  f(std::integral_constant<int, Rows>{});
}

// Calls f(Rows as a type, first row) for tiles of at most kRows rows, as equal as they can be.
template <typename F>
inline void for_row_tiles(Size rows, const F& f) {
  const Size tiles = whole_vectors(rows, kRows);
  for (Size tile = 0, row = 0; tile < tiles; ++tile) {
    const Size count = (rows - row) / (tiles - tile);
    with_rows(count, [&](auto number) { f(number, row); });
    row += count;
  }
}

// Calls f(panel) for all panels, to and fro: each step begins with the weights that the one before
// left in the cache.
template <typename F>
inline void for_panels(Size step, Range panels, const F& f) {
  for (Size k = 0; k < panels.size(); ++k) {
    f(step % 2 ? panels.end - 1 - k : panels.begin + k);
  }
}

// Calls f(first column) for blocks of `width` columns; the last one overlaps the one before it.
template <typename F>
inline void for_column_blocks(Size columns, Size width, const F& f) {
  for (Size column = 0; column < columns; column += width) {
    f(column + width <= columns ? column : columns - width);
  }
}

// Whether the weights are read without packing. A block of columns must fit in one of their rows.
template <typename T>
inline bool reads_weights_in_place(Size batch, Size hidden) {
  return batch <= kLargestUnpackedBatch && kGates * hidden >= kColumns<1> * kLanes<T>;
}

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_PRODUCT_H_
