"""The cases of all modules, by name. A case is described in driver.py."""

import agreement_cases
import exchange_cases
import group_cases
import op_cases
import row_cases

_MODULES = op_cases, exchange_cases, row_cases, agreement_cases, group_cases
_FUNCTIONS = {name: one for module in _MODULES for name, one in vars(module).items()}
CASES = {name: case for name, case in _FUNCTIONS.items() if name.startswith("case_")}
BROKEN = {name: case for name, case in _FUNCTIONS.items() if name.startswith("broken_")}
