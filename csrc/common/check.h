// The argument checks of the bindings. A failed check raises a ValueError in Python. The message names the op, the rule
// and the values.
#pragma once

#include <c10/util/Exception.h>

// MMSSL_CHECK(u.dim() == 2, "sampled_dot", "u must be [B, d], got ", u.dim(), " dimensions");
#define MMSSL_CHECK(rule, op, ...) TORCH_CHECK_VALUE(rule, op, ": ", __VA_ARGS__)
