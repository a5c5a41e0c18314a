"""How mmssl_fast is built: a package, so that no module of another distribution (NVIDIA's `cuda`) can take a name of it."""
