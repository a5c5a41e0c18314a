"""`mmssl-fast reproduce`: the tables and figures of the paper on the user's data. Each run has its own folder.

plan.py lists the runs that a target (a table or figure) needs, runs.py completes them, tables.py, gradients.py and
pictures.py produce the Markdown and the figures, and paper.py contains the numbers printed in the paper.
"""
