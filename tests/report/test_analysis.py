"""The analysis of made-up records whose every number can be counted by hand."""

import pytest
from report_run import reference, result, run_of

from ralx.report.analysis import analyse
from ralx.report.records import StudyResults
from ralx.report.study_tables import miou_table, selected_table

BASELINES = ("uniform", "entropy", "bald")  # the paper's

REGION, POOL, KNOWN = 100, 100_000, 20_000
# mIoU in points at budgets 10 and 30, seeds 0 and 1.
CURVES = {
    "ralis": {10: (32, 33), 30: (38, 37)},
    "entropy": {10: (31, 33), 30: (36, 37)},
    "uniform": {10: (30, 31), 30: (34, 35)},
    "cheat": {10: (34, 35), 30: (40, 41)},
}


def record(method, budget, seed, points):
    made_up = result(method, budget, seed, points / 100, share=[1.0], entropy=0.5 + seed)
    return made_up | {"labelled_pixels": budget * REGION}


def results(curves=CURVES, full=(39, 41)):
    records = [
        record(method, budget, seed, points)
        for method, curve in curves.items()
        for budget, seeds in curve.items()
        for seed, points in enumerate(seeds)
        if points is not None
    ]
    references = [reference("full_supervision", seed, points / 100) for seed, points in enumerate(full)]
    references.append(reference("theta0_prime", 0, 0.29))
    # Of ralis 0.50 and 0.52 at 10 regions, 0.70 and 0.72 at 30.
    share = {"ralis": 0.4, "entropy": 0.3, "uniform": 0.1, "no-kl": 0.3, "cheat": 0.5}
    selected = [
        {**r, "mistaken_share": share[r["method"]] + r["budget"] / 100 + r["seed"] / 50} for r in records
    ]
    return StudyResults(run_of(records, references), "test", selected, [], ("road",), KNOWN, POOL)


def test_differences_are_paired_with_every_baseline():
    ralis = analyse(results(), BASELINES)["methods"]["ralis"]
    assert set(ralis["area"]["against"]) == {"entropy", "uniform"}
    at = ralis["budgets"]["10"]["against"]["uniform"]
    assert at["mean"] == pytest.approx(0.02) and at["n"] == 2 and at["p"] is None, "2 points in both seeds"
    at = ralis["budgets"]["30"]["against"]["entropy"]
    assert (at["mean"], at["std"]) == pytest.approx((0.01, 0.01 * 2**0.5))
    assert at["standard_error"] == pytest.approx(0.01)


def test_the_share_of_the_way_is_from_uniform_to_cheat():
    methods = analyse(results(), BASELINES)["methods"]
    assert methods["uniform"]["area"]["share_of_way"] == 0
    assert methods["cheat"]["area"]["share_of_way"] == pytest.approx(1)
    assert methods["ralis"]["area"]["share_of_way"] == pytest.approx((35 - 32.5) / (37.5 - 32.5))
    assert methods["ralis"]["budgets"]["10"]["share_of_way"] == pytest.approx(2 / 4)
    worse = analyse(results(CURVES | {"ralis": {10: (28, 29)}}))["methods"]["ralis"]["budgets"]["10"]
    assert worse["share_of_way"] == pytest.approx(-2 / 4)
    without = {name: curve for name, curve in CURVES.items() if name != "cheat"}
    assert analyse(results(without), BASELINES)["methods"]["ralis"]["area"]["share_of_way"] is None
    noisy = analyse(results(CURVES | {"cheat": {10: (33, 31.5), 30: (37, 34)}}), BASELINES)["methods"]
    assert noisy["ralis"]["area"]["share_of_way"] is None, "1.4 points, give or take 1.6"


def test_the_regions_to_96_percent_are_interpolated():
    found = analyse(results(), BASELINES)
    assert found["target_miou"] == pytest.approx(0.96 * 0.40)
    methods = found["methods"]
    assert methods["ralis"]["regions_to_target"]["of_mean"] is None
    cheat = methods["cheat"]["regions_to_target"]
    assert cheat["of_mean"] == pytest.approx(10 + 20 * (38.4 - 34.5) / 6)
    assert cheat["by_seed"] == {
        "0": pytest.approx(10 + 20 * 4.4 / 6),
        "1": pytest.approx(10 + 20 * 3.4 / 6),
    }
    low = analyse(results(full=(31, 31)))["methods"]["ralis"]["regions_to_target"]
    assert low["of_mean"] == pytest.approx(10 * (29.76 - 29) / (32.5 - 29)), "on the way from θ0′"


def test_pixels_count_what_was_labelled_before():
    at = analyse(results(), BASELINES)["methods"]["entropy"]["budgets"]["30"]
    assert at["labelled_pixels"] == 3000 and at["total_labelled_pixels"] == 23_000
    assert at["share_of_pool_pixels"] == pytest.approx(0.03)
    assert at["selected_entropy"]["mean"] == pytest.approx(1.0)


def test_mistakes_are_compared_as_the_miou_is():
    at = analyse(results(), BASELINES)["methods"]["ralis"]["budgets"]["30"]["mistaken_share"]
    assert at["mean"] == pytest.approx(0.71) and at["n"] == 2
    assert at["against"]["uniform"]["mean"] == pytest.approx(0.3)
    assert at["share_of_way"] == pytest.approx(0.75)
    lost = analyse(results()._replace(selected=[]), BASELINES)  # as where the store lost the selections
    assert lost["methods"]["ralis"]["budgets"]["30"]["mistaken_share"] is None
    assert "| 50 % | – |" in miou_table(lost).markdown()


def test_a_curve_that_is_not_finished_has_no_area():
    curves = CURVES | {"ralis": {10: (32, 33), 30: (38, None)}}
    ralis = analyse(results(curves))["methods"]["ralis"]
    assert ralis["area"]["n"] == 1 and ralis["area"]["mean"] == pytest.approx(0.35)
    assert ralis["budgets"]["10"]["n"] == 2 and ralis["budgets"]["30"]["n"] == 1
    assert ralis["regions_to_target"]["by_seed"].keys() == {"0", "1"}


def test_without_the_papers_baselines_the_first_line_is_one():
    curves = {"ralis": CURVES["ralis"], "no-kl": CURVES["entropy"]}
    methods = analyse(results(curves), BASELINES)["methods"]
    assert list(methods["no-kl"]["area"]["against"]) == ["ralis"]
    assert not methods["ralis"]["area"]["against"]


def test_the_table_shows_it_all():
    text = miou_table(analyse(results(), BASELINES)).markdown()
    assert "| ralis | 32.5 ± 0.7 | 37.5 ± 0.7 | 35.0 ± 0.0 | not reached | 50 % | 71.0 ± 1.4 |" in text
    assert "| cheat | 34.5 ± 0.7 | 40.5 ± 0.7 | 37.5 ± 0.7 | 23 | 100 % | 81.0 ± 1.4 |" in text
    assert "θ0′, before the first region: 29.0 %." in text
    assert "Full supervision: 40.0 ± 1.4 %; 96 % of it: 38.4 %." in text
    on_d_r = results()._replace(measured_on="validation")
    assert "\ntest mIoU [%]" in text and "\nD_R mIoU [%]" in miou_table(analyse(on_d_r, BASELINES)).markdown()


def test_nothing_finished_is_no_error():
    nothing = results({}, ())._replace(run=run_of())
    assert analyse(nothing)["methods"] == {} and analyse(nothing)["target_miou"] is None
    assert miou_table(analyse(nothing)).markdown().startswith("test mIoU [%], mean")


def test_what_was_selected_has_a_table_without_any_final_training():
    text = selected_table(results()._replace(run=run_of())).markdown()
    assert text.startswith("| regions | method | entropy [nats] | mistaken pixels | road |\n")
    assert "| 30 | ralis | 1.00 ± 0.71 | 71.0 ± 1.4 | 100.0 ± 0.0 |\n" in text
    assert selected_table(results({}, ())).caption.startswith("Of the selected pixels:")
