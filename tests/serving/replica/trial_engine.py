"""Runs the trial of learnwares on one real engine: `trial_engine.py ORDER.json RESULT.json`.

A program of its own because an engine lives for its process. The order holds the engine's arguments and the trials by
name: the adapter's folder, its examples and its labels.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from serving.replica.off_task_meter import MAX_PROMPT_TOKENS, OffTaskMeter
from serving.replica.trial import probe
from serving.training.rows import encode_prompt
from specs.errors import InvalidLearnware


async def run(order: dict[str, Any]) -> dict[str, Any]:
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**order["engine"]))
    tokenizer = engine.renderer.tokenizer
    meter = OffTaskMeter(
        engine,
        lambda prompt: encode_prompt(prompt, tokenizer, MAX_PROMPT_TOKENS),
        lambda: 0,
        order["engine"]["max_num_seqs"],
    )
    results = {}
    for number, (name, trial) in enumerate(order["trials"].items(), 1):
        began = time.monotonic()
        request = LoRARequest(name, number, trial["folder"])
        try:
            refusal, notes = await probe(meter, request, trial["examples"], trial["labels"])
        except InvalidLearnware as error:
            refusal, notes = str(error), ()
        results[name] = {"refusal": refusal, "notes": notes, "seconds": time.monotonic() - began}
        print(name, results[name], flush=True)
    engine.shutdown()
    return results


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(asyncio.run(run(json.loads(Path(sys.argv[1]).read_text())))))
