// Large pages for large results: a first touch then costs a page fault for 2 MiB, not for 4 KiB, which takes as long as
// some kernels take to fill them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mmssl {

// Asks for large pages under a tensor that nothing has been written to yet. Only from 32 MiB: glibc maps such a block
// by itself and unmaps it when it is freed, so that the request ends with the tensor. A wish: refusals do not matter.
inline void wish_large_pages(const at::Tensor& x) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kPage = std::uintptr_t{1} << 21;
  const auto data = reinterpret_cast<std::uintptr_t>(x.data_ptr()), bytes = static_cast<std::uintptr_t>(x.nbytes());
  if (bytes < 16 * kPage) return;
  const std::uintptr_t begin = (data + kPage - 1) / kPage * kPage, end = (data + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace mmssl
