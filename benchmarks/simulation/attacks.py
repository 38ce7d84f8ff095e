"""Simulates clients that want a good canary rolled back, each request judged as a rollout would judge it.

The canary is like stable. Attackers know which requests fail; on a sticky route they make up users until one is the
canary's, which its answers tell them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.evidence import Evidence, no_evidence
from tsctl.rollout.decide.judge import AVERAGE, ONE_CLIENT, judge, log_e_values
from tsctl.rollout.decide.windows import ClientCounts, OutcomeCounts, Window
from tsctl.statistics.sequential import rejects

#: Requests between two readings of the evidence.
READING = 200


@dataclass(frozen=True)
class Attack:
    """Clients that send nothing but requests that fail.

    Args:
        shares: of the route's requests, one for each key of the attackers; the rest is of one honest client for each
            tenth of them.
        weight: of the canary.
        is_sticky: the route divides users, and the attackers aim at the canary; else their requests fall by weight.
        errors: of honest requests.
        requests: of the route.
    """

    shares: tuple[float, ...]
    weight: int = 100
    is_sticky: bool = True
    errors: float = 0.001
    requests: int = 100_000


@dataclass(frozen=True)
class Fates:
    """How many of the runs were rolled back, held for a person, and passed."""

    rolled_back: int
    held: int
    runs: int


def fates(policy: RolloutPolicy, attack: Attack, runs: int, seed: int) -> Fates:
    """Simulate one step of a canary under attack, until it is rolled back or the requests end."""
    chance = np.random.default_rng(seed)
    ends = [_end(policy, attack, chance) for _ in range(runs)]
    return Fates(ends.count("rolled back"), ends.count("held"), runs)


def _end(policy: RolloutPolicy, attack: Attack, chance: np.random.Generator) -> str:
    evidence = no_evidence(policy, ())
    for _ in range(attack.requests // READING):
        evidence = evidence.seen(_window(attack, chance))
        if rejects(log_e_values(policy, evidence)[AVERAGE], policy.alpha):
            return "rolled back"
    return _verdict(policy, evidence)


def _verdict(policy: RolloutPolicy, evidence: Evidence) -> str:
    judgement = judge(policy, evidence, policy.hold_s, evidence.canary.requests)
    return "held" if judgement.why == ONE_CLIENT else judgement.verdict.value


def _window(attack: Attack, chance: np.random.Generator) -> Window:
    """READING requests; each user sends one."""
    sent = chance.multinomial(READING, [*attack.shares, 1 - sum(attack.shares)])
    weight = attack.weight / TOTAL
    clients: dict[str, ClientCounts] = {}
    for number, (share, count) in enumerate(zip(attack.shares, sent, strict=False)):
        aimed = int(count) if attack.is_sticky else int(chance.binomial(count, weight))
        clients[f"attacker {number}"] = _client(attack, share, (int(count) - aimed, aimed), (int(count) - aimed, aimed))
    for number, count in enumerate(chance.multinomial(sent[-1], [0.1] * 10)):
        on_canary = int(chance.binomial(count, weight))
        served = int(count) - on_canary, on_canary
        failed = [int(chance.binomial(requests, attack.errors)) for requests in served]
        clients[f"client {number}"] = _client(attack, (1 - sum(attack.shares)) / 10, served, failed)
    stable = sum((client.stable for client in clients.values()), OutcomeCounts())
    canary = sum((client.canary for client in clients.values()), OutcomeCounts())
    users = (stable, canary) if attack.is_sticky else (OutcomeCounts(), OutcomeCounts())
    return Window(
        attack.weight, stable, canary, is_by_user=attack.is_sticky, stable_users=users[0], canary_users=users[1],
        clients=clients,
    )  # fmt: skip


def _client(attack: Attack, share: float, served: Sequence[int], failed: Sequence[int]) -> ClientCounts:
    stable, canary = (OutcomeCounts(*counts) for counts in zip(served, failed, strict=True))
    return ClientCounts(share, stable, canary, *((stable, canary) if attack.is_sticky else ()))
