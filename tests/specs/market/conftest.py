from pathlib import Path

import pytest

from specs.market.store import Market
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import requirements


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_learnware(tmp_path_factory.mktemp("whole") / "colours-objects")


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path / "market", requirements(tmp_path / "base"), lock_timeout_s=2)
