"""Runs one real engine and writes what it answers: `engine_answers.py ORDER.json ANSWERS.json`.

A program of its own because an engine lives for its process, binds threads and raises warnings that are not ours. The
order holds the engine's arguments, the batches (a batch is a list of [prompt, adapter or null]), and folders of
adapters that are to be refused.
"""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from tests.serving.random_adapters import answer_of


def main(order_file: str, answers_file: str) -> None:
    order = json.loads(Path(order_file).read_text())
    llm = LLM(**order["engine"])
    adapters = {name: LoRARequest(name, i, path) for i, (name, path) in enumerate(order["adapters"].items(), start=1)}
    sampling = SamplingParams(
        temperature=0, max_tokens=order["tokens"], ignore_eos=True, logprobs=order.get("logprobs", 2)
    )
    answers = {"batches": [], "refused": {}, "worker": order["engine"].get("worker_cls", "auto")}
    for batch in order["batches"]:
        outputs = llm.generate(
            [prompt for prompt, _ in batch],
            sampling,
            lora_request=[adapters[name] if name else None for _, name in batch],
            use_tqdm=False,
        )
        answers["batches"].append([answer_of(output.outputs[0]) for output in outputs])
    for i, (name, path) in enumerate(order["refused"].items(), start=1000):
        try:
            llm.llm_engine.add_lora(LoRARequest(name, i, path))
            answers["refused"][name] = "accepted"
        except Exception as error:  # noqa: BLE001  # whatever it is, the test reads its text
            answers["refused"][name] = str(error)
    answers["after"] = list(llm.generate(order["batches"][0][0][0], sampling, use_tqdm=False)[0].outputs[0].token_ids)
    Path(answers_file).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
