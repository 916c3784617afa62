"""The sections of the configuration that say who may ask, and for how much."""

from pathlib import Path

from pydantic import Field

from serving.config_sections import Section

WAITING_PER_RUNNING = 1
"""Sequences that may wait for each one in a replica's batch, where `limits.max_waiting` says nothing. What is admitted
then waits about as long as one answer takes. Twice as many wait twice as long, and where adapters have slots enough,
nothing is gained: 0.6 % more tokens a second with 100 adapters (a power law, alpha 1) in 48 slots and batches of 128,
simulated with `benchmarks.simulate`. Where slots are few, a longer line loads adapters less often: 12 % more in 8 slots
and batches of 32."""


class KeySettings(Section):
    """The API keys: each belongs to a tenant, with limits."""

    file: str | None = Field(
        None,
        description="File that `learnware-serving keys add` writes: names, SHA-256 digests and limits, never a key "
        "itself. It is read again when it changes. Keys of the environment variable LEARNWARE_API_KEYS (NAME:KEY, "
        "separated by commas) hold beside it. With a file, be it empty, requests need a key. null: no file.",
    )

    @property
    def path(self) -> Path | None:
        return None if self.file is None else Path(self.file).expanduser().resolve()


class LimitSettings(Section):
    """The limits of one request, of what waits, and of a tenant whose key has none of its own."""

    max_choices: int = Field(16, ge=1, description="Largest `n` (and `best_of`); more is answered 400.")
    max_prompts: int = Field(
        64,
        ge=1,
        description="Most prompts, conversations or items in one request; more is answered 400, as is more (times n) "
        "than one replica holds: engine.max_num_seqs and max_waiting together.",
    )
    max_waiting: int | None = Field(
        None,
        ge=1,
        description="Sequences (prompts times n) that may wait on each engine replica beside those that run; further "
        "ones are answered 429 with Retry-After. A tenant that has less than its share there is admitted up to twice "
        "as many. null: as many as engine.max_num_seqs; where adapters share few slots, more are worth their wait.",
    )
    max_wait_s: float = Field(
        30.0,
        gt=0,
        description="While some request has waited for longer on a replica, seconds, further ones of tenants that have "
        "their share there are answered 429.",
    )
    first_token_s: float = Field(
        300.0, gt=0, description="Seconds until a request's first token; a request that takes longer is ended with 504."
    )
    between_tokens_s: float = Field(
        60.0, gt=0, description="Seconds between two tokens of an answer; one that takes longer is ended with an error."
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="Requests a minute of a tenant whose key says nothing else, at each edge. null: any."
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="Tokens of prompts and answers a minute of such a tenant, on each engine replica. null: any.",
    )
    concurrent_requests: int | None = Field(
        None, ge=1, description="Requests at once of such a tenant, at each edge. null: any."
    )

    def most_waiting(self, max_num_seqs: int) -> int:
        """Returns the sequences that may wait on a replica whose batch holds `max_num_seqs`."""
        return self.max_waiting or WAITING_PER_RUNNING * max_num_seqs
