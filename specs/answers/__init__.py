"""Answers of learnwares: their kinds and lengths, the form of answer that an ask names, and degenerate answers."""
