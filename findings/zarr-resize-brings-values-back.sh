#!/usr/bin/env bash
# zarr 3.1.6: an array that is made smaller and larger again holds some of its old values, depending on the chunks.
#
# resize drops what lies beyond the new length. One would guess that rows which are added later hold the fill value, as
# in HDF5 (h5py). zarr deletes the chunks that lie beyond the new length as a whole, and leaves the chunk that is cut as
# it is in the store. Growing shows its values again: with 10 rows in chunks of 4, resize to 5 and back, rows 5 to 7 are
# the old ones and rows 8 and 9 are 0. append after a resize writes its own rows, but a resize ahead of a partial write
# (room for new users' embeddings, say) leaves deleted rows in place that look like data.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet zarr==3.1.6 h5py==3.16.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import h5py
import numpy as np
import zarr

print("zarr", zarr.__version__, "h5py", h5py.__version__)
values = np.arange(1, 11, dtype=np.float32)


def cut_and_grown(array, length: int) -> list[float]:
    array[:] = values
    array.resize((length,))
    assert array[:].tolist() == values[:length].tolist()
    array.resize((10,))
    return array[:].tolist()


seen = {}
for length in (4, 5, 8):
    array = zarr.create_array(f"{length}.zarr", shape=(10,), chunks=(4,), dtype="f4", fill_value=0)
    seen[length] = cut_and_grown(array, length)
    with h5py.File(f"{length}.h5", "w") as file:
        hdf = cut_and_grown(file.create_dataset("a", (10,), "f4", maxshape=(None,), chunks=(4,), fillvalue=0), length)
    print(f"10 rows, cut to {length}, grown to 10: zarr {seen[length]} h5py {hdf}")
    assert hdf == values[:length].tolist() + [0] * (10 - length)
assert seen[4] == [1, 2, 3, 4] + [0] * 6 and seen[8] == [1, 2, 3, 4, 5, 6, 7, 8, 0, 0]  # cut between two chunks
assert seen[5] == [1, 2, 3, 4, 5, 6, 7, 8, 0, 0]

array = zarr.create_array("embeddings.zarr", shape=(10, 2), chunks=(4, 2), dtype="f4", fill_value=np.nan)
array[:] = 7
array.resize((5, 2))
array.resize((10, 2))
array[9] = 1
untouched = np.isnan(array[5:9]).all(1).tolist()
print("with fill_value NaN: rows 5 to 8 are NaN:", untouched)
assert untouched == [False, False, False, True]
PYTHON
