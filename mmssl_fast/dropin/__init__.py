"""Drop-ins for existing code: one file for each client and for each part that clients share. See docs/dropin.md.

`sparse` is for LightGCN-type models that multiply by a sparse adjacency matrix, `hkuds` for the released MMSSL code and
its forks, and `lightgcn_pytorch`, `mmrec`, `recbole` and `pyg` for the frameworks with these names.
"""
