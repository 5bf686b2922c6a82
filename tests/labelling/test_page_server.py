"""The page's server: regions come and labels go as bytes, and nobody else may talk to it."""

import io
import re
import socket
import sys
import time
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

testclient = pytest.importorskip("starlette.testclient", reason="the page needs the extra `label`")
pytest.importorskip("uvicorn", reason="the page needs the extra `label`")

from fake_project import FakeProject  # noqa: E402

from ralx.labelling.page import Background, page_app, serve  # noqa: E402
from ralx.labelling.page.guard import ANY_ADDRESS, LOOPBACK, SLACK  # noqa: E402
from ralx.support.files import RunError  # noqa: E402

TOKEN = "a-token"
BASE = "http://127.0.0.1:8765"
SIZE = 48, 64
UNLABELLED = 255


@pytest.fixture
def project():
    return FakeProject(regions=3, region_size=SIZE)


def client_of(project, base=BASE, **options):
    return testclient.TestClient(page_app(project, TOKEN, **options), base_url=base)


def opened(client):
    assert client.get("/", params={"token": TOKEN}).status_code == 200
    return client


@pytest.fixture
def client(project):
    return opened(client_of(project))


def next_region(client, annotator="Ann"):
    return client.post("/api/next", params={"annotator": annotator}).json()["region"]


def etag_of(client, region):
    return client.get(f"/api/regions/{region['id']}/label").headers["etag"]


def save(client, region, label, *, annotator="Ann", seconds=2.0, etag=None, **query):
    return client.put(
        f"/api/regions/{region['id']}/label",
        params={"annotator": annotator, "seconds": seconds, **query},
        headers={"if-match": etag or etag_of(client, region)},
        content=label.tobytes() if isinstance(label, np.ndarray) else label,
    )


def painted(value=3):
    label = np.full(SIZE, UNLABELLED, np.uint8)
    label[5:20, 7:30] = value
    return label


def refusal(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


class TestWhoMayTalk:
    def test_the_address_with_the_token_opens_the_page_once_and_a_cookie_from_then_on(self, project):
        client = client_of(project)
        answer = client.get("/", params={"token": TOKEN})
        assert "<title>ralx" in answer.text
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("ralx-8765=") and "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert client.get("/").status_code == 200
        assert client.get("/api/project").json()["name"] == project.name

    @pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/project", "/api/regions/r1-0/crop"])
    def test_nothing_is_shown_without_the_token(self, project, path):
        client = client_of(project)
        assert "token" in refusal(client.get(path), 401)
        assert "token" in refusal(client.get(path, headers={"cookie": "ralx-8765=another"}), 401)

    @pytest.mark.parametrize("token", ["", "a-toke", "a-tokenn", "ä"])
    def test_another_token_is_refused(self, project, token):
        client = client_of(project)
        refusal(client.get("/", params={"token": token}), 401)
        assert not client.cookies

    def test_the_token_opens_the_page_alone(self, project):
        refusal(client_of(project).get("/api/project", params={"token": TOKEN}), 401)

    def test_somebody_without_the_token_reads_what_to_do(self, project):
        answer = client_of(project).get("/", headers={"accept": "text/html"})
        assert answer.status_code == 401 and "?token=" in answer.text and TOKEN not in answer.text

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "[::", ""]
    )
    def test_a_foreign_host_is_refused(self, client, host):
        assert "Host" in refusal(client.get("/api/project", headers={"host": host}), 403)

    @pytest.mark.parametrize("host", ["localhost:8765", "127.0.0.1:8765", "[::1]:8765"])
    def test_every_name_of_the_loopback_is_right(self, project, host):
        assert opened(client_of(project, f"http://{host}")).get("/api/project").status_code == 200

    def test_beyond_the_loopback_addresses_in_digits_are_right_and_foreign_names_are_not(self, project):
        hosts = LOOPBACK | {"Labels.lan", ANY_ADDRESS}
        for host, status in ("192.168.7.9", 200), ("labels.lan", 200), ("evil.example", 403):
            client = client_of(project, f"http://{host}:8765", allowed_hosts=hosts)
            assert client.get("/", params={"token": TOKEN}).status_code == status

    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "null", "http://127.0.0.1:9000", "https://127.0.0.1:8765"]
    )
    def test_another_origin_is_refused(self, client, project, origin):
        answer = client.post("/api/next", params={"annotator": "Eve"}, headers={"origin": origin})
        assert "Origin" in refusal(answer, 403)
        assert not project.state.leases

    def test_the_pages_own_origin_is_right(self, client):
        answer = client.post("/api/next", params={"annotator": "Ann"}, headers={"origin": BASE})
        assert answer.status_code == 200

    def test_another_site_may_link_to_the_page_and_do_nothing_else(self, client):
        foreign = {"sec-fetch-site": "cross-site"}
        assert client.get("/", headers=foreign).status_code == 200
        refusal(client.get("/api/project", headers=foreign), 403)
        refusal(client.post("/api/next", params={"annotator": "Ann"}, headers=foreign), 403)

    def test_the_page_is_kept_to_itself(self, client):
        for path in "/", "/api/project", "/nothing":
            headers = client.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"

    def test_a_token_that_no_cookie_holds_is_an_error(self, project):
        for token in "", "a token", "a;b":
            with pytest.raises(ValueError, match="token: expected letters, digits"):
                page_app(project, token)


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/static/../server.py",
            "/static/%2e%2e/server.py",
            "/static/..%2fserver.py",
            "/static/%2fetc%2fpasswd",
            "/static//etc/passwd",
            "/static/",
            "/api/regions/..%2f..%2fetc/crop",
            "/api/regions/nothing/label",
        ],
    )
    def test_no_path_leads_out_of_the_page(self, client, path):
        refusal(client.get(path), 404)

    def test_every_file_of_the_page_is_served_with_its_kind(self, client):
        page = client.get("/").text
        for name, kind in (
            ("main.js", "text/javascript"),
            ("style.css", "text/css"),
            ("icon.svg", "image/svg+xml"),
        ):
            assert f"/static/{name}" in page
            assert client.get(f"/static/{name}").headers["content-type"].startswith(kind)

    def test_another_method_is_refused(self, client):
        refusal(client.delete("/api/regions/r1-0/label"), 405)


class TestRegions:
    def test_a_region_comes_with_its_surroundings_guess_and_superpixels(self, client, project):
        region = next_region(client)
        assert region["box"] == [48, 64, *SIZE] and region["crop_box"] == [0, 0, 144, 192]
        path = f"/api/regions/{region['id']}"
        picture = np.asarray(Image.open(io.BytesIO(client.get(f"{path}/crop").content)))
        assert np.array_equal(picture, project.pixels(region["image"]))
        guess = np.frombuffer(client.get(f"{path}/guess").content, np.uint8).reshape(SIZE)
        assert np.array_equal(guess, project.prelabel(region["id"]))
        assert client.get(f"{path}/label").status_code == 204

    def test_superpixels_are_connected_pieces_of_the_region(self, client):
        ndimage = pytest.importorskip("scipy.ndimage")
        pytest.importorskip("skimage", reason="superpixels need scikit-image")
        region = next_region(client)
        content = client.get(f"/api/regions/{region['id']}/superpixels").content
        pieces = np.frombuffer(content, "<u2").reshape(SIZE)
        assert 10 < len(np.unique(pieces)) < 100
        assert all(ndimage.label(pieces == piece)[1] == 1 for piece in np.unique(pieces))

    def test_superpixels_are_found_once(self, client, monkeypatch):
        find = Mock(return_value=np.zeros(SIZE, "<u2"))
        monkeypatch.setattr("ralx.labelling.page.server.superpixels", find)
        region = next_region(client)
        assert client.get(f"/api/regions/{region['id']}/superpixels").status_code == 200
        save(client, region, painted())
        assert client.get(f"/api/regions/{region['id']}/superpixels").status_code == 200
        assert find.call_count == 1

    def test_without_scikit_image_there_are_no_superpixels(self, client, monkeypatch):
        monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
        assert client.get(f"/api/regions/{next_region(client)['id']}/superpixels").status_code == 204

    def test_without_a_model_there_is_no_guess(self, client, project):
        project.has_guess = False
        assert client.get(f"/api/regions/{next_region(client)['id']}/guess").status_code == 204

    def test_two_people_never_get_the_same_region(self, client):
        first, second = next_region(client, "Ann"), next_region(client, "Ben")
        assert first["id"] != second["id"]
        assert next_region(client, "Ann")["id"] == first["id"]

    def test_an_image_that_changed_is_refused_by_name(self, client, project):
        region = next_region(client)
        project.changed_images.add(region["image"])
        assert region["image"] in refusal(client.get(f"/api/regions/{region['id']}/crop"), 422)

    def test_a_region_that_is_let_go_is_free_for_others(self, client):
        region = next_region(client, "Ann")
        client.post(f"/api/regions/{region['id']}/release", params={"annotator": "Ann"})
        assert next_region(client, "Ben")["id"] == region["id"]

    @pytest.mark.parametrize("name", ["", " ", "x" * 81, "a\nb"])
    def test_a_name_that_is_none_is_refused(self, client, name):
        assert "annotator" in refusal(client.post("/api/next", params={"annotator": name}), 400)


class TestSaving:
    def test_a_saved_label_comes_back_as_it_was_sent(self, client, project):
        region, label = next_region(client), painted()
        answer = save(client, region, label, seconds=90)
        assert answer.json()["progress"] == {
            "round": 1, "asked": 3, "labelled": 1, "unsure": 0, "left": 2, "minutes": 1.5,
        }  # fmt: skip
        back = client.get(f"/api/regions/{region['id']}/label")
        assert back.headers["etag"] == answer.json()["etag"]
        assert np.array_equal(np.frombuffer(back.content, np.uint8).reshape(SIZE), label)
        assert project.state.received == [(region["id"], "Ann", 90.0)]

    def test_not_sure_leaves_a_region_unlabelled(self, client, project):
        region = next_region(client)
        save(client, region, np.full(SIZE, UNLABELLED, np.uint8), unsure=1)
        assert project.asked_region(region["id"]).state == "unsure"
        assert project.label_of(region["id"]) is None

    @pytest.mark.parametrize(
        ("missing", "status"), [(1, 400), (SIZE[0] * SIZE[1], 400), (-1, 400), (-SLACK - 1, 413)]
    )
    def test_a_body_of_another_size_is_refused(self, client, project, missing, status):
        region = next_region(client)
        text = refusal(save(client, region, bytes(SIZE[0] * SIZE[1] - missing)), status)
        assert "expected" in text and not project.state.received

    def test_an_oversized_body_is_refused_wherever_it_is_sent(self, client):
        refusal(client.post("/api/next", params={"annotator": "Ann"}, content=bytes(SLACK + 1)), 413)

    def test_a_body_that_does_not_say_its_size_is_refused_as_well(self, client):
        region = next_region(client)
        refusal(save(client, region, (bytes(1000) for _ in range(100))), 413)

    def test_a_disk_that_is_full_is_said(self, client, project, monkeypatch):
        region = next_region(client)
        monkeypatch.setattr(project, "receive", Mock(side_effect=OSError(28, "No space left on device")))
        assert "No space left on device" in refusal(save(client, region, painted()), 500)

    def test_a_class_that_does_not_exist_is_refused(self, client, project):
        region = next_region(client)
        assert "classes below 11 or 255, got 11" in refusal(save(client, region, painted(11)), 400)
        assert not project.state.received

    @pytest.mark.parametrize("seconds", ["", "-1", "nan", "inf", "soon", "86401"])
    def test_seconds_that_are_none_are_refused(self, client, project, seconds):
        region = next_region(client)
        assert "seconds" in refusal(save(client, region, painted(), seconds=seconds), 400)
        assert not project.state.received

    def test_a_region_that_somebody_else_has_taken_over_is_not_overwritten(self, project):
        now = [0.0]
        project = FakeProject(regions=3, region_size=SIZE, clock=lambda: now[0])
        client = opened(client_of(project))
        region, etag = next_region(client, "Ann"), '"none"'
        now[0] += 601
        assert next_region(client, "Ben")["id"] == region["id"]
        assert "somebody else" in refusal(save(client, region, painted(1), annotator="Ann"), 409)
        refusal(client.post(f"/api/regions/{region['id']}/open", params={"annotator": "Ann"}), 409)
        # Once Ben has saved, his lease is gone, and what he painted still stays.
        assert save(client, region, painted(2), annotator="Ben").status_code == 200
        refusal(save(client, region, painted(1), annotator="Ann", etag=etag), 412)
        assert np.array_equal(project.label_of(region["id"]), painted(2))

    def test_a_label_that_the_page_has_not_seen_is_not_overwritten(self, client, project):
        region, etag = next_region(client), '"none"'
        assert save(client, region, painted(1), etag=etag).status_code == 200
        assert "saved elsewhere" in refusal(save(client, region, painted(2), etag=etag), 412)
        assert save(client, region, painted(2)).status_code == 200
        assert np.array_equal(project.label_of(region["id"]), painted(2))

    def test_a_save_that_says_nothing_of_what_it_saw_is_refused(self, client, project):
        region = next_region(client)
        answer = client.put(
            f"/api/regions/{region['id']}/label",
            params={"annotator": "Ann", "seconds": 1},
            content=painted().tobytes(),
        )
        refusal(answer, 412)
        assert not project.state.received


class TestTheNextBatch:
    def work_off(self, client):
        while region := next_region(client):
            save(client, region, painted())

    def state(self, client):
        return client.get("/api/batch").json()["job"]

    def wait_for(self, client, state):
        until = time.monotonic() + 20
        while self.state(client)["state"] != state:
            assert time.monotonic() < until, self.state(client)
            time.sleep(0.02)
        return self.state(client)

    def started(self, project, code):
        commands = []

        def next_batch():
            commands.append(code)
            return Background([sys.executable, "-c", code])

        return opened(client_of(project, next_batch=next_batch)), commands

    def test_the_last_label_starts_it_once_and_its_lines_are_shown(self, project):
        client, commands = self.started(project, r"print('epoch 1\repoch 2'); print('asked for 3')")
        assert self.state(client) == {"state": "none", "lines": [], "can_start": True}
        self.work_off(client)
        job = self.wait_for(client, "done")
        assert job["lines"] == ["epoch 1", "epoch 2", "asked for 3"] and len(commands) == 1
        project.ask()
        assert next_region(client)["round"] == 2

    def test_a_label_that_changes_while_it_runs_starts_no_other(self, project):
        client, commands = self.started(project, "import time; time.sleep(60)")
        region = next_region(client)
        self.work_off(client)
        assert save(client, region, painted(5)).status_code == 200
        assert self.state(client)["state"] == "running" and len(commands) == 1

    def test_closing_the_server_ends_it(self, project, tmp_path):
        job = Background([sys.executable, "-c", "import time; time.sleep(60)"])
        with client_of(project, next_batch=lambda: job) as client:
            self.work_off(opened(client))
        until = time.monotonic() + 20
        while job.returncode is None:
            assert time.monotonic() < until
            time.sleep(0.02)

    def test_nothing_starts_while_regions_are_left(self, project):
        client, commands = self.started(project, "")
        save(client, next_region(client), painted())
        assert "2 regions" in refusal(client.post("/api/batch"), 409) and not commands

    def test_a_failure_is_shown_and_it_can_be_tried_again(self, project):
        client, commands = self.started(project, "print('no room on the disk'); raise SystemExit(1)")
        self.work_off(client)
        assert self.wait_for(client, "failed")["lines"] == ["no room on the disk"]
        assert client.post("/api/batch").status_code == 200 and len(commands) == 2

    def test_a_server_without_one_says_so(self, client):
        self.work_off(client)
        assert self.state(client) == {"state": "none", "lines": [], "can_start": False}
        refusal(client.post("/api/batch"), 409)


class TestBackground:
    def finished(self, job):
        until = time.monotonic() + 20
        while job.returncode is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        return job

    def test_a_command_that_fails_ends_those_after_it(self):
        fail = [sys.executable, "-c", "print('first'); raise SystemExit(3)"]
        job = self.finished(Background(fail, [sys.executable, "-c", "print('second')"]))
        assert job.returncode == 3 and job.lines == ["first"]

    def test_a_command_that_is_not_there_fails_with_a_line(self):
        job = self.finished(Background(["/nowhere/program"]))
        assert job.returncode and "/nowhere/program" in job.lines[0]

    def test_stopping_ends_the_command_and_starts_no_other(self, tmp_path):
        wait = "import time; print('here'); time.sleep(60)"
        job = Background(
            [sys.executable, "-c", wait], [sys.executable, "-c", f"open({str(tmp_path / 'x')!r}, 'w')"]
        )
        until = time.monotonic() + 20
        while not job.lines and time.monotonic() < until:
            time.sleep(0.01)
        job.stop()
        assert self.finished(job).returncode != 0
        assert not (tmp_path / "x").exists()


class TestServing:
    def served(self, monkeypatch, project, **options):
        """What `serve` says, and the hosts that it answers to."""
        lines, apps = [], []

        def run(server, sockets):
            [listener] = sockets
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # or each answer takes 40 ms
            apps.append(server.config.app)

        monkeypatch.setattr("uvicorn.Server.run", run)
        serve(project, port=0, say=lines.append, **options)
        return lines, testclient.TestClient(apps[0], base_url=BASE)

    def test_the_address_that_is_said_opens_the_page(self, monkeypatch, project):
        [line], client = self.served(monkeypatch, project)
        address = re.search(r"http://127\.0\.0\.1:\d+(/\?token=[\w-]{32})$", line)
        assert client.get(address[1]).status_code == 200

    def test_each_server_has_a_token_of_its_own(self, monkeypatch, project):
        tokens = {self.served(monkeypatch, project)[0][0].partition("token=")[2] for _ in range(2)}
        assert len(tokens) == 2

    def test_listening_beyond_the_loopback_is_warned_of_and_needs_the_token_too(self, monkeypatch, project):
        [warning, line], client = self.served(monkeypatch, project, host="0.0.0.0", token=TOKEN)
        assert "--host 0.0.0.0" in warning and "token" in warning
        assert "0.0.0.0" not in line and line.endswith(f"/?token={TOKEN}")
        refusal(client.get("/api/project", headers={"host": "10.1.2.3"}), 401)
        refusal(client.get("/api/project", headers={"host": "evil.example"}), 403)

    def test_a_port_that_is_taken_is_named(self, project):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(
                RunError, match=rf"127\.0\.0\.1:{port}: can't be listened on: Address already"
            ):
                serve(project, port=port)
