"""Linear algebra of relation rows, composed of the ops: products with a weight, norms, and their gradients."""
