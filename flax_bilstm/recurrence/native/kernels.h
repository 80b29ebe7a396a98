// What one call computes, and the functions that every instruction set compiles for itself.

#ifndef FLAX_BILSTM_KERNELS_H_
#define FLAX_BILSTM_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace flax_bilstm {

using Size = std::ptrdiff_t;

struct Range {
  Size begin, end;
  Size size() const { return end - begin; }
};

// Up to this batch size the weights are not packed: copying them would take longer than it saves.
constexpr Size kLargestUnpackedBatch = 4;

constexpr Size kMostDirections = 2;

// The sizes of a layer, and which direction of it a pass computes.
struct Layer {
  Size time, batch, input, hidden, directions;
  bool reverse;                 // from each sequence's last step to its first
  bool batch_major;             // arrays over time are (batch, time, ·), not (time, batch, ·)
  bool shared;                  // several threads compute each step of a direction together
  const std::int32_t* lengths;  // (batch,), each from 0 to time

  // From one step or one sequence to the next, in rows of the arrays over time.
  Size step_stride() const { return batch_major ? 1 : batch; }
  Size sequence_stride() const { return batch_major ? time : 1; }
  Size row_of(Size t, Size sequence) const {
    return t * step_stride() + sequence * sequence_stride();
  }
  Size output_stride() const { return directions * hidden; }
};

// One direction of one layer. Arrays are dense and in C order; rows of `outputs` and `d_outputs`
// have room for all directions, and the pointers are to this direction's columns. The shapes are
// those of a layer that is not batch_major.
template <typename T>
struct Forward : Layer {
  const T* x;                // (time, batch, input)
  const T* kernel_ih;        // (input, 4 hidden), gates i, f, g, o
  const T* kernel_hh;        // (hidden, 4 hidden)
  const T* bias;             // (4 hidden,)
  const T *h_0, *c_0;        // (batch, hidden)
  T* outputs;                // (time, batch, output_stride), 0 in the padding
  T *h_n, *c_n;              // (batch, hidden)
  // What a training call keeps for its backward pass; null in other calls.
  T* gates;                  // (time, batch, 4 hidden), activated
  T* cells;                  // (time, batch, hidden), before the step
};

template <typename T>
struct Backward : Layer {
  const T* kernel_hh;
  const T* gates;            // from the forward pass
  const T* cells;
  const T* d_outputs;        // (time, batch, output_stride)
  const T *d_h_n, *d_c_n;    // (batch, hidden)
  T* dz;                     // (time, batch, 4 hidden), 0 in the padding; may be `gates`
  T *d_h_0, *d_c_0;          // (batch, hidden)
};

template <typename T>
struct WeightGradients : Layer {
  const T* x;                // (time, batch, input)
  const T* h_0;              // (batch, hidden)
  const T* outputs;          // (time, batch, output_stride)
  const T* dz;               // (time, batch, 4 hidden)
  T* d_kernel_ih;            // (input, 4 hidden)
  T* d_kernel_hh;            // (hidden, 4 hidden)
  T* d_bias;                 // (4 hidden,)
};

// Of all directions at once: their sum.
template <typename T>
struct InputGradients : Layer {
  const T* kernel_ih[kMostDirections];  // (input, 4 hidden)
  const T* dz[kMostDirections];         // (time, batch, 4 hidden)
  T* d_x;                               // (time, batch, input)
};

// A pass in parts: `pack` packs some panels of the weights; then `run` computes the items from
// `begin` to `end` out of `count`: rows of the batch over all steps, or panels of dz's columns.
// There are no more parts than tiles; results do not depend on how the work is split. Sizes are
// numbers of elements; `panels` is 0 if nothing is packed.
template <typename Pass, typename T>
struct Kernel {
  Size lanes, tile;
  Size (*count)(const Pass&);
  Size (*panels)(const Pass&);
  Size (*panel_size)(const Pass&);
  void (*pack)(const Pass&, Range panels, T* packed);
  Size (*scratch_size)(const Pass&, Size count);
  void (*run)(const Pass&, Size begin, Size end, const T* packed, T* scratch);
};

// A pass over time, where `step` may compute only some of `blocks` of hidden units, if all blocks
// of a step are computed before the next step. Panels, if any, are those of the blocks. Step 0
// sets the first states; then there is one for each step in time.
template <typename Pass, typename T>
struct StepKernel : Kernel<Pass, T> {
  Size (*blocks)(const Pass&);
  void (*step)(const Pass&, Size step, Range rows, Range blocks, const T* packed, T* scratch);
};

template <typename T>
struct Kernels {
  StepKernel<Forward<T>, T> forward;
  StepKernel<Backward<T>, T> backward;
  Kernel<WeightGradients<T>, T> weight_gradients;
  Kernel<InputGradients<T>, T> input_gradients;
};

// The two vector functions by themselves, for the tests of their accuracy.
template <typename T>
struct Activations {
  void (*sigmoid)(Size count, const T* x, T* y);
  void (*tanh)(Size count, const T* x, T* y);
};

struct InstructionSet {
  Kernels<float> float32;
  Kernels<double> float64;
  Activations<float> activations32;
  Activations<double> activations64;
};

namespace portable {
extern const InstructionSet instruction_set;
}
#ifdef FLAX_BILSTM_X86
namespace avx2 {
extern const InstructionSet instruction_set;
}
namespace avx512 {
extern const InstructionSet instruction_set;
}
#endif

}  // namespace flax_bilstm

#endif  // FLAX_BILSTM_KERNELS_H_
