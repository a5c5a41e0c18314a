"""The algebra of relation rows (docs/algebra.md): linear layers, norms and gradients without forming the rows.

relation_linear.py, relation_row_norm.py and gradient_norm.py have the operations. parts.py has the arithmetic that the
linear layer does for each kind of rows, weight_gradient.py and pending_gradient.py the two destinations of dL/dW.
"""
