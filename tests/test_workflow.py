import tomllib
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]


def test_the_workflow_runs_the_gate_on_the_oldest_and_the_newest_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    start = "Programming Language :: Python :: 3."
    supported = [
        f"3.{word.removeprefix(start)}" for word in project["classifiers"] if start in word
    ]
    job = workflow["jobs"]["gate"]
    assert job["strategy"]["matrix"]["python"] == [supported[0], supported[-1]]
    assert project["requires-python"] == f">={supported[0]}"
    assert job["steps"][-1]["run"] == "bash .ci/run"
    assert (ROOT / ".ci" / "run").is_file()
