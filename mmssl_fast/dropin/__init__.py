"""Drop-ins for existing training code: one file per client, and one per part that clients share. See docs/dropin.md.

`sparse` is for LightGCN-type models that multiply by a sparse adjacency matrix, `hkuds` for the released MMSSL code and
its forks, and `lightgcn_pytorch`, `mmrec`, `recbole` and `pyg` for the frameworks with these names.
"""
