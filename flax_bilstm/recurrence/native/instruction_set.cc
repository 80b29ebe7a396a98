// Compiled once for each instruction set, with FLAX_BILSTM_TARGET as its name. This file must not
// use standard library functions that are compiled into it: the linker would keep one of the
// copies, perhaps one that an older processor cannot run.

#include "backward.h"
#include "forward.h"
#include "input_gradients.h"
#include "weight_gradients.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

// All steps of some rows of the batch.
template <typename Pass, typename T>
void run_steps(const typename Pass::Pass& pass, Size begin, Size end, const T* packed, T* scratch) {
  const Range blocks{0, Pass::blocks(pass)};
  for (Size step = 0; step <= pass.time; ++step) {
    Pass::step(pass, step, {begin, end}, blocks, packed, scratch);
  }
}

template <typename Pass, typename T>
constexpr Kernel<typename Pass::Pass, T> kernel(void (*run)(const typename Pass::Pass&, Size, Size,
                                                            const T*, T*)) {
  return {kLanes<T>,        Pass::kTile, Pass::count,        Pass::panels,
          Pass::panel_size, Pass::pack,  Pass::scratch_size, run};
}

template <typename Pass, typename T>
constexpr StepKernel<typename Pass::Pass, T> step_kernel() {
  return {kernel<Pass, T>(run_steps<Pass, T>), Pass::blocks, Pass::step};
}

template <typename T>
constexpr Kernels<T> kernels() {
  return {step_kernel<ForwardPass<T>, T>(), step_kernel<BackwardPass<T>, T>(),
          kernel<WeightGradientsPass<T>, T>(WeightGradientsPass<T>::run),
          kernel<InputGradientsPass<T>, T>(InputGradientsPass<T>::run)};
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
