"""One look for every figure of the documentation: legible on white and on dark pages, and without colour alone."""

import matplotlib.pyplot as plt

DENSE, OURS, THIRD = "#b4532a", "#1f6feb", "#5b8a3c"


def axes(columns: int = 1, height: float = 3.1):
    """A row of `columns` axes on a transparent figure whose ink is grey enough for both themes."""
    ink = "#6b7280"
    plt.rcParams.update(
        {
            "axes.edgecolor": ink,
            "axes.labelcolor": ink,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlecolor": ink,
            "axes.titlesize": "medium",
            "font.size": 9,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "legend.labelcolor": ink,
            "savefig.transparent": True,
            "xtick.color": ink,
            "ytick.color": ink,
        }
    )
    _, made = plt.subplots(1, columns, figsize=(4.3 * columns, height), layout="constrained", squeeze=False)
    for each in made[0]:
        each.grid(True, which="major")
    return made[0]
