// The calls that XLA makes: one for each pass of one layer, with all its directions.

#include <vector>

#include "call.h"

namespace flax_bilstm {
namespace {

// Of two directions, the second is the reverse one; a single direction may be either.

// x, h_0, lengths, c_0, and W_ih, W_hh and the summed bias of each direction
//   -> outputs, h_n, c_n and, if asked for, the gates and cells of each direction.
template <typename T>
void forward(ffi::ThreadPool& pool, ffi::AnyBuffer x, ffi::AnyBuffer h_0, ffi::RemainingArgs others,
             ffi::RemainingRets results, const Kernels<T>& kernels, bool reverse) {
  Forward<T> layer{};
  layer.time = x.dimensions()[0];
  layer.batch = x.dimensions()[1];
  layer.input = x.dimensions()[2];
  const Size directions = h_0.dimensions()[0];
  layer.hidden = h_0.dimensions()[2];
  layer.output_stride = directions * layer.hidden;
  layer.x = static_cast<const T*>(x.untyped_data());
  layer.h_0 = static_cast<const T*>(h_0.untyped_data());
  Arguments<T> arguments(others);
  Results<T> arrays(results);
  layer.lengths = arguments.template next<std::int32_t>();
  layer.c_0 = arguments.next();
  layer.outputs = arrays.next();
  layer.h_n = arrays.next();
  layer.c_n = arrays.next();

  std::vector<Forward<T>> passes;
  for (Size direction = 0; direction < directions; ++direction) {
    Forward<T> pass = layer;
    const Size states = direction * layer.batch * layer.hidden;
    pass.reverse = reverse || direction == 1;
    pass.kernel_ih = arguments.next();
    pass.kernel_hh = arguments.next();
    pass.bias = arguments.next();
    pass.h_0 += states;
    pass.c_0 += states;
    pass.h_n += states;
    pass.c_n += states;
    pass.outputs += direction * layer.hidden;
    if (arrays.left()) {
      pass.gates = arrays.next();
      pass.cells = arrays.next();
    }
    passes.push_back(pass);
  }
  run(pool, passes, kernels.forward);
}

// d outputs, d h_n, lengths, d c_n, and W_hh, the gates and the cells of each direction
//   -> d h_0, d c_0, and dz of each direction.
template <typename T>
void backward(ffi::ThreadPool& pool, ffi::AnyBuffer d_outputs, ffi::AnyBuffer d_h_n,
              ffi::RemainingArgs others, ffi::RemainingRets results, const Kernels<T>& kernels,
              bool reverse) {
  Backward<T> layer{};
  layer.time = d_outputs.dimensions()[0];
  layer.batch = d_outputs.dimensions()[1];
  layer.output_stride = d_outputs.dimensions()[2];
  const Size directions = d_h_n.dimensions()[0];
  layer.hidden = d_h_n.dimensions()[2];
  layer.d_outputs = static_cast<const T*>(d_outputs.untyped_data());
  layer.d_h_n = static_cast<const T*>(d_h_n.untyped_data());
  Arguments<T> arguments(others);
  Results<T> arrays(results);
  layer.lengths = arguments.template next<std::int32_t>();
  layer.d_c_n = arguments.next();
  layer.d_h_0 = arrays.next();
  layer.d_c_0 = arrays.next();

  std::vector<Backward<T>> passes;
  for (Size direction = 0; direction < directions; ++direction) {
    Backward<T> pass = layer;
    const Size states = direction * layer.batch * layer.hidden;
    pass.reverse = reverse || direction == 1;
    pass.kernel_hh = arguments.next();
    pass.gates = arguments.next();
    pass.cells = arguments.next();
    pass.d_outputs += direction * layer.hidden;
    pass.d_h_n += states;
    pass.d_c_n += states;
    pass.d_h_0 += states;
    pass.d_c_0 += states;
    pass.dz = arrays.next();
    passes.push_back(pass);
  }
  run(pool, passes, kernels.backward);
}

// x, h_0, lengths, outputs, and dz of each direction
//   -> the gradients of W_ih, W_hh and the bias of each direction.
template <typename T>
void weight_gradients(ffi::ThreadPool& pool, ffi::AnyBuffer x, ffi::AnyBuffer h_0,
                      ffi::RemainingArgs others, ffi::RemainingRets results,
                      const Kernels<T>& kernels, bool reverse) {
  WeightGradients<T> layer{};
  layer.time = x.dimensions()[0];
  layer.batch = x.dimensions()[1];
  layer.input = x.dimensions()[2];
  const Size directions = h_0.dimensions()[0];
  layer.hidden = h_0.dimensions()[2];
  layer.output_stride = directions * layer.hidden;
  layer.x = static_cast<const T*>(x.untyped_data());
  layer.h_0 = static_cast<const T*>(h_0.untyped_data());
  Arguments<T> arguments(others);
  Results<T> arrays(results);
  layer.lengths = arguments.template next<std::int32_t>();
  layer.outputs = arguments.next();

  std::vector<WeightGradients<T>> passes;
  for (Size direction = 0; direction < directions; ++direction) {
    WeightGradients<T> pass = layer;
    pass.reverse = reverse || direction == 1;
    pass.h_0 += direction * layer.batch * layer.hidden;
    pass.outputs += direction * layer.hidden;
    pass.dz = arguments.next();
    pass.d_kernel_ih = arrays.next();
    pass.d_kernel_hh = arrays.next();
    pass.d_bias = arrays.next();
    passes.push_back(pass);
  }
  run(pool, passes, kernels.weight_gradients);
}

ffi::Error forward_call(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer h_0,
                        ffi::RemainingArgs others, ffi::RemainingRets results, bool reverse) {
  return with_kernels(x, [&](const auto& kernels) {
    forward(pool, x, h_0, others, results, kernels, reverse);
  });
}

ffi::Error backward_call(ffi::ThreadPool pool, ffi::AnyBuffer d_outputs, ffi::AnyBuffer d_h_n,
                         ffi::RemainingArgs others, ffi::RemainingRets results, bool reverse) {
  return with_kernels(d_outputs, [&](const auto& kernels) {
    backward(pool, d_outputs, d_h_n, others, results, kernels, reverse);
  });
}

ffi::Error weight_gradients_call(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer h_0,
                                 ffi::RemainingArgs others, ffi::RemainingRets results,
                                 bool reverse) {
  return with_kernels(x, [&](const auto& kernels) {
    weight_gradients(pool, x, h_0, others, results, kernels, reverse);
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
      .Attr<bool>("reverse")

extern "C" {

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_bilstm_forward, flax_bilstm::forward_call, FLAX_BILSTM_CALL);
XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_bilstm_backward, flax_bilstm::backward_call, FLAX_BILSTM_CALL);
XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_bilstm_weight_gradients, flax_bilstm::weight_gradients_call,
                              FLAX_BILSTM_CALL);

const char* flax_bilstm_best_instruction_set() { return flax_bilstm::best_instruction_set(); }

// The version of the FFI headers that this was compiled with, as 1000 · major + minor.
int flax_bilstm_ffi_version() { return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR; }

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
