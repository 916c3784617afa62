"""The OpenAI client with `model="auto"`: an answer as it is written, as JSON of a given form, and a call of a tool.

    python benchmarks/examples/openai_client.py --url http://127.0.0.1:8000

The embedded model has 135M parameters: the forms are kept whatever it says, what it says in them is an example.
"""

import argparse
import json
import os
import sys

from openai import OpenAI

NEWS = "Is the sentiment of this financial news positive, neutral or negative? Profit rose to EUR 13 mn from EUR 8 mn."
QUESTION = "What are the side effects of metformin?"
ALERT = "Tell me when the Nokia share falls."
SENTIMENT = {
    "type": "object",
    "properties": {"sentiment": {"enum": ["positive", "neutral", "negative"]}},
    "required": ["sentiment"],
    "additionalProperties": False,
}
WHEN = {"type": "object", "properties": {"when": {"enum": ["rises", "falls"]}}, "required": ["when"]}
TOOL = {
    "type": "function",
    "function": {"name": "set_alert", "description": "Watches a share", "parameters": WHEN},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Streaming, JSON of a form, and tools with the OpenAI client.")
    parser.add_argument("--url", default=os.environ.get("LEARNWARE_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", "none"))
    options = parser.parse_args()
    client = OpenAI(base_url=f"{options.url}/v1", api_key=options.api_key, timeout=180)

    print(f"streamed: {QUESTION}")
    answerer, pieces = "", []
    for chunk in client.chat.completions.create(model="auto", messages=user(QUESTION), max_tokens=24, stream=True):
        answerer = chunk.model
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        print("".join(choice.delta.content or "" for choice in chunk.choices), end="", flush=True)
    print(f"\n  from {answerer}, in {len(pieces)} pieces")
    check(len(pieces) > 1, "the answer came in one piece")

    form = {"type": "json_schema", "json_schema": {"name": "label", "schema": SENTIMENT, "strict": True}}
    answer = client.chat.completions.create(
        model="auto", messages=user(NEWS), temperature=0, max_tokens=40, response_format=form
    )
    label = json.loads(answer.choices[0].message.content or "")
    print(f"as JSON: {label} from {answer.model}")
    check(label["sentiment"] in SENTIMENT["properties"]["sentiment"]["enum"], "the answer left its schema")

    # A choice of tools is not left to a model of this size: it is told which one to call.
    which = {"type": "function", "function": {"name": "set_alert"}}
    called = client.chat.completions.create(
        model="auto", messages=user(ALERT), temperature=0, max_tokens=100, tools=[TOOL], tool_choice=which
    )
    call = (called.choices[0].message.tool_calls or [None])[0]
    check(call is not None, "the tool was not called")
    print(f"a tool: {call.function.name}({call.function.arguments}) from {called.model}")
    check(json.loads(call.function.arguments)["when"] in ("rises", "falls"), "the call left its schema")


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def check(kept: bool, otherwise: str) -> None:
    if not kept:
        sys.exit(otherwise)


if __name__ == "__main__":
    main()
