"""The layouts of other projects, which `data convert` turns into the plain layout.

A module has NAME, TITLE (whose layout it is, in words), fits(folder) → bool and read(folder) → Source. `tables`, which
takes any table with columns for users and items, reads single files too and comes last.
"""

from . import chaorec, lightgcn, recbole, sslrec, tables

FORMATS = (recbole, lightgcn, chaorec, sslrec, tables)


def recognised(folder):
    """The format module that a folder fits, None without one."""
    return next((module for module in FORMATS if module.fits(folder)), None)
