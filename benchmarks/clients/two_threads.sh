#!/usr/bin/env bash
# Two-thread figures of the main public projects for docs/dropin_measurements.md. Nothing else may run on the machine.
#
#   benchmarks/clients/two_threads.sh CHECKOUTS DATA [TURNS]
#
# CHECKOUTS is a folder that contains clones of LightGCN-PyTorch, MMRec, RecBole-GNN and MMSSL, and in `recbole` the
# folder of the package recbole (pip install --no-deps --target CHECKOUTS/recbole recbole==1.2.1). What is not there is
# left out. DATA is a data set in any layout that mmssl-fast reads. Elapsed times count: "epoch, elapsed s".
set -uo pipefail
cd "$(dirname "$0")/../.."
checkouts=$(realpath "$1") data=$(realpath "$2") turns=${3:-5}
export OMP_NUM_THREADS=2
# RecBole-GNN imports the same recbole.
export PYTHONPATH="$checkouts/recbole${PYTHONPATH:+:$PYTHONPATH}"

client() {
  local name=$1 folder=$2
  shift 2
  if [[ -d $checkouts/$folder ]]; then
    python benchmarks/clients/run.py "$name" "$checkouts/$folder" --turns "$turns" --evaluations 2 "$@" ||
      echo "$name: failed" >&2
  else
    echo "$name: left out, there is no $checkouts/$folder" >&2
  fi
}

client lightgcn_pytorch LightGCN-PyTorch --data "$data"
client recbole recbole --data "$data"
client mmrec MMRec --data "$data" --set model=LightGCN
client mmrec MMRec --data "$data" --set model=FREEDOM
client mmrec MMRec --data "$data" --set model=SELFCFED_LGN
client recbole_gnn RecBole-GNN --data "$data" --sides own,full
# Its only epoch has 9 steps with this data.
client hkuds MMSSL --users 1500 --items 1000
