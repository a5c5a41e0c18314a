"""The build of mmssl_fast. It is a package, so that its modules do not collide with top-level modules of other
distributions, such as NVIDIA's `cuda`."""
