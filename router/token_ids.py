"""Decodes prompts that are given as token ids."""

from collections.abc import Sequence
from pathlib import Path

from router.request import DecodeTokens


def token_decoder(base_model: Path | None) -> DecodeTokens | None:
    """Returns a decoder of prompts given as token ids, with the base model's own tokenizer; None when its file is not
    at hand."""
    file = base_model / "tokenizer.json" if base_model else None
    if file is None or not file.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))

    def decode(tokens: Sequence[int]) -> str:
        text: str = tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    return decode
