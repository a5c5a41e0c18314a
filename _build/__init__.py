"""How mmssl_fast is built: a package, so that no other distribution's module (NVIDIA's `cuda`) hides one of it."""
