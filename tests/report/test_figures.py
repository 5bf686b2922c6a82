"""The report's pictures: what they plot, and which regions of which images they show."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from report_run import (
    CLASSES,
    IMAGE_SIZE,
    REFERENCES,
    REGION_SIZE,
    RESULTS,
    SELECTION,
    Pictures,
    result,
    run_of,
    selection,
    step,
)

from ralx.acquisition.methods import METHODS
from ralx.report.comparison import miou_vs_budget, per_class_iou, selected_classes
from ralx.report.learning import learning_curves, running_mean, step_seconds
from ralx.report.regions import paint, region_boxes, selections, shown_images
from ralx.report.style import method_styles


def labelled_lines(axes) -> dict:
    return {
        line.get_label().split(":")[0]: line for line in axes.lines if not line.get_label().startswith("_")
    }


def test_miou_picture_plots_the_means_and_the_references():
    (axes,) = miou_vs_budget(run_of(RESULTS, REFERENCES), None).axes
    drawn = labelled_lines(axes)
    assert list(drawn) == ["ralis", "uniform", "θ0′ (start)", "full supervision", "96 % of it"]
    assert drawn["ralis"].get_xydata() == pytest.approx(np.array([[24, 62], [48, 67]]))
    assert drawn["uniform"].get_xydata() == pytest.approx(np.array([[24, 51], [48, 67]]))
    assert drawn["θ0′ (start)"].get_xydata() == pytest.approx(np.array([[0, 32]]))
    assert drawn["full supervision"].get_ydata() == pytest.approx([69, 69])
    assert drawn["96 % of it"].get_ydata() == pytest.approx([66.24, 66.24])
    assert drawn["full supervision"].get_linestyle() == "-"
    assert drawn["96 % of it"].is_dashed()
    band = next(each for each in axes.collections if isinstance(each, PolyCollection))
    extent = band.get_paths()[0].get_extents()
    assert (extent.y0, extent.x1) == pytest.approx((62 - 8**0.5, 48))


def test_miou_picture_tells_the_share_of_pixels():
    selection = SELECTION | {"region_size": [10, 10]}
    figure = miou_vs_budget(run_of(RESULTS, REFERENCES, selections=[selection]), 48_000)
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    (top,) = axes.child_axes
    left, right = axes.get_xlim()
    assert top.get_xlim() == pytest.approx((left * 100 / 480, right * 100 / 480))  # 48 regions: 10 %
    assert "pixels" in top.get_xlabel()
    ragged = run_of(RESULTS, REFERENCES, selections=[selection], config={"edge": "keep"})
    assert not miou_vs_budget(ragged, 48_000).axes[0].child_axes  # regions differ in size


def test_methods_keep_their_colours_in_every_picture():
    run = run_of(RESULTS, REFERENCES)
    expected = to_hex(labelled_lines(miou_vs_budget(run, None).axes[0])["ralis"].get_color())
    for figure in (per_class_iou(run), selected_classes(run)):
        (legend,) = figure.legends
        names = [text.get_text() for text in legend.get_texts()]
        assert to_hex(legend.legend_handles[names.index("ralis")].get_color()) == expected


def test_per_class_picture_has_a_panel_for_each_budget():
    figure = per_class_iou(run_of(RESULTS, REFERENCES))
    assert [axes.get_title() for axes in figure.axes] == ["24 regions", "48 regions"]
    first = figure.axes[0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["road", "pole"]
    assert [text.get_text() for text in first.texts] == ["–"]
    assert first.texts[0].get_position()[1] == 1  # in the row of the absent pole
    ralis, uniform = (container.lines[0].get_xdata() for container in first.containers)
    assert (list(ralis), list(uniform)) == (pytest.approx([62]), pytest.approx([51]))


def test_selected_classes_are_sorted_by_share():
    results = [result("uniform", 24, 0, 0.5, share=(0.1, 0.9)), result("ralis", 24, 0, 0.5, share=(0.6, 0.4))]
    left, right = selected_classes(run_of(results)).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["pole", "road"]
    ralis, uniform = (container.lines[0].get_xdata() for container in left.containers)
    assert list(ralis) == pytest.approx([40, 60])
    assert list(uniform) == pytest.approx([90, 10])
    assert [label.get_text() for label in right.get_xticklabels()] == ["24"]


def test_the_legend_has_names_that_begin_with_an_underscore():
    results = [result("_mine", 24, 0, 0.5), result("ralis", 24, 0, 0.6)]
    for picture in (miou_vs_budget(run_of(results), None), per_class_iou(run_of(results))):
        assert [text.get_text() for text in picture.legends[0].get_texts()] == ["ralis", "_mine"]


def test_learning_curves_sum_rewards_and_mark_the_kept_policy():
    steps = [
        step(0, 1, 0.32, reward=2.0, td_loss=0.5, q_mean=1.0),
        step(0, 0, 0.30, reward=1.0),
        step(0, 0, 0.25, reward=5.0, seed=1),  # whole, for this seed has none that is longer
        step(1, 0, 0.33, reward=3.0, td_loss=0.4, q_mean=2.0),
        step(1, 1, 0.40, reward=4.0, td_loss=0.3, q_mean=3.0),
        step(2, 0, 0.50, reward=9.0, td_loss=0.3, q_mean=3.0),  # cut off: no whole episode
    ]
    axes = learning_curves(run_of(steps=steps)).axes
    lines = [[line.get_xydata().tolist() for line in panel.lines] for panel in axes]
    mean = [[0, 4], [1, 7]]
    assert lines[0] == [[[0, 3], [1, 7]], [[0, 5]], mean, mean]
    assert lines[1][:2] == [pytest.approx(np.array([[0, 32], [1, 40]])), [[0, 25]]]
    assert labelled_lines(axes[1])["kept policy"].get_xydata().tolist() == [[1, 40], [0, 25]]
    assert [x for x, _ in lines[3][0]] == [0, 0.5, 1, 1.5, 2]
    assert lines[4][0] == [[0.5, 0.5], [1, 0.4], [1.5, 0.3], [2, 0.3]]
    assert len(lines[5][0]) == 4


@pytest.mark.parametrize(
    ("epsilons", "kept"),
    [
        ([0.5, 0.4, 0.1], 0),  # the best
        ([0.9, 0.4, 0.1], 1),  # the best of those that the network played itself
        ([0.9, 0.9, 0.9], 2),  # chance alone: the last
    ],
)
def test_the_star_is_on_the_episode_whose_policy_is_kept(epsilons, kept):
    """The same cases as for the loop, which keeps it."""
    mious = [0.5, 0.3, 0.2]
    steps = [step(n, 0, mious[n], seed=4, epsilon=epsilons[n]) for n in range(3)]
    axes = learning_curves(run_of(steps=steps)).axes
    star = labelled_lines(axes[1])["kept policy"]
    assert star.get_xydata() == pytest.approx(np.array([[kept, 100 * mious[kept]]]))
    assert [text.get_text() for text in axes[4].texts] == ["not recorded"], "without a single update"


def test_running_mean():
    values = np.array([0.0, 3.0, 6.0, 0.0])
    assert running_mean(values, 3) == pytest.approx([1.5, 3, 3, 3])
    assert running_mean(values, 0) == pytest.approx(values)


def test_step_seconds_show_mean_and_share_of_each_phase():
    steps = [
        step(0, 0, 0.3, seconds={"reward": 3.0, "state": 0.001}),
        step(0, 1, 0.3, seconds={"reward": 1.0, "state": 0.003, "odd": 0.0}),
    ]
    left, right = step_seconds(run_of(steps=steps)).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["state", "reward", "odd"]
    assert [text.get_text().strip() for text in left.texts] == [
        "2.00 ms · 0.1 %",
        "2.00 s · 99.9 %",
        "0.00 ms · 0.0 %",
    ]
    assert [bar.get_height() for bar in right.patches[2:4]] == pytest.approx([3, 1])


def test_shown_images_have_most_regions_and_ties_go_by_name():
    regions = [["c", 0, 0], ["b", 0, 0], ["a", 0, 0], ["c", 0, 1]]
    assert shown_images(selection("ralis", 0, regions), 2) == ["c", "a"]


def test_boxes_are_in_pixels():
    chosen = selection("ralis", 0, [["a", 1, 2], ["b", 0, 0]])
    assert region_boxes(chosen, "a", (36, 48)) == [(9, 16, 9, 8)]
    assert region_boxes(chosen, "a", (17, 20)) == [(9, 16, 8, 4)]  # cut at the border


def test_labels_show_only_inside_the_chosen_regions():
    photo = np.full((2, 2, 3), 100, dtype=np.uint8)
    labels = np.array([[0, 1], [255, 1]], dtype=np.uint8)
    mask = np.array([[True, True], [True, False]])
    palette = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    painted = paint(photo, labels, mask, palette)
    assert painted[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert painted[1, 0].tolist() == [0, 0, 0]  # void
    assert len(set(painted[1, 1].tolist())) == 1 and painted[1, 1, 0] > 200  # grey and faded


def test_selections_picture_shows_the_smallest_budget_of_a_seed_that_the_methods_share():
    regions = [["scene_001", 1, 1], ["scene_003", 0, 0], ["scene_003", 3, 5], ["scene_003", 0, 1]]
    run = run_of(
        selections=[
            selection("ralis", 0, [["scene_002", 0, 0]]),  # a seed that uniform has not
            selection("uniform", 1, regions, budgets=(3, 1)),
            selection("ralis", 1, regions, budgets=(3,)),
        ]
    )
    figure = selections(run, Pictures(), count=1)
    photos, labels = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title() for axes in photos] == ["ralis", "uniform"]
    assert [axes.get_xlabel() for axes in labels] == ["2 regions", "no region"]
    assert [text.get_text() for text in photos[0].texts] == ["scene_003"]
    corners = {box.get_xy() for box in photos[0].patches}
    assert corners == {(-0.5, -0.5), (5 * REGION_SIZE[1] - 0.5, 3 * REGION_SIZE[0] - 0.5)}
    assert not photos[1].patches
    shown = labels[0].images[0].get_array()
    assert shown.shape == (*IMAGE_SIZE, 3)
    assert shown[0, 0].tolist() == Pictures.palette[3].tolist()  # image 3: its first stripe is class 3
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "void" in names and CLASSES[3] in names


def test_lines_of_other_names_can_be_told_apart():
    names = [*METHODS, *(f"arm-{number}" for number in range(30))]
    assert len(set(method_styles(names).values())) == len(names)
    assert method_styles(["arm-7", "ralis"])["ralis"] == method_styles(METHODS)["ralis"]
