r"""Exchange with the `learnware` package itself; what the format asks for is tested without it in `test_convert.py`.

The package is no part of the project's environment. It runs on that environment's Python with a folder of its own
beside, which holds it and what it imports beyond what is installed; without what these ask for, whose versions are
others than ours:

    .venv/bin/python -m pip install --no-deps --target learnware-package learnware==0.4.0.post1 clarabel==0.11.1 \
        datasets==5.2.0 docker==7.2.0 fast-pytorch-kmeans==0.2.2 langdetect==1.0.9 lm_eval==0.4.13 \
        multiprocess==0.70.19 qpsolvers==4.13.0 rapidfuzz==3.14.6 shortuuid==1.0.13 sqlalchemy==2.1.9 trl==1.16.0 \
        xxhash==4.1.0
    LEARNWARE_PACKAGE=learnware-package .venv/bin/python -m pytest tests/specs/learnware_package
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specs.card import load_card
from specs.learnware import load_learnware
from specs.learnware_package.convert import KEPT_STAT_FILE, export_learnware, import_learnware
from specs.learnware_package.rkme_text import load_rkme_text
from specs.rkme import squared_mmd
from tests.specs.learnware_folder import PROMPTS, write_learnware

FOLDER = os.environ.get("LEARNWARE_PACKAGE")
STARTER = Path(__file__).parents[3] / "serving" / "starter_learnwares"
NAMES = ("finance-tfns", "finance-fiqa_sa")

pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(
        not FOLDER,
        reason="LEARNWARE_PACKAGE names no folder with the package learnware==0.4.0.post1: "
        "the head of this file has the command that makes one",
    ),
]


def package(tmp_path: Path, *arguments: str | Path) -> dict[str, Any]:
    """Runs `learnware_package.py` with the package, at home in a folder of the test's."""
    script = Path(__file__).with_name("learnware_package.py")
    environment = os.environ | {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(FOLDER or "").resolve())
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read


def test_the_package_loads_what_is_exported(tmp_path: Path):
    for name in NAMES:
        export_learnware(STARTER / name, tmp_path / f"{name}.zip", needs=["00002890"] if name == NAMES[0] else [])
    seen = package(tmp_path, "read", *(tmp_path / f"{name}.zip" for name in NAMES))
    one, other = (load_learnware(STARTER / name).specification for name in NAMES)
    assert (seen["id"], seen["type"], seen["model"]) == ("finance-tfns", "RKMETextSpecification", "Model")
    assert seen["shape"] == list(one.whole_set.points.shape)
    assert seen["gamma"] == pytest.approx(one.gamma)
    assert seen["language"] == ["en"]
    assert seen["weights"] == pytest.approx(1)
    assert seen["to itself"] == pytest.approx(0, abs=1e-9)
    # its distance is the squared MMD; each term has the bandwidth of the specification that it is asked of
    left, right = one.whole_set, other.whole_set
    cross = squared_mmd(left, right, one.gamma)
    own = [
        squared_mmd(right, left._replace(weights=np.zeros_like(left.weights)), gamma)
        for gamma in (other.gamma, one.gamma)
    ]
    assert seen["to the other"] == pytest.approx(cross + own[0] - own[1], abs=1e-9)
    assert seen["semantics"] is True
    assert seen["checked"] is True


def test_what_the_package_made_is_imported_and_handed_back(tmp_path: Path):
    folder = write_learnware(tmp_path / "colours-objects")
    made = package(tmp_path, "make", tmp_path / "theirs.zip", folder)
    learnware = import_learnware(tmp_path / "theirs.zip", tmp_path / "ours", rows=PROMPTS)
    assert (learnware.id, learnware.rank) == ("A-learnware-of-the-package", 4)
    assert load_card(tmp_path / "ours" / "learnware.yaml").languages == ("en",)
    kept = load_rkme_text((tmp_path / "ours" / "specification" / KEPT_STAT_FILE).read_bytes())
    assert kept.points == pytest.approx(np.array(made["z"]))
    assert kept.weights == pytest.approx(np.maximum(made["beta"], 0))
    assert (kept.gamma, kept.rows, kept.encoder) == (0.1, 150, None)
    export_learnware(tmp_path / "ours", tmp_path / "back.zip")
    seen = package(tmp_path, "read", tmp_path / "back.zip", tmp_path / "back.zip")
    assert (seen["shape"], seen["gamma"], seen["checked"]) == ([100, 384], 0.1, True)
    assert seen["to the other"] == pytest.approx(0, abs=1e-9)
