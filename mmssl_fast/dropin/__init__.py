"""Adapters for other people's code: `sparse` for LightGCN-type models, `hkuds` for the released MMSSL and its forks."""
