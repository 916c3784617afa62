"""Run where the `learnware` package can be imported: does with it what its users do, and prints what came of it.

python learnware_package.py read ZIP OTHER    loads two zips as the package's client does
python learnware_package.py make ZIP WEIGHTS  packs an adapter with a specification that the package makes
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from learnware.client import LearnwareClient
from learnware.market import EasySemanticChecker
from learnware.specification import RKMETextSpecification
from learnware.utils import zip_learnware_folder


def read(path: str, other: str) -> dict:
    client = LearnwareClient()
    learnware, second = client.load_learnware(learnware_path=[path, other])
    specification = learnware.get_specification().get_stat_spec_by_name("RKMETextSpecification")
    compared = second.get_specification().get_stat_spec_by_name("RKMETextSpecification")
    semantics = learnware.get_specification().get_semantic_spec()
    return {
        "id": learnware.id,
        "type": specification.type,
        "shape": list(specification.get_z().shape),
        "weights": float(specification.get_beta().sum()),
        "gamma": specification.gamma,
        "language": specification.language,
        "to itself": specification.dist(specification),
        "to the other": specification.dist(compared),
        "semantics": LearnwareClient._check_semantic_specification(semantics)[0],
        "checked": EasySemanticChecker()(learnware)[0] != EasySemanticChecker.INVALID_LEARNWARE,
        "model": learnware.get_model()["class_name"],
        "weights path": str(Path(learnware.get_dirpath()) / learnware.get_model()["weights_file_path"]),
    }


def make(path: str, weights: str) -> dict:
    """Its text encoder is fetched from a network; the rest of the recipe runs on vectors of the same shape."""
    vectors = np.random.default_rng(0).normal(size=(150, 384)).astype(np.float32)
    specification = RKMETextSpecification(cuda_idx=-1)
    specification.language = ["en"]
    super(RKMETextSpecification, specification).generate_stat_spec_from_data(vectors)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "weights").mkdir()
        for file in Path(weights).glob("adapter_*"):
            (folder / "weights" / file.name).write_bytes(file.read_bytes())
        specification.save(str(folder / "stat.json"))
        (folder / "__init__.py").write_text("from learnware.model import BaseModel\n\n\nclass Model(BaseModel): ...\n")
        stat = {"module_path": "learnware.specification", "class_name": specification.type, "kwargs": {}}
        said = {
            "name": "A learnware of the package",
            "model": {"class_name": "Model", "weights_file_path": "weights", "required_learnware_ids": ["00002890"]},
            "stat_specifications": [stat | {"file_name": "stat.json"}],
        }
        (folder / "learnware.yaml").write_text(yaml.dump(said))
        zip_learnware_folder(str(folder), path)
    return {"z": specification.get_z().tolist(), "beta": specification.get_beta().tolist()}


if __name__ == "__main__":
    done = {"read": read, "make": make}[sys.argv[1]](*sys.argv[2:])
    print("\n" + json.dumps(done))
