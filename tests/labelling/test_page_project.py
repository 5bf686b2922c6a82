"""The page's server over a project on disk: from the first region to the next round, which it trains for."""

import json
import sys
import time

import numpy as np
import pytest
from tiny_project import CLASSES, asked, bundle_of, label, regions_of, truth_of

from ralx.labelling import Project

testclient = pytest.importorskip("starlette.testclient", reason="the page needs the extra `label`")
page = pytest.importorskip("ralx.labelling.page", reason="the page needs the extra `label`")

PATIENCE = 120.0  # seconds, also on a busy machine


@pytest.fixture
def folder(tmp_path):
    asked(tmp_path, 4)
    return tmp_path


def client_of(folder, **options):
    app = page.page_app(Project(folder / "project"), "token", **options)
    client = testclient.TestClient(app, base_url="http://127.0.0.1:8765")
    client.get("/", params={"token": "token"})
    return client


def save(client, region, painted, **query):
    address = f"/api/regions/{region['id']}/label"
    answer = client.put(
        address,
        params={"annotator": "ada", "seconds": 6.0, **query},
        headers={"if-match": client.get(address).headers["etag"]},
        content=painted.tobytes(),
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def next_region(client, annotator="ada"):
    return client.post("/api/next", params={"annotator": annotator}).json()["region"]


def test_a_round_is_painted_and_the_next_one_comes_by_itself(folder):
    project = folder / "project"
    command = [sys.executable, "-m", "ralx.cli.label"]
    steps = [
        [*command, "train", str(project), "--epochs", "1"],
        [*command, "ask", str(project), "--regions", "3"],
    ]
    client = client_of(folder, next_batch=lambda: page.Background(*steps))
    asked_regions = {region["id"]: region for region in regions_of(bundle_of(project))}
    for done in range(4):
        region = next_region(client)
        answer = save(client, region, truth_of(folder, asked_regions[region["id"]], "box"))
        assert answer["progress"]["labelled"] == done + 1
        assert answer["progress"]["minutes"] == pytest.approx((done + 1) / 10)
    end = time.monotonic() + PATIENCE
    while (region := next_region(client)) is None:
        situation = client.get("/api/batch").json()
        assert situation["job"]["state"] in ("running", "done") and time.monotonic() < end, situation
        time.sleep(0.2)
    assert region["round"] == 2
    guess = np.frombuffer(client.get(f"/api/regions/{region['id']}/guess").content, np.uint8)
    assert guess.shape == (region["box"][2] * region["box"][3],) and guess.max() < len(CLASSES)
    assert Project(project).models()[0]["regions"] > 0


def test_commands_run_while_the_page_is_open(folder, capsys):
    project, client = folder / "project", client_of(folder)
    region = next_region(client)
    assert label("ask", project, "--regions", 2) == 0
    assert label("status", project) == 0
    save(client, region, np.zeros(region["box"][2:], np.uint8))
    assert label("undo", project, "--region", region["id"]) == 0
    capsys.readouterr()
    assert label("status", project, "--json") == 0
    assert json.loads(capsys.readouterr().out)["regions_labelled"] == 0
    assert client.get(f"/api/regions/{region['id']}/label").status_code == 204


def test_two_people_get_two_regions_and_none_overwrites_the_other(folder):
    client = client_of(folder)
    ada, grace = next_region(client), next_region(client, "grace")
    assert ada["id"] != grace["id"]
    answer = client.post(f"/api/regions/{ada['id']}/open", params={"annotator": "grace"})
    assert answer.status_code == 409


def test_an_image_that_changed_is_said_on_the_page(folder):
    client = client_of(folder)
    region = next_region(client)
    image = folder / "images" / region["image"]
    image.write_bytes(image.read_bytes() + b"more")
    answer = client.get(f"/api/regions/{region['id']}/crop")
    assert answer.status_code == 422 and image.name in answer.json()["error"]
