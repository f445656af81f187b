"""Prints the figures recorded in the tests of crates/runner/src/stats.

    pip install numpy scipy statsmodels && python scripts/statistics_oracle.py

Last run: numpy 2.4.6, scipy 1.17.1, statsmodels 0.15.0.
"""

import math

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests


def show(name, *values):
    print(f"{name:34}", *(repr(float(v)) for v in values))


three = np.array([82.1, 83.4, 81.7])
five = np.array([12.0, 15.5, 63.0, 61.25, 64.0])
for name, x in (("three", three), ("five", five)):
    show(f"{name}: mean, ddof 1, ddof 0", x.mean(), x.std(ddof=1), x.std(ddof=0))
    for level in (0.95, 0.99):
        # Not stats.t.interval: scipy's lower-tail quantile is off in the eleventh digit (t(0.005, df=4) against
        # mpmath's -4.6040948713499932254), so its 99 % interval is not even symmetric. The upper tail is right.
        half = stats.t.ppf(0.5 + level / 2, len(x) - 1) * stats.sem(x)
        show(f"{name}: t interval {level}", x.mean() - half, x.mean() + half)
show("published: mean, sd of 1 decimal", np.round(three, 1).mean(), np.round(three, 1).std())
for df in (1, 2, 4, 10, 100):
    show(f"t quantile 0.975, df {df}", stats.t.ppf(0.975, df))
for t, df in ((2.0, 2), (0.5, 7), (-3.25, 4), (12.0, 30)):
    show(f"t sf {t}, df {df}", stats.t.sf(t, df))
show("harmonic 80.47 71.69", stats.hmean([80.47, 71.69]))
for b, c in ((10, 3), (0, 6), (25, 40), (150, 201), (5, 5)):
    table = [[50, b], [c, 60]]
    exact = mcnemar(table, exact=True)
    corrected = mcnemar(table, exact=False, correction=True)
    show(f"mcnemar b={b} c={c}: exact, chi2, p", exact.pvalue, corrected.statistic, corrected.pvalue)

eleven = np.array([2.1, -0.4, 5.3, 0.9, -1.2, 7.7, 3.3, 0.2, 4.1, -0.7, 1.8])
r = stats.wilcoxon(eleven, method="exact")
show("wilcoxon eleven: statistic, p", r.statistic, r.pvalue)
ties = np.array([1.0, -1.0, 2.0, 2.0, -3.0, 4.0, 0.0, 5.0])
r = stats.wilcoxon(ties, method=stats.PermutationMethod(n_resamples=np.inf))
show("wilcoxon ties: statistic, p", r.statistic, r.pvalue)
thirty = np.array([((i * 37) % 61 - 22) / 4 for i in range(30)])
r = stats.wilcoxon(thirty, method="approx", correction=False)
show("wilcoxon thirty: statistic, p", r.statistic, r.pvalue)

p = [0.01, 0.04, 0.03, 0.005, 0.2]
show("holm", *multipletests(p, method="holm")[1])

# Expected calibration error, 15 equal bins (lower, upper], as in Guo et al. 2017.
confidence = np.array([((i * 7919) % 1000 + 1) / 1000 for i in range(200)])
correct = np.array([((i * 104729) % 1000) < 1000 * c**1.5 for i, c in enumerate(confidence)])
edges = np.linspace(0, 1, 16)
ece = 0.0
for low, high in zip(edges[:-1], edges[1:]):
    inside = (confidence > low) & (confidence <= high)
    if inside.any():
        ece += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
show("ece (percent), correct", 100 * ece, correct.sum())
show("erfc(0.5), erfc(3)", math.erfc(0.5), math.erfc(3))
