// Chooses the instruction set: the widest that this processor has, or the one that is asked for.

#ifndef FLAX_BILSTM_DISPATCH_H_
#define FLAX_BILSTM_DISPATCH_H_

#include "kernels.h"

namespace flax_bilstm {

// The widest of portable, avx2 and avx512 that this processor has.
const char* best_instruction_set();

// Uses instruction set `name` from now on; returns false if this processor lacks it.
bool choose_instruction_set(const char* name);

const InstructionSet& instruction_set();

}  // namespace flax_bilstm

#endif  // FLAX_BILSTM_DISPATCH_H_
