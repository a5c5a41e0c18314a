"""The entry point of mmssl-fast. Errors that a user can cause appear as one line on stderr, without a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from .. import threads
from ..errors import InputError, Interrupted, NonFiniteLoss, Reported, WorkerFailed, as_user_error, install_command
from . import launch

TRAIN_PACKAGES = ("typer", "rich", "pydantic", "safetensors", "matplotlib", "pyarrow", "jinja2", "optuna")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: sys.argv) and return its exit code.

    0: success. 1: the run failed, for example because a loss became NaN or memory ran out. 2: invalid input, or a file
    that cannot be written. 130: interrupted. 143: terminated. 141: the reader of stdout has closed it.
    """
    with launch.ended_by_ctrl_c():
        code = _main(argv)
        if argv is None:  # the process ends after this
            from ..training import signals

            signals.end_quietly()
    return code


def _main(argv: Sequence[str] | None) -> int:
    load = threads.Load()  # measured while the commands are imported, which takes about as long
    try:
        from .app import app

        if "torch" not in sys.modules and (note := threads.configure(load=load)):
            print(f"note: {note}", file=sys.stderr)
        code = app(args=None if argv is None else list(argv), prog_name="mmssl-fast", standalone_mode=False)
        if code == 130:  # typer returns this after Ctrl-C
            return _fail("interrupted", code)
        if "WORLD_SIZE" in os.environ:
            from ..training import ranks

            ranks.leave()
        return code if isinstance(code, int) else 0
    except Reported as error:
        return error.code
    except InputError as error:
        return _fail(error, 2)
    except Interrupted as error:
        return _fail(error, 128 + error.signal)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAIN_PACKAGES:
            raise
        return _fail(f"the package {error.name} is not installed; {install_command('train')}", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of stdout has closed it, as in `mmssl-fast … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (NonFiniteLoss, WorkerFailed) as error:
        return _fail(error, 1)
    except Exception as error:
        import typer  # installed, otherwise the import of .app would have failed

        if isinstance(error, typer.Abort):
            return _fail("interrupted", 130)
        usage_error: Any = typer.BadParameter.__base__  # unknown option, missing argument; typer does not export it
        if isinstance(error, usage_error):
            command = error.ctx.command_path if error.ctx else "mmssl-fast"
            message = error.format_message().replace("Value error, ", "").rstrip(".")
            return _fail(f"{command}: {message}; see {command} --help", 2)
        if "WORLD_SIZE" in os.environ:
            from ..training.ranks import lost_connection

            error = lost_connection(error) or error
            if isinstance(error, WorkerFailed):
                return _fail(error, 1)
        if (user_error := as_user_error(error)) is not None:
            return _fail(user_error, 2 if isinstance(user_error, InputError) else 1)
        if "WORLD_SIZE" in os.environ:
            return _fail("".join(traceback.format_exception(error)).strip(), 1)
        raise


def _fail(message: object, code: int) -> int:
    if "WORLD_SIZE" in os.environ:  # torchrun's: one process reports, and none waits for the others
        from ..training import ranks, signals

        # The launcher sends SIGTERM to one process after the other, so that it may reach this one only now. Whoever is
        # chosen to report must not be ended before the message is printed: no other process would print it.
        with signals.ignore_signals():
            message = ranks.report_once(str(message))
            if message is not None:
                print(f"mmssl-fast: {message}", file=sys.stderr)
                launch.reported()
            ranks.end(code)
        return code
    print(f"mmssl-fast: {message}".replace("mmssl-fast: mmssl-fast", "mmssl-fast"), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
