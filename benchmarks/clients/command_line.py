"""The command line of run.py. A mistake is one line on standard error, before a side is started."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def read(clients: list[str]) -> argparse.Namespace:
    """The arguments. `sides` is the list of names, `set` the dict of options."""
    parser = argparse.ArgumentParser(description="A public client with and without mmssl_fast.dropin, in turns")
    parser.add_argument("client", choices=clients)
    parser.add_argument("checkout", type=folder, help="the client's checkout")
    parser.add_argument("--data", type=folder, help="catalogue in any layout that mmssl-fast reads; default: synthetic")
    parser.add_argument("--users", type=positive, default=3000, help="of the synthetic catalogue")
    parser.add_argument("--items", type=positive, default=2000, help="of the synthetic catalogue")
    parser.add_argument("--turns", type=positive, default=3)
    parser.add_argument("--evaluations", type=count, default=2, help="0: none")
    parser.add_argument(
        "--sides", type=sides, default="own,sparse,full", help="another name is the unchanged client once more"
    )
    parser.add_argument("--keep-memory", action="store_true", help="glibc returns no memory: steadier times of steps")
    parser.add_argument("--json", type=new_file, help="also write the figures here")
    parser.add_argument(
        "--set", type=option, action="append", default=[], metavar="KEY=VALUE", help="an option of the client"
    )
    args = parser.parse_args()
    args.set = dict(args.set)
    for key, value in args.set.items():
        side, dot, name = key.rpartition(".")
        if dot and side not in args.sides:
            parser.error(f"argument --set: {key}: the sides are {', '.join(args.sides)}")
        if name == "threads" and not (value.isdecimal() and int(value)):
            parser.error(f"argument --set: {key}={value}: threads must be a number from 1")
    return args


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("there must be at least one")
    return number


def count(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def folder(text: str) -> Path:
    if not (path := Path(text)).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path


def new_file(text: str) -> Path:
    """A file that can be written, which is checked before the sides have run for minutes."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text}")
    return path


def sides(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if not name.isidentifier():
            raise argparse.ArgumentTypeError(f"{name!r} is no name of a side; use letters, digits and _, as in own2")
        if names.count(name) > 1:
            raise argparse.ArgumentTypeError(
                f"{name} is named twice; for the unchanged client once more, use another name, as in own,own2,sparse"
            )
    return names


def option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value
