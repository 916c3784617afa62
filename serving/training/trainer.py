"""The training loop: steps, held-out evaluations, and a checkpoint from which an interrupted run continues.

Adapter weights take part in the forward pass in the base's own type (bf16), exactly as they will be served; the
optimizer holds fp32 masters. The order of rows depends on the seed and the pass only, so a resumed run takes the same
steps as one that was never interrupted.
"""

import io
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from serving.training.keep import Keeper, mixed_batches
from serving.training.rows import EncodedRow
from serving.training.settings import TrainingSettings
from serving.training.split_model import Stack, bucket

GRADIENT_NORM = 1.0
"""Largest norm of the gradients of a step."""
FLOOR = 0.05
"""Last value of the cosine schedule, as a share of the learning rate."""


class Evaluation(NamedTuple):
    """One evaluation on the held-out slice: `loss` in nats an answer token, `exact` the share answered right by greedy
    decoding, `drift` the divergence from the base (nats a token) at keep rows that are not trained on."""

    step: int
    train_loss: float
    loss: float
    exact: float
    drift: float = 0.0


class Outcome(NamedTuple):
    """The result of a finished run; `weights` are those of the best evaluation."""

    weights: list[Tensor]
    best: Evaluation
    history: tuple[Evaluation, ...]
    steps: int
    seconds: float
    stopped_by: str


class Trainer:
    """Trains `parameters` (the adapter's, inside `stack`) on `train` rows; evaluates on `held` rows.

    With a `keeper` the loss is the task's plus `keep_weight` times the divergence from the base at its rows.
    `fingerprint` names the run (settings, rows, base): a checkpoint of another run is not taken up.
    """

    def __init__(
        self,
        stack: Stack,
        parameters: Sequence[Tensor],
        rows: Sequence[EncodedRow],
        train: Sequence[int],
        held: Sequence[int],
        settings: TrainingSettings,
        checkpoint: Path,
        fingerprint: str,
        progress: Callable[[int, int, str], None],
        keeper: Keeper | None = None,
    ):
        self.stack, self.rows, self.train, self.settings, self.keeper = stack, rows, list(train), settings, keeper
        self.held = list(held)[: settings.evaluation_rows]
        self.checkpoint, self.fingerprint, self.progress = checkpoint, fingerprint, progress
        self.parameters = list(parameters)
        self.masters = [p.detach().float().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
        )
        per_epoch = len(self._order(0))
        self.total = max(1, round(per_epoch * settings.epochs))
        self.evaluate_every = max(1, per_epoch // settings.evaluations_per_epoch)
        if settings.max_steps is not None:
            self.total = min(self.total, settings.max_steps)
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self.history: list[Evaluation] = []
        self.best_weights: list[Tensor] = []

    def run(self) -> Outcome:
        """Trains from the checkpoint, if there is one, to the end; leaves a checkpoint at the end, too."""
        resumed = self._load()
        last_saved = started = time.monotonic()
        before = self.seconds
        self.progress(self.step, self.total, f"resumed at step {self.step}" if resumed else "")
        while (reason := self._finished()) is None:
            self._one_step()
            if self.step % self.evaluate_every == 0 or self.step == self.total:
                self._evaluate()
            self.seconds = before + time.monotonic() - started
            if time.monotonic() - last_saved >= self.settings.checkpoint_seconds:
                self._save()
                last_saved = time.monotonic()
            self.progress(self.step, self.total, self._describe())
        if not self.history or self.history[-1].step != self.step:
            self._evaluate()
        self._save()
        return Outcome(self.best_weights, self._best(), tuple(self.history), self.step, round(self.seconds, 1), reason)

    def _finished(self) -> str | None:
        if self.step >= self.total:
            return "schedule"
        if self.seconds >= self.settings.max_seconds:
            return "time"
        if self.history and len(self.history) - 1 - self.history.index(self._best()) >= self.settings.patience:
            return "no further improvement"
        return None

    def _best(self) -> Evaluation:
        return min(self.history, key=lambda seen: seen.loss + self.settings.keep_weight * seen.drift)

    def _describe(self) -> str:
        text = f"loss {sum(self.losses[-20:]) / max(1, len(self.losses[-20:])):.3f}"
        if self.history:
            last = self.history[-1]
            text += f", held-out {last.loss:.3f} (best {self._best().loss:.3f}), exact {last.exact:.2f}"
            text += f", drift {last.drift:.3f}" if self.keeper else ""
        return text

    def _learning_rate(self) -> float:
        warmup = max(1, round(self.total * self.settings.warmup_share))
        if self.step < warmup:
            return self.settings.learning_rate * (self.step + 1) / warmup
        along = (self.step - warmup) / max(1, self.total - warmup)
        return self.settings.learning_rate * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * along)))

    def _order(self, epoch: int) -> list[list[int]]:
        """Returns the batches of one pass: rows of about one length together, in random order."""
        return mixed_batches(self.train, self._length, self.settings.batch, f"{self.settings.seed}-{epoch}")

    def _length(self, index: int) -> int:
        row = self.rows[index]
        return bucket(len(row.prompt) - len(self.stack.prefix) + len(row.answer))

    def _one_step(self) -> None:
        per_epoch = math.ceil(len(self.train) / self.settings.batch)
        indices = self._order(self.step // per_epoch)[self.step % per_epoch]
        batch = self.stack.batch([self.rows[i] for i in indices], indices)
        loss = -self.stack.log_probs(batch).mean()
        loss.backward()
        if self.keeper is not None:
            (self.settings.keep_weight * self.keeper.step(self.step)).backward()
        for master, parameter in zip(self.masters, self.parameters, strict=True):
            master.grad = torch.zeros_like(master) if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, GRADIENT_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        self._show(self.masters)
        self.step += 1
        self.losses.append(float(loss.detach()))

    def _evaluate(self) -> None:
        held = sorted(self.held, key=lambda i: len(self.rows[i].prompt))
        total, tokens, exact = 0.0, 0, 0
        with torch.no_grad():
            for begin in range(0, len(held), self.settings.batch):
                indices = held[begin : begin + self.settings.batch]
                batch = self.stack.batch([self.rows[i] for i in indices], indices)
                log_probs, greedy = self.stack.log_probs_and_greedy(batch)
                total -= float(log_probs.sum())
                tokens += len(log_probs)
                wrong = set(batch.row[~greedy].tolist())
                exact += len(indices) - len(wrong)
        recent = self.losses[-self.evaluate_every :]
        drift = self.keeper.held_out() if self.keeper is not None else 0.0
        train_loss = sum(recent) / max(1, len(recent))
        self.history.append(Evaluation(self.step, train_loss, total / tokens, exact / len(held), drift))
        if self._best() is self.history[-1]:
            self.best_weights = [master.clone() for master in self.masters]

    def _show(self, weights: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, weights, strict=True):
                parameter.copy_(weight)

    def _save(self) -> None:
        state = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "history": [tuple(evaluation) for evaluation in self.history],
            "masters": self.masters,
            "best": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.checkpoint, buffer.getvalue())

    def _load(self) -> bool:
        if not self.checkpoint.exists():
            return False
        state: dict[str, Any] = torch.load(self.checkpoint, map_location=self.stack.device, weights_only=True)
        if state["fingerprint"] != self.fingerprint:
            return False
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        self.history = [Evaluation(*evaluation) for evaluation in state["history"]]
        self.best_weights = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for master, saved in zip(self.masters, state["masters"], strict=True):
                master.copy_(saved)
        self._show(self.masters)
        return True


def write_atomically(path: Path, content: bytes) -> None:
    """Writes the file so that it is either the old one or the new one, whole, whenever the process or the machine is
    cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
