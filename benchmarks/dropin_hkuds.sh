#!/bin/sh
# The released MMSSL code (a checkout of HKUDS/MMSSL at PATH) with and without mmssl_fast.dropin, step by step in turns:
#   benchmarks/dropin_hkuds.sh PATH DATA [--steps 10] [--control] [... see --help]
# DATA: a catalogue in any layout that `mmssl-fast train` reads. Nothing is written outside a temporary folder.
exec "${PYTHON:-python}" "$(dirname "$0")/dropin_hkuds.py" compare "$@"
