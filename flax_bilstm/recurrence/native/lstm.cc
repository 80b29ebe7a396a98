// The calls that XLA makes: one for each pass of one layer, with all its directions.

#include <vector>

#include "call.h"
#include "run.h"

namespace flax_bilstm {
namespace {

template <typename T>
const T* data(const ffi::AnyBuffer& buffer) {
  return static_cast<const T*>(buffer.untyped_data());
}

// A pass over `steps`: (time, batch, features) or, if batch_major, (batch, time, features).
template <typename Pass>
Pass pass_over(const ffi::AnyBuffer& steps, bool batch_major) {
  Pass pass{};
  pass.time = steps.dimensions()[batch_major ? 1 : 0];
  pass.batch = steps.dimensions()[batch_major ? 0 : 1];
  pass.batch_major = batch_major;
  return pass;
}

// The same with its layer's sizes; `states` is (directions, batch, hidden).
template <typename Pass>
Pass pass_over(const ffi::AnyBuffer& steps, const ffi::AnyBuffer& states, bool batch_major) {
  auto pass = pass_over<Pass>(steps, batch_major);
  pass.input = steps.dimensions()[2];
  pass.directions = states.dimensions()[0];
  pass.hidden = states.dimensions()[2];
  return pass;
}

// The pass of each direction of `layer`, which has what they share. `set` sets the rest, from the
// places where the direction's states and outputs begin. Of two directions, the second is the
// reverse one; a single direction may be either.
template <typename Pass, typename F>
std::vector<Pass> of_directions(const Pass& layer, bool reverse, const F& set) {
  std::vector<Pass> passes;
  for (Size direction = 0; direction < layer.directions; ++direction) {
    Pass pass = layer;
    pass.reverse = reverse || direction == 1;
    set(pass, direction * layer.batch * layer.hidden, direction * layer.hidden);
    passes.push_back(pass);
  }
  return passes;
}

// x, h_0, lengths, c_0, and W_ih, W_hh and the summed bias of each direction
//   -> outputs, h_n, c_n and, if asked for, the gates and cells of each direction.
template <typename T>
void forward(ffi::ThreadPool& pool, ffi::AnyBuffer x, ffi::AnyBuffer h_0, ffi::RemainingArgs others,
             ffi::RemainingRets results, const Kernels<T>& kernels, bool reverse,
             bool batch_major) {
  Arguments<T> arguments(others);
  Results<T> arrays(results);
  auto layer = pass_over<Forward<T>>(x, h_0, batch_major);
  layer.x = data<T>(x);
  layer.lengths = arguments.template next<std::int32_t>();
  const T* c_0 = arguments.next();
  T* outputs = arrays.next();
  T* h_n = arrays.next();
  T* c_n = arrays.next();
  const auto passes = of_directions(layer, reverse, [&](auto& pass, Size states, Size column) {
    pass.kernel_ih = arguments.next();
    pass.kernel_hh = arguments.next();
    pass.bias = arguments.next();
    pass.h_0 = data<T>(h_0) + states;
    pass.c_0 = c_0 + states;
    pass.h_n = h_n + states;
    pass.c_n = c_n + states;
    pass.outputs = outputs + column;
    if (arrays.left()) {
      pass.gates = arrays.next();
      pass.cells = arrays.next();
    }
  });
  run(pool, passes, kernels.forward);
}

// d outputs, d h_n, lengths, d c_n, and W_hh, the gates and the cells of each direction
//   -> d h_0, d c_0, and dz of each direction.
template <typename T>
void backward(ffi::ThreadPool& pool, ffi::AnyBuffer d_outputs, ffi::AnyBuffer d_h_n,
              ffi::RemainingArgs others, ffi::RemainingRets results, const Kernels<T>& kernels,
              bool reverse, bool batch_major) {
  Arguments<T> arguments(others);
  Results<T> arrays(results);
  auto layer = pass_over<Backward<T>>(d_outputs, d_h_n, batch_major);
  layer.lengths = arguments.template next<std::int32_t>();
  const T* d_c_n = arguments.next();
  T* d_h_0 = arrays.next();
  T* d_c_0 = arrays.next();
  const auto passes = of_directions(layer, reverse, [&](auto& pass, Size states, Size column) {
    pass.kernel_hh = arguments.next();
    pass.gates = arguments.next();
    pass.cells = arguments.next();
    pass.d_outputs = data<T>(d_outputs) + column;
    pass.d_h_n = data<T>(d_h_n) + states;
    pass.d_c_n = d_c_n + states;
    pass.d_h_0 = d_h_0 + states;
    pass.d_c_0 = d_c_0 + states;
    pass.dz = arrays.next();
  });
  run(pool, passes, kernels.backward);
}

// x, h_0, lengths, outputs, and dz of each direction
//   -> the gradients of W_ih, W_hh and the bias of each direction.
template <typename T>
void weight_gradients(ffi::ThreadPool& pool, ffi::AnyBuffer x, ffi::AnyBuffer h_0,
                      ffi::RemainingArgs others, ffi::RemainingRets results,
                      const Kernels<T>& kernels, bool reverse, bool batch_major) {
  Arguments<T> arguments(others);
  Results<T> arrays(results);
  auto layer = pass_over<WeightGradients<T>>(x, h_0, batch_major);
  layer.x = data<T>(x);
  layer.lengths = arguments.template next<std::int32_t>();
  const T* outputs = arguments.next();
  const auto passes = of_directions(layer, reverse, [&](auto& pass, Size states, Size column) {
    pass.h_0 = data<T>(h_0) + states;
    pass.outputs = outputs + column;
    pass.dz = arguments.next();
    pass.d_kernel_ih = arrays.next();
    pass.d_kernel_hh = arrays.next();
    pass.d_bias = arrays.next();
  });
  run(pool, passes, kernels.weight_gradients);
}

// dz and W_ih of each direction -> the gradient of x.
template <typename T>
void input_gradients(ffi::ThreadPool& pool, ffi::AnyBuffer dz, ffi::AnyBuffer kernel_ih,
                     ffi::RemainingArgs others, ffi::RemainingRets results,
                     const Kernels<T>& kernels, bool batch_major) {
  Arguments<T> arguments(others);
  auto pass = pass_over<InputGradients<T>>(dz, batch_major);
  pass.input = kernel_ih.dimensions()[0];
  pass.hidden = kernel_ih.dimensions()[1] / 4;
  pass.directions = 1 + static_cast<Size>(others.size()) / 2;
  for (Size direction = 0; direction < pass.directions; ++direction) {
    pass.dz[direction] = direction ? arguments.next() : data<T>(dz);
    pass.kernel_ih[direction] = direction ? arguments.next() : data<T>(kernel_ih);
  }
  pass.d_x = Results<T>(results).next();
  run(pool, std::vector<InputGradients<T>>{pass}, kernels.input_gradients);
}

ffi::Error forward_call(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer h_0,
                        ffi::RemainingArgs others, ffi::RemainingRets results, bool reverse,
                        bool batch_major) {
  return with_kernels(x, [&](const auto& kernels) {
    forward(pool, x, h_0, others, results, kernels, reverse, batch_major);
  });
}

ffi::Error backward_call(ffi::ThreadPool pool, ffi::AnyBuffer d_outputs, ffi::AnyBuffer d_h_n,
                         ffi::RemainingArgs others, ffi::RemainingRets results, bool reverse,
                         bool batch_major) {
  return with_kernels(d_outputs, [&](const auto& kernels) {
    backward(pool, d_outputs, d_h_n, others, results, kernels, reverse, batch_major);
  });
}

ffi::Error weight_gradients_call(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer h_0,
                                 ffi::RemainingArgs others, ffi::RemainingRets results,
                                 bool reverse, bool batch_major) {
  return with_kernels(x, [&](const auto& kernels) {
    weight_gradients(pool, x, h_0, others, results, kernels, reverse, batch_major);
  });
}

ffi::Error input_gradients_call(ffi::ThreadPool pool, ffi::AnyBuffer dz, ffi::AnyBuffer kernel_ih,
                                ffi::RemainingArgs others, ffi::RemainingRets results, bool,
                                bool batch_major) {
  return with_kernels(dz, [&](const auto& kernels) {
    input_gradients(pool, dz, kernel_ih, others, results, kernels, batch_major);
  });
}

}  // namespace
}  // namespace flax_bilstm

#define FLAX_BILSTM_CALL \
  xla::ffi::Ffi::Bind()  \
      .Ctx<xla::ffi::ThreadPool>()  \
      .Arg<xla::ffi::AnyBuffer>()  \
      .Arg<xla::ffi::AnyBuffer>()  \
      .RemainingArgs()  \
      .RemainingRets()  \
      .Attr<bool>("reverse")  \
      .Attr<bool>("batch_major")

extern "C" {

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_bilstm_forward, flax_bilstm::forward_call, FLAX_BILSTM_CALL);
XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_bilstm_backward, flax_bilstm::backward_call, FLAX_BILSTM_CALL);
XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_bilstm_weight_gradients, flax_bilstm::weight_gradients_call,
                              FLAX_BILSTM_CALL);
XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_bilstm_input_gradients, flax_bilstm::input_gradients_call,
                              FLAX_BILSTM_CALL);

const char* flax_bilstm_best_instruction_set() { return flax_bilstm::best_instruction_set(); }

// The version of the FFI headers that this was compiled with, as 1000 · major + minor.
int flax_bilstm_ffi_version() { return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR; }

// The version of these functions; to be increased, also in library.py, with each change of them.
int flax_bilstm_interface() { return 3; }

bool flax_bilstm_choose_instruction_set(const char* name) {
  return flax_bilstm::choose_instruction_set(name);
}

// σ and tanh of float32 (size 4) or float64 (size 8), for the tests.
void flax_bilstm_activations(int size, std::ptrdiff_t count, const void* x, void* sigmoid,
                             void* tanh) {
  const auto evaluate = [&](const auto& functions, auto zero) {
    using T = decltype(zero);
    functions.sigmoid(count, static_cast<const T*>(x), static_cast<T*>(sigmoid));
    functions.tanh(count, static_cast<const T*>(x), static_cast<T*>(tanh));
  };
  const flax_bilstm::InstructionSet& chosen = flax_bilstm::instruction_set();
  if (size == 4) {
    evaluate(chosen.activations32, 0.0f);
  } else {
    evaluate(chosen.activations64, 0.0);
  }
}

#pragma GCC visibility pop
}
