"""Adapters for other people's code, one file for each client and for each part that clients share.

`sparse` serves every LightGCN-type model that multiplies by a sparse adjacency. `hkuds` serves the released MMSSL code
and its forks, `lightgcn_pytorch`, `mmrec`, `recbole` and `pyg` the frameworks of these names.
"""
