"""The folder of a run: its config, what is refused, and what stays."""

import json

import pytest

from ralx.runs.run_folder import begin, open_run
from ralx.support.files import RunError, write_json

CONFIG = {"seed": 0, "budgets": [2, 4]}


def start(path, config=CONFIG, resume=False):
    """The folder of a run that has begun."""
    with open_run(path, config, resume=resume) as lock:
        begin(path, config, lock)
    return path


def test_a_new_folder_gets_its_config_when_the_run_begins(tmp_path):
    with open_run(tmp_path / "run", CONFIG, resume=False) as lock:
        assert not (tmp_path / "run" / "config.json").exists()
        begin(tmp_path / "run", CONFIG, lock)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == CONFIG


@pytest.mark.parametrize("stored", [{}, [], {"seed": 0}, {"seed": 0, "budgets": [2, 4], "old": 1}])
def test_a_config_with_other_fields_is_refused_in_one_short_line(tmp_path, stored):
    start(tmp_path / "run")
    write_json(tmp_path / "run" / "config.json", stored)
    with pytest.raises(RunError, match=r"its config.json is damaged or of another version of ralx$"):
        start(tmp_path / "run", resume=True)


def test_only_a_few_of_many_differing_options_are_named(tmp_path):
    start(tmp_path / "run", {str(option): 0 for option in range(9)})
    with pytest.raises(RunError, match=r"\(0: 0 there, 1 here, .*3: 0 there, 1 here, and 5 options more\)$"):
        start(tmp_path / "run", {str(option): 1 for option in range(9)}, resume=True)
