"""Agreement with the paper's gains."""

from __future__ import annotations

import math
from itertools import permutations
from unittest.mock import Mock

import numpy as np
import pytest
from scipy import stats

from roadmap.analysis import agreement as agreement_module
from roadmap.analysis.agreement import agreement, order_p, resolved_by_reference
from roadmap.config.roadmaps import load_roadmap

TABLE_10, TABLE_11 = (load_roadmap().reference(table) for table in (10, 11))


def printed_top1() -> dict[str, float]:
    """The accuracies of Table 10."""
    rows = {row.step: row.top1 for row in TABLE_10.rows if row.step in TABLE_10.steps}
    return {step: top1 for step, top1 in rows.items() if top1 is not None}


def test_steps_that_the_paper_itself_resolves() -> None:
    """Welch and Holm on Table 10's printed means and deviations; Table 11 prints no deviations."""
    unresolved = {"patchify_stem", "gelu", "fewer_norms", "layer_norm"}
    assert resolved_by_reference(TABLE_10) == TABLE_10.gains.keys() - unresolved - {"training_recipe"}
    assert resolved_by_reference(TABLE_11) == set()
    assert TABLE_10.gains["training_recipe"] == pytest.approx(2.69)


def test_p_of_an_order_counts_the_orders() -> None:
    """Compared with counting all orders, without ties, with ties on one side and on both; and with SciPy's exact p."""
    for one in ([3, 1, 2, 5, 4], [3, 1, 1, 5, 4]):
        for other in ([1, 2, 3, 4, 5], [1, 2, 2, 4, 5], [6, 5, 5, 2, 1]):
            x, y = np.array(one, float), np.array(other, float)
            taus = [abs(stats.kendalltau(order, y).statistic) for order in permutations(x)]
            expected = np.mean(np.array(taus) >= abs(stats.kendalltau(x, y).statistic) - 1e-9)
            assert order_p(x, y) == pytest.approx(expected)
    order = np.arange(13.0)
    for count in (7, 8):  # too many orders to try all of them
        x = np.concatenate([order[:count][::-1], order[count:]])
        expected = stats.kendalltau(x, order, method="exact").pvalue
        assert 0.01 < expected < 0.5 and order_p(x, order) == pytest.approx(expected, abs=0.006)


def test_agreement_of_known_cases() -> None:
    printed = printed_top1()
    same = agreement({step: np.full(5, top1) for step, top1 in printed.items()}, TABLE_10)
    assert same is not None and (same.steps, same.same_sign, same.all_steps) == (8, 8, 13)
    assert (same.tau, same.tau_low, same.tau_high, same.sign_low) == pytest.approx((1.0, 1.0, 1.0, 1.0))
    opposite = agreement({step: np.full(5, -top1) for step, top1 in printed.items()}, TABLE_10)
    assert opposite is not None and opposite.same_sign == 0 and opposite.tau == pytest.approx(-1.0)
    assert same.tau_p == opposite.tau_p < 1e-5
    constant = agreement({step: np.full(5, 50.0) for step in printed}, TABLE_10)
    assert constant is not None and (constant.tau, constant.same_sign, constant.tau_p) == (0.0, 0, 1.0)
    assert agreement({"layer_norm": np.ones(5), "gelu": np.ones(5), "baseline": np.ones(5)}, TABLE_10) is None
    one_seed = agreement({step: np.array([top1]) for step, top1 in printed.items()}, TABLE_10)
    assert one_seed is not None and one_seed.tau == pytest.approx(1.0) and math.isnan(one_seed.tau_low)


@pytest.mark.parametrize(
    ("studies", "resamples", "tolerance"), [(16, 200, 0.5), pytest.param(40, 800, 0.35, marks=pytest.mark.slow)]
)
def test_the_interval_is_as_wide_as_the_spread_of_tau(
    studies: int, resamples: int, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adjacent gains share a row, so they are not independent."""
    monkeypatch.setattr(agreement_module, "RESAMPLES", resamples)
    monkeypatch.setattr(agreement_module, "order_p", Mock(return_value=math.nan))  # not needed here
    printed = printed_top1()
    generator = np.random.default_rng(0)
    taus: list[float] = []
    widths: list[float] = []
    for _ in range(studies):
        result = agreement({step: top1 + generator.normal(0, 1, 5) for step, top1 in printed.items()}, TABLE_10)
        assert result is not None
        taus.append(result.tau)
        widths.append(result.tau_high - result.tau_low)
    assert np.mean(widths) == pytest.approx(3.92 * np.std(taus), rel=tolerance)
