"""A task in the place of a request: a specification is made from its rows, and one learnware answers for all of it.

    python benchmarks/examples/task_specification.py --url http://127.0.0.1:8000

No row leaves this machine: what is uploaded is the mean of the rows' vectors, with noise. Needs no admin key.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

COMPANIES = ["Nokia", "Elisa", "Kone", "Outokumpu", "Finnair", "Fortum", "Neste", "Stora Enso", "Wärtsilä", "Sampo"]
CHANGES = ["net sales rose to", "operating profit fell to", "the order book grew to", "the dividend was cut to"]
QUARTERS = ["first", "second", "third"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes a task specification, uploads it and asks for the task.")
    parser.add_argument("--url", default=os.environ.get("LEARNWARE_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", "none"))
    options = parser.parse_args()
    headers = {"authorization": f"Bearer {options.api_key}"}
    rows = [
        f"{company} said {change} EUR {number} mn in the {quarter} quarter. Is that positive, neutral or negative?"
        for number, company in enumerate(COMPANIES, 11)
        for change in CHANGES
        for quarter in QUARTERS
    ]
    with httpx.Client(base_url=options.url, headers=headers, timeout=180) as http:
        uploaded = http.post("/v1/task-specs", content=specification(rows))
        if uploaded.status_code != 201:
            sys.exit(f"refused: {uploaded.text}")
        task = uploaded.json()
        print(f"{task['id']}: {task['learnware'] or 'the base model'}. {task['explanation']}")
        for candidate in task["candidates"][:3]:
            print(f"  {candidate['learnware']}: expected quality {candidate['expected']}")
        try:
            for text in (rows[0], "And Nokian Tyres, whose sales fell by a third?", "Thanks!"):
                ask(http, task, text)
        finally:
            http.delete(f"/v1/task-specs/{task['id']}")
    if task["learnware"] is None:
        sys.exit(f"no learnware was chosen: {task['advice'] or task['explanation']}")


def specification(rows: list[str]) -> bytes:
    """What `learnware-serving spec make` writes. Rows are JSON lines with a `prompt`; no answers are needed."""
    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(json.dumps({"prompt": row}) + "\n" for row in rows)
        Path(folder, "rows.jsonl").write_text(lines, encoding="utf-8")
        command = ["spec", "make", "rows.jsonl", "-o", "task.spec"]
        print("learnware-serving", *command, flush=True)
        subprocess.run([sys.executable, "-m", "serving.cli", *command], cwd=folder, check=True)
        return Path(folder, "task.spec").read_bytes()


def ask(http: httpx.Client, task: dict[str, str], text: str) -> None:
    """Whatever a single request says, the task's learnware answers; fails when it does not."""
    body = {"model": task["id"], "messages": [{"role": "user", "content": text}], "max_tokens": 4, "temperature": 0}
    answer = http.post("/v1/chat/completions", json=body).raise_for_status()
    print(f"{text} → {answer.json()['choices'][0]['message']['content']!r} from {answer.headers['x-learnware']}")
    if answer.headers["x-learnware-reason"] != "task":
        sys.exit(f"not answered for the task: {answer.headers['x-learnware-reason']}")


if __name__ == "__main__":
    main()
