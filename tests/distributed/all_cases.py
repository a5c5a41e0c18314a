"""The cases of all modules, by name. A case is described in driver.py."""

import agreement_cases
import exchange_cases
import op_cases
import row_cases

_FUNCTIONS = vars(op_cases) | vars(exchange_cases) | vars(row_cases) | vars(agreement_cases)
CASES = {name: case for name, case in _FUNCTIONS.items() if name.startswith("case_")}
BROKEN = {name: case for name, case in _FUNCTIONS.items() if name.startswith("broken_")}
