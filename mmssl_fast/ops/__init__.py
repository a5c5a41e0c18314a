"""The ops, one module each; import the module of the op that is needed."""
