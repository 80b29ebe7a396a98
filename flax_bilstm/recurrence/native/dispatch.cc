#include "dispatch.h"

#include <atomic>
#include <cstring>

namespace flax_bilstm {
namespace {

struct Choice {
  const char* name;
  const InstructionSet* functions;
  bool (*supported)();
};

// The widest first.
const Choice kChoices[] = {
#ifdef FLAX_BILSTM_X86
    {"avx512", &avx512::instruction_set,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
     }},
    {"avx2", &avx2::instruction_set,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {"portable", &portable::instruction_set, [] { return true; }},
};

std::atomic<const InstructionSet*> chosen{&portable::instruction_set};

}  // namespace

const char* best_instruction_set() {
  for (const Choice& choice : kChoices) {
    if (choice.supported()) return choice.name;
  }
  return nullptr;  // unreachable: the last choice runs on every processor
}

bool choose_instruction_set(const char* name) {
  for (const Choice& choice : kChoices) {
    if (std::strcmp(choice.name, name) == 0 && choice.supported()) {
      chosen = choice.functions;
      return true;
    }
  }
  return false;
}

const InstructionSet& instruction_set() { return *chosen; }

}  // namespace flax_bilstm
