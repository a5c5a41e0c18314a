#include "common/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace mmssl {
namespace {

#if defined(__x86_64__)
constexpr const char* kLevels = "baseline,avx2,avx512";

Isa best_isa() {
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))) {
    return Isa::baseline;
  }
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return avx512 ? Isa::avx512 : Isa::avx2;
}
#else
constexpr const char* kLevels = "baseline";

Isa best_isa() { return Isa::baseline; }
#endif

Isa choose_isa() {
  const Isa best = best_isa();
  const char* forced = std::getenv("MMSSL_FAST_ISA");
  if (forced == nullptr || *forced == '\0') return best;
  for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (std::string(forced) != isa_name(isa)) continue;
    if (isa > best) {
      throw std::runtime_error(std::string("MMSSL_FAST_ISA=") + forced + ": this processor supports at most " +
                               isa_name(best));
    }
    return isa;
  }
  throw std::runtime_error(std::string("MMSSL_FAST_ISA=") + forced + ": must be one of " + kLevels);
}

}  // namespace

Isa isa_in_use() {
  static const Isa isa = choose_isa();
  return isa;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

const char* isa_levels() { return kLevels; }

}  // namespace mmssl
