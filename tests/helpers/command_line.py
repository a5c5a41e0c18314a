"""The arguments of a short run, and a command that has to fail."""

from mmssl_trainer.cli.main import main

SMALL = ["--system", "lightgcn", "--epochs", "2", "--batch", "64", "--threads", "1", "--set", "model.dim=8"]


def fails(capsys, arguments, *fragments, code=2):
    """The command exits with `code`, one line on stderr, after notes on the data, that has every fragment, and nothing
    on stdout."""
    assert main(arguments) == code
    captured = capsys.readouterr()
    said = [line for line in captured.err.splitlines() if not line.startswith("note: ")]
    assert captured.out == "" and len(said) == 1, captured
    for fragment in fragments:
        assert fragment in captured.err
    assert "Traceback" not in captured.err
