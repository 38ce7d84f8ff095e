"""Keys and budgets of clients, as settings of the filters that check them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from handlers.contract import CLIENT_HEADER
from tsctl.config.deployment import Budget
from tsctl.gateway.envoy.messages import Json, http_filter_type, typed
from tsctl.gateway.headers import KEY_HEADER

KEY_FILTER, BUDGET_FILTER = "api_key_auth", "local_ratelimit"
#: Of a route that needs no key.
WITHOUT_KEY = {KEY_FILTER: typed("envoy.config.route.v3.FilterConfig", disabled=True)}
_ALWAYS = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}, "runtime_key": "tsctl.budgets"}


@dataclass(frozen=True)
class Client:
    """A holder of keys."""

    name: str
    keys: tuple[str, ...] = field(repr=False)
    budget: Budget | None = None  # of requests; None: the gateway's own
    tokens_per_minute: int | None = None  # None: the gateway's own


def client_filters(default: Budget, clients: Sequence[Client], with_bearer: bool = False) -> Json:
    """The per-route settings of the two filters.

    Args:
        with_bearer: whether `authorization: Bearer KEY` is read beside the header for keys.
    """
    return {KEY_FILTER: _keys(clients, with_bearer), BUDGET_FILTER: _budgets(default, clients)}


def token_budgets(default: Budget, clients: Sequence[Client]) -> dict[str, int]:
    """Tokens a minute of the clients that have such a budget, by name."""
    budgets = {client.name: client.tokens_per_minute or default.tokens_per_minute for client in clients}
    return {name: tokens for name, tokens in budgets.items() if tokens is not None}


def keys_in(routes: Mapping[str, Any]) -> list[str]:
    """The keys in a route file, read back."""
    [configuration] = routes["resources"]
    [host] = configuration["virtual_hosts"]
    return [entry["key"] for entry in host["typed_per_filter_config"][KEY_FILTER].get("credentials", ())]


def keys_that_stay(clients: Sequence[Client], with_bearer: bool = False) -> Json:
    """As for every route, for one whose requests are checked again: the key stays with them, and no client is named."""
    return typed(
        http_filter_type("api_key_auth.v3.ApiKeyAuthPerRoute"),
        credentials=[{"key": key, "client": client.name} for client in clients for key in client.keys],
        key_sources=[{"header": KEY_HEADER}, *([{"header": "authorization"}] if with_bearer else [])],
    )


def _keys(clients: Sequence[Client], with_bearer: bool) -> Json:
    return {
        **keys_that_stay(clients, with_bearer),
        "forwarding": {"header": CLIENT_HEADER, "hide_credentials": True},
    }


def _budgets(default: Budget, clients: Sequence[Client]) -> Json:
    """A bucket for each client by its name.

    One descriptor without a value would make buckets by itself, but Envoy keeps twenty of these, and a client whose
    bucket was dropped for another's meets a full one: with more clients than that, nobody had a budget.
    """
    return typed(
        http_filter_type("local_ratelimit.v3.LocalRateLimit"),
        stat_prefix="budgets",
        token_bucket={"max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "0.05s"},
        filter_enabled=_ALWAYS,
        filter_enforced=_ALWAYS,
        rate_limits=[{"actions": [{"request_headers": {"header_name": CLIENT_HEADER, "descriptor_key": "client"}}]}],
        descriptors=[
            {"entries": [{"key": "client", "value": client.name}], "token_bucket": _bucket(client.budget or default)}
            for client in clients
        ],
    )


def _bucket(budget: Budget) -> Json:
    """Filled twenty times a second where the rate allows it, so that a client need not wait for a whole second."""
    parts = 20 if budget.requests_per_s % 20 == 0 else 1
    return {
        "max_tokens": budget.burst,
        "tokens_per_fill": budget.requests_per_s // parts,
        "fill_interval": f"{1 / parts:g}s",
    }
