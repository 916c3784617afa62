"""The Python file of an exported learnware: the class that the `learnware` package 0.4.0.post1 asks for. It is written
into zips and never run here.
"""

MODEL_FILE = "__init__.py"
"""Name of the Python file in the zip."""

REQUIREMENTS = "learnware==0.4.0.post1\npeft>=0.13.2\ntorch>=2.2\ntransformers>=4.45\n"
"""Content of the zip's `requirements.txt`."""

MODEL_CODE = '''"""The model of a learnware that learnware-serving exported: a LoRA adapter on its base model."""

import os

import torch
from learnware.model import BaseModel
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


class Model(BaseModel):
    """Answers prompts. `base_model` is a hub id or a folder; the adapter lies in `weights` beside this file."""

    def __init__(self, base_model, base_revision=None, max_new_tokens=64):
        super().__init__(input_shape=None, output_shape=None)
        weights = os.path.join(os.path.dirname(os.path.abspath(__file__)), "weights")
        self.max_new_tokens = max_new_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(base_model, revision=base_revision)
        base = AutoModelForCausalLM.from_pretrained(base_model, revision=base_revision)
        self.model = PeftModel.from_pretrained(base, weights).eval()

    def get_model(self):
        return self.model

    @torch.no_grad()
    def predict(self, X):
        """One answer a prompt, greedy, through the base model's chat template."""
        answers = []
        for prompt in X:
            turns = [{"role": "user", "content": prompt}]
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            inputs = self.tokenizer(text, return_tensors="pt", add_special_tokens=False).to(self.model.device)
            written = self.model.generate(
                **inputs,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.eos_token_id,
            )
            answers.append(self.tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
        return answers
'''
"""Content of the Python file."""
