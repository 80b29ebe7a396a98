// Compiled once for each instruction set, with FLAX_BILSTM_TARGET as its name. This file must not
// use standard library functions that are compiled into it: the linker would keep one of the
// copies, perhaps one that an older processor cannot run.

#include "backward.h"
#include "forward.h"
#include "weight_gradients.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

template <typename Pass, typename T>
constexpr Kernel<typename Pass::Pass, T> kernel() {
  return {kLanes<T>,        Pass::kTile, Pass::count,        Pass::panels,
          Pass::panel_size, Pass::pack,  Pass::scratch_size, Pass::run};
}

template <typename T>
constexpr Kernels<T> kernels() {
  return {kernel<ForwardPass<T>, T>(), kernel<BackwardPass<T>, T>(),
          kernel<WeightGradientsPass<T>, T>()};
}

template <typename T, Vector<T> (*function)(Vector<T>)>
void over_array(Size count, const T* x, T* y) {
  for (Size k = 0; k < count; k += kLanes<T>) {
    store(y + k, function(load(x + k, count - k)), count - k);
  }
}

template <typename T>
constexpr Activations<T> activations() {
  return {over_array<T, sigmoid<T>>, over_array<T, tanh<T>>};
}

const InstructionSet instruction_set = {kernels<float>(), kernels<double>(), activations<float>(),
                                        activations<double>()};

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET
