// The forward pass of one direction.

#ifndef FLAX_BILSTM_FORWARD_H_
#define FLAX_BILSTM_FORWARD_H_

#include "forward_in_place.h"
#include "forward_packed.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

template <typename T>
struct ForwardPass {
  using Pass = Forward<T>;
  using Packed = ForwardPacked<T>;
  using InPlace = ForwardInPlace<T>;
  static constexpr Size kTile = kRows;  // of the batch, computed together

  static bool in_place(const Pass& pass) {
    return !pass.shared && reads_weights_in_place<T>(pass.batch, pass.hidden);
  }
  static Size count(const Pass& pass) { return pass.batch; }
  static Size blocks(const Pass& pass) { return Packed::panels(pass); }
  static Size panels(const Pass& pass) { return in_place(pass) ? 0 : Packed::panels(pass); }
  static Size panel_size(const Pass& pass) { return Packed::panel_size(pass); }
  static void pack(const Pass& pass, Range panels, T* packed) {
    Packed::pack(pass, panels, packed);
  }
  static Size scratch_size(const Pass& pass, Size rows) {
    return ForwardRows<T>::states_size(pass, rows) +
           (in_place(pass) ? InPlace::scratch_size(pass, rows) : Packed::scratch_size(pass, rows));
  }

  static void step(const Pass& pass, Size step, Range rows, Range blocks, const T* packed,
                   T* scratch) {
    if (in_place(pass)) {
      InPlace(pass, step, rows, scratch).run();
    } else {
      Packed(pass, step, rows, scratch).run(blocks, packed);
    }
  }
};

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_FORWARD_H_
