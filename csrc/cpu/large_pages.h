// Large pages for large results. The first write then causes a page fault per 2 MiB instead of per 4 KiB. Page faults
// of 4 KiB take as long as some kernels take to fill the result.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mmssl {

// Requests large pages for a tensor that has not been written to yet. Only for tensors of at least 32 MiB: glibc maps
// such a block separately and unmaps it when it is freed, so that the request does not affect later tensors. It does
// not matter if the request fails.
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
