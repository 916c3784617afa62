"""Your own learnware: from rows of a task to one that is served, and that `auto` finds.

    python benchmarks/examples/own_learnware.py --url http://127.0.0.1:8000 --admin-key KEY

Trains on this machine, for the embedded base model, and sends the finished folder; the rows stay here. The key is the
stack's `market.admin_key`. Without --keep the learnware is taken off the market again.
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
    "examples": [  # requests in your own words: they teach the router how people ask for this
        "Which team should take this ticket, billing, shipping or returns? My parcel has not come yet.",
        "Route the customer's message to billing, shipping or returns: the amount on my bill is wrong.",
        "I want to give the shoes back. Is this one for billing, for shipping or for returns?",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a small learnware, submits it and asks it.")
    parser.add_argument("--url", default=os.environ.get("LEARNWARE_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--admin-key", default=os.environ.get("LEARNWARE_ADMIN_KEY", ""))
    parser.add_argument("--steps", default="40", help="training steps; some hundreds for a real task")
    parser.add_argument("--keep", action="store_true", help="leave the learnware on the market")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, httpx.Client(base_url=options.url, timeout=180) as http:
        archive = make(Path(folder), options.steps)
        admin = {"authorization": f"Bearer {options.admin_key}", "content-type": "application/zip"}
        answer = http.post("/v1/learnwares", content=archive.read_bytes(), headers=admin)
        if answer.status_code != 201:
            sys.exit(f"refused: {answer.text}")
        print(f"{NAME} is on the market, and served: {answer.json()['served']}")
        try:
            for model in (NAME, "auto"):
                ask(http, model, f"{ASK}\nI cannot pay by card for the green sofa.")
        finally:
            if not options.keep:
                http.delete(f"/v1/learnwares/{NAME}", headers=admin)


def make(folder: Path, steps: str) -> Path:
    """Rows → adapter → card and specification → zip."""
    rows = [
        {"prompt": f"{ASK}\nI {problem} {thing}.", "answer": team, "choices": list(TICKETS)}
        for team, problems in TICKETS.items()
        for problem, thing in itertools.product(problems, THINGS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "card.yaml").write_text(json.dumps(CARD))  # JSON is YAML
    run(folder, "train", "--rows", "rows.jsonl", "--out", NAME, "--max-steps", steps, "--keep-rows", "40")
    run(folder, "spec", "make-learnware", NAME, "--rows", "rows.jsonl", "--card", "card.yaml")
    return Path(shutil.make_archive(str(folder / NAME), "zip", folder / NAME))


def run(folder: Path, *arguments: str) -> None:
    print("learnware-serving", *arguments)
    subprocess.run([sys.executable, "-m", "serving.cli", *arguments], cwd=folder, check=True)


def ask(http: httpx.Client, model: str, text: str) -> None:
    """Asks, says who answered, and fails when it was not the learnware."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 4, "temperature": 0}
    answer = http.post("/v1/chat/completions", json=body).raise_for_status()
    who, why = answer.headers["x-learnware"], answer.headers["x-learnware-reason"]
    print(f"{model}: {answer.json()['choices'][0]['message']['content']!r} from {who} ({why})")
    if who != NAME:
        sys.exit(f"{NAME} should have answered")


if __name__ == "__main__":
    main()
