"""`mmssl-fast reproduce`: the paper's tables and figures on given data, each run in a folder of its own.

plan.py says which runs a target needs, runs.py brings them to their end, the module named after a target's kind makes
its Markdown and pictures, paper.py holds what the paper prints.
"""
