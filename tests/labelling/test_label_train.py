"""What a project learns, chooses and gives."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_project import CLASSES, bundle_of, label, paint, regions_of, weights_of

from ralx.labelling import Project
from ralx.labelling.choose import spread
from ralx.labelling.policy import Sight, learned_policy
from ralx.labelling.train import interval
from ralx.labelling.worker import ProjectWorker, working_in
from ralx.segmentation import SegmenterTrainer, build_segmenter


def test_a_training_is_measured_on_the_kept_regions(trained, capsys):
    capsys.readouterr()
    assert label("status", trained, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kept_regions"] == 2 and 0 <= found["miou"] <= 1
    assert found["iou"].keys() == set(CLASSES)
    low, high = found["miou_interval"]
    assert 0 <= low <= found["miou"] <= high <= 1


def test_the_labels_of_kept_regions_never_train(labelled, trained_once):
    """Poisoned, they change the measured mIoU and not one weight."""
    opened = Project(labelled)
    for asked in opened.asked_regions():
        if asked.kept:
            opened.receive(asked.id, (opened.label_of(asked.id) + 1) % 3)
    assert label("train", labelled, "--epochs", 2) == 0
    assert weights_of(labelled) == weights_of(trained_once)
    assert opened.models()[0]["miou"] != Project(trained_once).models()[0]["miou"]


def test_an_interrupted_training_goes_on_to_the_same_weights(labelled, trained_once, monkeypatch):
    ended, end_epoch = 0, SegmenterTrainer.end_epoch

    def interrupted(trainer):
        nonlocal ended
        ended += 1
        if ended == 2:
            raise KeyboardInterrupt
        end_epoch(trainer)

    monkeypatch.setattr(SegmenterTrainer, "end_epoch", interrupted)
    assert label("train", labelled, "--epochs", 2) == 130
    assert Project(labelled).models() == []
    ended = 10
    assert label("train", labelled, "--epochs", 2) == 0
    assert ended == 11, "the first epoch was done before"
    assert weights_of(labelled) == weights_of(trained_once)


def test_a_second_training_begins_with_the_model_before_unless_it_is_restarted(trained):
    for options in ((), ("--restart",)):
        assert label("train", trained, "--epochs", 2, *options) == 0
    assert weights_of(trained, 1) == weights_of(trained, 3) != weights_of(trained, 2)


def test_labels_of_kept_regions_that_change_begin_an_interrupted_training_anew(labelled, monkeypatch):
    """They choose its best epoch; what the interrupted one had saved goes once a training is done."""
    opened, epochs = Project(labelled), []

    def interrupted(trainer):
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        end_epoch(trainer)

    end_epoch = SegmenterTrainer.end_epoch
    monkeypatch.setattr(SegmenterTrainer, "end_epoch", interrupted)
    assert label("train", labelled, "--epochs", 2) == 130
    kept = next(asked for asked in opened.asked_regions() if asked.kept)
    opened.receive(kept.id, (opened.label_of(kept.id) + 1) % 3)
    assert label("train", labelled, "--epochs", 2) == 0
    assert len(epochs) == 4
    assert not any((labelled / "models" / "checkpoint").iterdir())


def test_a_model_needs_the_weights_no_more_that_its_training_began_with(trained, tmp_path):
    weights = shutil.copy(Project(trained).model_file(1), tmp_path / "start.safetensors")
    settings = (trained / "project.toml").read_text()
    (trained / "project.toml").write_text(f"{settings}weights = {json.dumps(str(weights))}\n")
    assert label("train", trained, "--epochs", 1, "--restart") == 0
    weights.unlink()
    assert label("ask", trained, "--regions", 2) == 0
    assert label("predict", trained, "--images", tmp_path / "images", "--to", tmp_path / "masks") == 0
    assert label("train", trained, "--epochs", 1) == 0
    assert label("train", trained, "--epochs", 1, "--restart") != 0


def test_no_method_changes_the_segmenter_that_it_asks_by(trained, monkeypatch):
    made, segmenter_of = [], ProjectWorker.segmenter
    monkeypatch.setattr(
        ProjectWorker, "segmenter", lambda *given: made.append(segmenter_of(*given)) or made[-1]
    )
    saved = load_file(Project(trained).model_file(1))
    for method in ("bald", "entropy"):
        assert label("ask", trained, "--regions", 2, "--method", method) == 0
        state = made[-1].state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())
    assert len(made) == 2, "one for each round"


def test_training_needs_labels(labelled, capsys):
    assert label("train", labelled, "--epochs", 0) == 2
    assert label("undo", labelled) == 0
    assert label("train", labelled) == 2
    assert "expected labels to train on" in capsys.readouterr().err


METHODS = ["entropy", "bald", "uniform", "margin", "ripu", "class-balanced", "k-centre", "stratified"]


def test_a_trained_project_asks_by_every_method_of_the_table(trained):
    places = set()
    for number, method in enumerate(METHODS, 2):
        assert label("ask", trained, "--regions", 3, "--method", method, "--prelabel") == 0
        bundle = bundle_of(trained, number)
        for region in regions_of(bundle):
            places.add((region["image"], *region["box"]))
            guess = np.array(Image.open(bundle / region["label"]))
            asked = np.array(Image.open(bundle / region["asked"])) == 255
            assert (guess[asked] < len(CLASSES)).all() and (guess[~asked] == 255).all()
    assert len(places) == 3 * len(METHODS), "no region is asked twice"


def test_the_policy_asks_once_labels_taught_it_and_entropy_until_then(trained, tmp_path, monkeypatch):
    for number, expected in ((2, "entropy"), (3, "ralis"), (4, "ralis")):
        assert label("ask", trained, "--regions", 6) == 0
        assert Project(trained).rounds()[-1]["method"] == expected
        paint(bundle_of(trained, number), tmp_path)
        assert label("take", trained, bundle_of(trained, number)) == 0
        monkeypatch.setattr("ralx.labelling.policy.ENOUGH", 5)
    scores = [region["score"] for region in regions_of(bundle_of(trained, 3)) if not region["kept"]]
    assert len(set(scores)) > 1


def test_the_policy_learns_where_the_segmenter_is_wrong(trained):
    """Regions whose guess is wholly wrong against others whose guess is right: Q tells them apart."""
    with working_in(Project(trained)) as place:
        sight = Sight(place, place.segmenter(Project(trained).model_file(1)))
        rows = sight.state[torch.arange(40) % len(sight.state)].clone()
        rows[:20, 3:] += 1  # uncertain
        rewards = torch.cat([torch.ones(20), torch.zeros(20)]).double()
        actions = sight.actions(rows)
        rounds = [(sight.state, actions, rewards)]
        policy = learned_policy(place, sight, 0, rounds)
        assert policy is not None
        q = policy.agent.q_values(sight.state, actions[None])[0]
        assert q[:20].min() > q[20:].max()


@pytest.mark.parametrize("method", ["cheat", "nothing", "no.module:function"])
def test_a_method_that_a_project_can_not_have_is_refused(trained, capsys, method):
    assert label("ask", trained, "--method", method) == 2
    assert "method" in capsys.readouterr().err


def test_the_same_state_asks_for_the_same_regions(trained, tmp_path):
    others = [shutil.copytree(trained, tmp_path / f"other {number}") for number in range(2)]
    found = []
    for number, project in enumerate((trained, *others)):
        torch.manual_seed(number)
        assert label("ask", project, "--regions", 6, "--method", "bald") == 0
        found.append(regions_of(bundle_of(project, 2)))
    assert found[0] == found[1] == found[2]
    scores = [region["score"] for region in found[0]]
    assert sum(score is None for score in scores) == sum(region["kept"] for region in found[0]) == 1


def test_a_choice_is_spread_over_classes_and_images():
    random = np.random.default_rng(0)
    scores, classes, images = random.random(1000), random.integers(0, 4, 1000), random.integers(0, 50, 1000)
    scores[images == 7] += 10
    chosen = spread(scores, classes, images, 40)
    assert len(set(chosen.tolist())) == 40
    assert np.bincount(classes[chosen]).tolist() == [10] * 4
    assert np.bincount(images[chosen]).max() == 1
    assert scores[chosen].mean() > scores.mean()
    assert sorted(spread(scores, classes, images, 1000).tolist()) == list(range(1000))
    assert spread(scores, classes, images, 1).tolist() == [np.argmax(scores)]


def test_an_interval_holds_what_images_differ_by():
    same = np.tile(np.array([[[8, 2], [1, 9]]]), (5, 1, 1))
    low, high = interval(same)
    assert low == pytest.approx(high)
    assert interval(np.stack([np.diag([10, 10]), np.array([[0, 10], [10, 0]])])) == (0, 1)
    assert interval(same[:1]) is None and interval(same[:0]) is None


def test_predictions_are_written_for_every_image_of_any_folder(trained, tmp_path):
    torn = tmp_path / "masks" / "day 0" / ".bild_ü0.png.1.tmp"  # a killed one left it
    torn.parent.mkdir(parents=True)
    torn.touch()
    assert label("predict", trained, "--images", tmp_path / "images", "--to", tmp_path / "masks") == 0
    masks = sorted(path.relative_to(tmp_path / "masks") for path in (tmp_path / "masks").rglob("*.*"))
    images = sorted(path.relative_to(tmp_path / "images") for path in (tmp_path / "images").rglob("*.*"))
    assert masks == [path.with_suffix(".png") for path in images]
    for mask, image in zip(masks, images, strict=True):
        found = Image.open(tmp_path / "masks" / mask)
        assert found.mode == "L" and found.size == Image.open(tmp_path / "images" / image).size
        assert np.array(found).max() < len(CLASSES)


@pytest.mark.parametrize("to", ["images", "images/masks"])
def test_predictions_never_lie_among_the_images(trained, tmp_path, capsys, to):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "images").rglob("*")}
    assert label("predict", trained, "--images", tmp_path / "images", "--to", tmp_path / to) == 2
    assert "--to" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "images").rglob("*")} == before


def test_a_prediction_needs_a_model(labelled, tmp_path, capsys):
    assert label("predict", labelled, "--images", tmp_path / "images", "--to", tmp_path / "masks") == 2
    assert "train first" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()


def test_an_export_holds_all_labels_and_unlabelled_apart(labelled, tmp_path):
    exported = tmp_path / "export"
    assert label("export", labelled, "--format", "png", "--to", exported) == 0
    opened = Project(labelled)
    known = {
        image["name"].replace(".PNG", ".png"): opened.label_map(image["number"])
        for image in opened.images
        if (opened.label_map(image["number"]) != 255).any()
    }
    assert {path.relative_to(exported).as_posix() for path in exported.rglob("*.png")} == known.keys()
    for name, expected in known.items():
        mask = Image.open(exported / name)
        assert mask.mode == "L" and (np.array(mask) == expected).all() and (expected == 255).any()
    classes = json.loads((exported / "classes.json").read_text())
    assert [each["name"] for each in classes["classes"]] == list(CLASSES)
    assert label("export", labelled, "--format", "png", "--to", exported) == 2


def test_a_model_file_is_plain_safetensors(trained):
    path = Project(trained).model_file(1)
    segmenter = build_segmenter("fpn-small", len(CLASSES), weights=path)
    assert segmenter(torch.zeros(1, 3, 32, 48)).shape[1] == len(CLASSES)
    assert load_file(path).keys() == segmenter.state_dict().keys()


def test_more_labels_change_the_next_model(trained, tmp_path):
    assert label("ask", trained, "--regions", 6) == 0
    paint(bundle_of(trained, 2), tmp_path)
    assert label("take", trained, bundle_of(trained, 2)) == 0
    assert label("train", trained, "--epochs", 2, "--restart") == 0
    assert weights_of(trained, 1) != weights_of(trained, 2)
    rows = Project(trained).models()
    assert rows[1]["regions"] > rows[0]["regions"] and rows[1]["round"] == 2


def test_a_damaged_model_is_named(trained, capsys):
    path = Project(trained).model_file(1)
    path.write_bytes(path.read_bytes()[:-100])
    assert label("ask", trained) == 2
    assert "segmenter.safetensors" in capsys.readouterr().err
    assert Project(trained).progress()["round"] == 1
