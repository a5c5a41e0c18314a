#!/usr/bin/env bash
# statsmodels 0.15.0: one NaN among the p-values leaves none corrected, while hypotheses are still called significant.
#
# multipletests(p, method=...) returns (reject, corrected p-values). A comparison of two systems with equal results has the
# p-value NaN (a paired t-test divides 0 by 0). One would guess that the NaN is left out, or that all results are NaN and
# nothing is rejected. It depends on the method. fdr_bh, fdr_by and simes-hochberg: every corrected p-value is NaN, and
# reject is True for the same hypotheses as ever, so a table of p-values and its stars disagree. hommel: all NaN, nothing
# rejected. holm, bonferroni and holm-sidak: only that value is NaN, but it counts as a hypothesis and makes the others'
# p-values larger. No warning in any case.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet statsmodels==0.15.0 numpy==2.4.6 scipy==1.17.1
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import statsmodels
from scipy import stats
from statsmodels.stats.multitest import multipletests

print("statsmodels", statsmodels.__version__)
equal = np.array([0.2, 0.4, 0.1])
same = stats.ttest_rel(equal, equal).pvalue
assert np.isnan(same)
p = np.array([0.001, 0.01, same, 0.04])
for method in ("fdr_bh", "fdr_by", "simes-hochberg", "hommel", "holm", "bonferroni", "holm-sidak"):
    reject, corrected = multipletests(p, method=method)[:2]
    without = multipletests(p[~np.isnan(p)], method=method)[1]
    print(f"{method}: reject {reject.tolist()}, corrected {corrected.round(4).tolist()}; without the NaN {without.round(4).tolist()}")
    if method in ("fdr_bh", "fdr_by", "simes-hochberg"):
        assert np.isnan(corrected).all() and reject.tolist() == [True, True, False, False]
    elif method == "hommel":
        assert np.isnan(corrected).all() and not reject.any()
    else:
        assert np.isnan(corrected).tolist() == [False, False, True, False]
        assert (corrected[[0, 1, 3]] > without).all()
PYTHON
