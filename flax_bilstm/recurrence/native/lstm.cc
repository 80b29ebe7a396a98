// The calls that XLA makes: one for each pass of one layer, all of its directions at once.

#include <algorithm>
#include <memory>
#include <new>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "dispatch.h"
#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace flax_bilstm {
namespace {

namespace ffi = xla::ffi;

// Asks for large pages where an array of `bytes` begins: a training step writes tens of megabytes
// that glibc has just taken from the system, and the page faults would take longer than the writing.
void prefer_large_pages(void* data, std::size_t bytes) {
#if defined(__linux__)
  constexpr std::uintptr_t page = std::uintptr_t{1} << 21;
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t first = (address + page - 1) & ~(page - 1), end = (address + bytes) & ~(page - 1);
  if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

// Memory for vectors, not set to anything.
template <typename T>
class Workspace {
 public:
  explicit Workspace(Size count)
      : data_(static_cast<T*>(::operator new[](static_cast<std::size_t>(count) * sizeof(T),
                                               kAlignment))) {}
  T* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(T* data) const { ::operator delete[](data, kAlignment); }
  };
  std::unique_ptr<T, Delete> data_;
};

// How many of a direction's `pieces` one of the threads takes that no other direction has; not 0.
Size share(Size pieces, const ffi::ThreadPool& pool, Size directions) {
  const Size threads = std::max<Size>(1, (pool.num_threads() + directions - 1) / directions);
  return std::max<Size>(1, (pieces + threads - 1) / threads);
}

// Runs every direction, its batch split among the threads that no other direction has.
template <typename Pass, typename T>
void run(ffi::ThreadPool& pool, const std::vector<Pass>& passes, const Kernel<Pass, T>& kernel,
         Size tile_rows) {
  const Pass& first = passes.front();
  const Size directions = static_cast<Size>(passes.size()), batch = first.batch;
  const Size panels = kernel.panels(first), packed_size = panels * kernel.panel_size(first);
  const Workspace<T> packed(directions * packed_size);
  parallel(pool, directions * panels, [&](Size task) {
    const Size direction = task / panels;
    kernel.pack(passes[direction], task % panels, packed.data() + direction * packed_size);
  });

  const Size rows = share((batch + tile_rows - 1) / tile_rows, pool, directions) * tile_rows;
  const Size parts = (batch + rows - 1) / rows;
  const Size scratch_size = kernel.scratch_size(first, rows);
  const Workspace<T> scratch(directions * parts * scratch_size);
  parallel(pool, directions * parts, [&](Size task) {
    const Size direction = task % directions, begin = task / directions * rows;
    kernel.run(passes[direction], begin, std::min(begin + rows, batch),
               packed.data() + direction * packed_size, scratch.data() + task * scratch_size);
  });
}

// Buffer after buffer of a call, as arrays of T.
template <typename T>
class Arguments {
 public:
  explicit Arguments(ffi::RemainingArgs buffers) : buffers_(buffers) {}
  template <typename U = T>
  const U* next() {
    return static_cast<const U*>(buffers_.get<ffi::AnyBuffer>(index_++)->untyped_data());
  }

 private:
  ffi::RemainingArgs buffers_;
  std::size_t index_ = 0;
};

template <typename T>
class Results {
 public:
  explicit Results(ffi::RemainingRets buffers) : buffers_(buffers) {}
  std::size_t left() const { return buffers_.size() - index_; }
  T* next() {
    auto buffer = *buffers_.get<ffi::AnyBuffer>(index_++);
    prefer_large_pages(buffer->untyped_data(), buffer->size_bytes());
    return static_cast<T*>(buffer->untyped_data());
  }

 private:
  ffi::RemainingRets buffers_;
  std::size_t index_ = 0;
};

// With two directions the second one is the reverse one; a direction alone may be either.

// x, h_0, lengths, c_0, and W_ih, W_hh and the summed bias of each direction
//   -> outputs, h_n, c_n, and, where they are asked for, the gates and cells of each direction.
template <typename T>
void forward(ffi::ThreadPool& pool, ffi::AnyBuffer x, ffi::AnyBuffer h_0, ffi::RemainingArgs others,
             ffi::RemainingRets results, const Kernels<T>& kernels, Size tile_rows, bool reverse) {
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
  run(pool, passes, kernels.forward, tile_rows);
}

// d outputs, d h_n, lengths, d c_n, and W_hh, the gates and the cells of each direction
//   -> d h_0, d c_0, and dz of each direction.
template <typename T>
void backward(ffi::ThreadPool& pool, ffi::AnyBuffer d_outputs, ffi::AnyBuffer d_h_n,
              ffi::RemainingArgs others, ffi::RemainingRets results, const Kernels<T>& kernels,
              Size tile_rows, bool reverse) {
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
  run(pool, passes, kernels.backward, tile_rows);
}

// x, h_0, lengths, outputs, and dz of each direction
//   -> d W_ih, d W_hh and d bias of each direction.
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
  const Size blocks = kernels.weight_gradients.blocks(layer);
  const Size each = share(blocks, pool, directions);
  const Size parts = (blocks + each - 1) / each;
  parallel(pool, directions * parts, [&](Size task) {
    const Size begin = task / directions * each;
    kernels.weight_gradients.run(passes[task % directions], begin, std::min(begin + each, blocks));
  });
}

// Calls f with the kernels of the dtype of `buffer`.
template <typename F>
ffi::Error with_kernels(const ffi::AnyBuffer& buffer, const F& f) {
  const InstructionSet& chosen = instruction_set();
  try {
    switch (buffer.element_type()) {
      case ffi::F32:
        f(chosen.float32, chosen.rows);
        return ffi::Error::Success();
      case ffi::F64:
        f(chosen.float64, chosen.rows);
        return ffi::Error::Success();
      default:
        return ffi::Error::InvalidArgument("flax_bilstm: expected arrays of float32 or float64.");
    }
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "flax_bilstm: out of memory.");
  }
}

ffi::Error forward_call(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer h_0,
                        ffi::RemainingArgs others, ffi::RemainingRets results, bool reverse) {
  return with_kernels(x, [&](const auto& kernels, Size rows) {
    forward(pool, x, h_0, others, results, kernels, rows, reverse);
  });
}

ffi::Error backward_call(ffi::ThreadPool pool, ffi::AnyBuffer d_outputs, ffi::AnyBuffer d_h_n,
                         ffi::RemainingArgs others, ffi::RemainingRets results, bool reverse) {
  return with_kernels(d_outputs, [&](const auto& kernels, Size rows) {
    backward(pool, d_outputs, d_h_n, others, results, kernels, rows, reverse);
  });
}

ffi::Error weight_gradients_call(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer h_0,
                                 ffi::RemainingArgs others, ffi::RemainingRets results,
                                 bool reverse) {
  return with_kernels(x, [&](const auto& kernels, Size) {
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

// Of the headers that this was compiled with, as 1000 · major + minor.
int flax_bilstm_ffi_version() { return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR; }

bool flax_bilstm_choose_instruction_set(const char* name) {
  return flax_bilstm::choose_instruction_set(name);
}

// Of float32 (size 4) or float64 (size 8), for the tests.
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
