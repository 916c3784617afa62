"""Your own learnware: from rows of a task to one that is served, and that `auto` finds.

    python benchmarks/examples/own_learnware.py --url http://127.0.0.1:8000 --admin-key KEY

Trains on this machine, for the embedded base model; the rows stay here. The key is the stack's `market.admin_key`. What
the card gives as `examples` teaches the router how people ask. Other options are those of `learnware-serving train`.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

NAME = "example-support-tickets"
ASK = "Which team handles this support ticket: billing, shipping or returns?"
TICKETS = {
    "billing": ["was charged twice for", "got an invoice with a wrong amount for", "cannot pay by card for"],
    "shipping": ["am still waiting for the parcel with", "have no tracking number for", "must change the address for"],
    "returns": ["want to send back", "got a broken box with", "would like my money back for"],
}
THINGS = ["the lamp", "two chairs", "my new keyboard", "the garden hose", "a rain coat", "the blue mug", "a kettle"]
CARD = {
    "id": NAME,
    "name": "Support tickets",
    "description": "Says which team of a shop handles a support ticket.",
    "base_model": {"id": "SmolLM2-135M-Instruct"},
    "domain": "support",
    "tasks": ["ticket-team"],
    "languages": ["en"],
    "licence": "Apache-2.0",
    "author": "you",
    "examples": [f"{ASK} Where is my parcel?", "Is this for billing, shipping or returns? The shoes do not fit."],
}


def zip_of_learnware(folder: Path, training: list[str]) -> bytes:
    """Rows → adapter → card and specification → zip."""
    rows = [
        {"prompt": f"{ASK}\nI {problem} {thing}.", "answer": team, "choices": list(TICKETS)}
        for team in TICKETS
        for problem, thing in itertools.product(TICKETS[team], THINGS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "card.yaml").write_text(json.dumps(CARD))  # JSON is YAML
    train = ["train", "--rows", "rows.jsonl", "--out", NAME, "--max-steps", "30", *training]
    specify = ["spec", "make-learnware", NAME, "--rows", "rows.jsonl", "--card", "card.yaml"]
    for command in (train, specify):
        print("learnware-serving", *command, flush=True)
        subprocess.run([sys.executable, "-m", "serving.cli", *command], cwd=folder, check=True)
    return Path(shutil.make_archive(str(folder / NAME), "zip", folder / NAME)).read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a small learnware, submits it, asks it and removes it again.")
    parser.add_argument("--url", default=os.environ.get("LEARNWARE_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--admin-key", default=os.environ.get("LEARNWARE_ADMIN_KEY", ""))
    options, training = parser.parse_known_args()
    admin = {"authorization": f"Bearer {options.admin_key}"}  # good for requests as well
    zipped = {"content-type": "application/zip"}
    with (
        tempfile.TemporaryDirectory() as folder,
        httpx.Client(base_url=options.url, headers=admin, timeout=180) as http,
    ):
        submitted = http.post("/v1/learnwares", content=zip_of_learnware(Path(folder), training), headers=zipped)
        print("submitted:", submitted.text)
        try:
            for model in (NAME, "auto"):
                body = {"model": model, "messages": [{"role": "user", "content": f"{ASK}\nMy card was charged twice."}]}
                answer = http.post("/v1/chat/completions", json=body | {"max_tokens": 4, "temperature": 0})
                print(f"{model}: {answer.headers.get('x-learnware')} answered {answer.text}")
                assert answer.headers.get("x-learnware") == NAME, "the learnware should have answered"
        finally:
            http.delete(f"/v1/learnwares/{NAME}")


if __name__ == "__main__":
    main()
