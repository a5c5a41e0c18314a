"""The command mmssl-fast: a user's mistake becomes one line on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .. import threads
from ..errors import InputError, Interrupted, NonFiniteLoss, WorkerFailed, as_user_error, install_command

NEEDED = ("typer", "rich", "pydantic", "safetensors", "matplotlib", "pyarrow", "jinja2", "optuna")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code: 0; 1 for a run that failed, as
    by a loss that is not finite or for want of memory; 2 for a mistake in what was given or a file that cannot be
    written; 130 when interrupted, 143 when terminated."""
    if "torch" not in sys.modules and (note := threads.configure()):
        print(f"note: {note}", file=sys.stderr)
    try:
        from .app import app

        code = app(args=None if argv is None else list(argv), prog_name="mmssl-fast", standalone_mode=False)
        if code == 130:  # how typer passes an interruption on
            return _fail("interrupted", code)
        return code if isinstance(code, int) else 0
    except InputError as error:
        return _fail(error, 2)
    except Interrupted as error:
        return _fail(error, 128 + error.signal)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        return _fail(f"the package {error.name} is not installed; {install_command('train')}", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of stdout has gone, as in `mmssl-fast … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (NonFiniteLoss, WorkerFailed) as error:
        return _fail(error, 1)
    except Exception as error:
        import typer  # there, or the import of .app would have failed

        if isinstance(error, typer.Abort):
            return _fail("interrupted", 130)
        if isinstance(error, typer.BadParameter.__base__):  # UsageError: unknown option, missing argument
            command = error.ctx.command_path if error.ctx else "mmssl-fast"
            said = error.format_message().replace("Value error, ", "").rstrip(".")
            return _fail(f"{command}: {said}; see {command} --help", 2)
        if (known := as_user_error(error)) is not None:
            return _fail(known, 2 if isinstance(known, InputError) else 1)
        raise


def _fail(message: object, code: int) -> int:
    print(f"mmssl-fast: {message}".replace("mmssl-fast: mmssl-fast", "mmssl-fast"), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
