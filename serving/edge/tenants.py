"""The limits of tenants at the edge, for requests that generate: requests a minute, requests at once, and a fair share
of the requests at once of all.

All is counted by this HAProxy process, so for each node, and begins anew when a change of the topology reloads it;
nothing that is refused counts. HAProxy runs one thread here (`serving.launch.environment`), and the rules do not wait,
so that between a look at a count and its change no other request comes.
"""

from serving.edge.answers import refusal
from serving.edge.settings import EdgeSettings

#: Milliseconds of a minute. A bucket holds a minute's requests and drains as evenly: each request adds this much, and
#: each millisecond takes away as much as there are requests a minute, so that all stays in whole numbers.
_MINUTE_MS = 60_000

#: Largest limit that is told apart: a full bucket must fit 32 bits.
LARGEST_RATE = 70_000

#: Tenants that are remembered. A name has at most 64 characters (`serving.access.tenant`).
_TABLE = "stick-table type string len 64 size 100k"

#: Seconds for which a tenant counts as active after its last request.
_ACTIVE_S = 10

#: All requests at once are at most this many times those over which shares are enforced.
_HARD_FACTOR = 2


def tenant_tables() -> str:
    """Return the backends that hold the stick tables of the tenants."""
    return (
        f"backend edge_rates\n    {_TABLE} expire 5m store gpt(2)\n"
        f"backend edge_running\n    {_TABLE} expire {_ACTIVE_S}s store conn_cur\n"
        f"backend edge_total\n    {_TABLE.replace('100k', '10')} expire {_ACTIVE_S}s store conn_cur\n"
    )


def tenant_rules(settings: EdgeSettings, folder: str, tenant: str) -> list[str]:
    """Return the rules that refuse what is too much and count the rest; `tenant` is the variable with its name."""
    return [
        f"acl edge_generates var(txn.edge_path) -m str {' '.join(settings.generating_paths)}",
        "http-request set-var(txn.edge_counts) bool(true) if METH_POST edge_generates",
        "acl edge_counts var(txn.edge_counts) -m bool",
        f"http-request set-var(txn.edge_running) var({tenant}),table_conn_cur(edge_running) if edge_counts",
        *_concurrency_rules(folder, tenant),
        *_share_rules(settings, folder),
        *_rate_rules(folder, tenant),
        f"http-request track-sc2 var({tenant}) table edge_running if edge_counts",
        "http-request track-sc3 str(all) table edge_total if edge_counts",
    ]


def _concurrency_rules(folder: str, tenant: str) -> list[str]:
    limit = "txn.edge_concurrent"
    return [
        f"http-request set-var({limit}) var({tenant}),map_str_int({folder}/concurrent.map) if edge_counts",
        refusal(
            "concurrent",
            folder,
            f"edge_counts {{ var({limit}) -m found }} {{ var(txn.edge_running),sub({limit}) -m int ge 0 }}",
        ),
    ]


def _share_rules(settings: EdgeSettings, folder: str) -> list[str]:
    most = settings.total_requests
    if not most:
        return []
    return [
        "http-request set-var(txn.edge_all) str(all),table_conn_cur(edge_total) if edge_counts",
        "http-request set-var(txn.edge_tenants) table_cnt(edge_running) if edge_counts",
        refusal("share", folder, f"edge_counts {{ var(txn.edge_all) -m int ge {most * _HARD_FACTOR} }}"),
        # More than `most` divided by the number of tenants.
        refusal(
            "share",
            folder,
            f"edge_counts {{ var(txn.edge_all) -m int ge {most} }}"
            f" {{ var(txn.edge_running),mul(txn.edge_tenants) -m int ge {most} }}",
        ),
    ]


def _rate_rules(folder: str, tenant: str) -> list[str]:
    """A leaky bucket for each tenant: gpt 0 is its level, gpt 1 when that was, in milliseconds modulo 2^32."""

    def compute(name: str, expression: str, also: str = "") -> str:
        return f"http-request set-var(txn.edge_{name}) {expression} if edge_metered{also}"

    wait = "var(txn.edge_next),sub(txn.edge_full),add(txn.edge_second),sub(1),div(txn.edge_second)"
    reset = "var(txn.edge_level),add(txn.edge_rpm),sub(1),div(txn.edge_rpm)"
    metered = "{ var(txn.edge_reset) -m found }"
    in_seconds = f"%[var(txn.edge_reset),add(999),div(1000)]s if {metered} {{ var(txn.edge_reset) -m int ge 1000 }}"
    return [
        f"http-request set-var(txn.edge_rpm) var({tenant}),map_str_int({folder}/rpm.map) if edge_counts",
        "acl edge_metered var(txn.edge_rpm) -m found",
        f"http-request track-sc1 var({tenant}) table edge_rates if edge_metered",
        compute("now", "date(0,ms),and(4294967295)"),
        compute("last", "sc_get_gpt(1,1)"),
        compute("drained", "var(txn.edge_now),sub(txn.edge_last),and(4294967295),mul(txn.edge_rpm)"),
        compute("level", "sc_get_gpt(0,1),sub(txn.edge_drained)"),
        compute("level", "int(0)", " { var(txn.edge_level) -m int lt 0 }"),
        compute("full", f"var(txn.edge_rpm),mul({_MINUTE_MS})"),
        compute("second", "var(txn.edge_rpm),mul(1000)"),
        compute("next", f"var(txn.edge_level),add({_MINUTE_MS})"),
        compute("over", "var(txn.edge_next),sub(txn.edge_full)"),
        "acl edge_too_fast var(txn.edge_over) -m int gt 0",
        compute("level", "var(txn.edge_next)", " !edge_too_fast"),
        compute("rate_wait", wait, " edge_too_fast"),
        compute("left", f"var(txn.edge_full),sub(txn.edge_level),div({_MINUTE_MS})"),
        compute("reset", reset),
        f"http-after-response set-header x-ratelimit-limit-requests %[var(txn.edge_rpm)] if {metered}",
        f"http-after-response set-header x-ratelimit-remaining-requests %[var(txn.edge_left)] if {metered}",
        f"http-after-response set-header x-ratelimit-reset-requests %[var(txn.edge_reset)]ms if {metered}",
        f"http-after-response set-header x-ratelimit-reset-requests {in_seconds}",
        refusal("rate", folder, "edge_metered edge_too_fast"),
        "http-request sc-set-gpt(0,1) var(txn.edge_level) if edge_metered",
        "http-request sc-set-gpt(1,1) var(txn.edge_now) if edge_metered",
    ]
