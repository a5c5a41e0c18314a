"""The targets of reader_targets.py under atheris, which looks for inputs that reach new lines of the readers.

    pip install atheris
    python -P tests/fuzz/atheris_loaders.py FOLDER -max_total_time=120

FOLDER holds the corpus, begun with every valid file. The first byte of an input chooses the target and file, the rest
is that file's content; whatever loaders.py calls a finding ends the program, with the input in the current folder.
"""

import signal
import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mmssl_trainer"]):
    import mmssl_trainer.data
    import mmssl_trainer.runs.saved_model  # noqa: F401

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("", "helpers"))  # as pytest's pythonpath

from fuzz import loaders
from fuzz.reader_targets import data_targets, run_targets


def main():
    folder = Path(sys.argv[1])
    corpus, work = folder / "corpus", folder / "work"
    corpus.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, loaders._too_long)
    targets = data_targets(work) | run_targets(work)
    places = [(name, file) for name, target in targets.items() for file in sorted(target.files)]
    for at, (name, file) in enumerate(places):
        for path, content in targets[name].files.items():
            (work / name / path).parent.mkdir(parents=True, exist_ok=True)
            (work / name / path).write_bytes(content)
        (corpus / f"{at}").write_bytes(bytes([at]) + targets[name].files[file])
    for name, target in targets.items():
        target.read(work / name)
    watch = loaders.Watch()

    def one(given):
        if not given:
            return
        name, file = places[given[0] % len(places)]
        path = work / name / file
        path.write_bytes(given[1:])
        try:
            loaders.attempt(targets[name], work / name, watch)
        finally:
            path.write_bytes(targets[name].files[file])

    atheris.Setup([sys.argv[0], *sys.argv[2:], "-max_len=65536", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
