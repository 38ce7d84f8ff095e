"""Says how a rollout is judged, how it ended or stands, and what a person may do next. Pure."""

from __future__ import annotations

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import percent
from tsctl.rollout.decide.actions import PREPARATION
from tsctl.rollout.decide.events import Effect, Outcome
from tsctl.rollout.decide.judge import ONE_CLIENT, Judgement, Verdict
from tsctl.rollout.decide.state import State
from tsctl.views.rollout.wording import duration, needed_text, signal_name

_IN_PROGRESS = {
    Effect.VERIFY: "checking the archive of {canary}",
    Effect.REGISTER: "registering {canary} on every node, without traffic",
    Effect.VERIFY_GOLDEN: "sending the golden samples to {canary} on every node",
    Effect.SET_WEIGHT: "giving {canary} {weight} of the requests",
    Effect.REVERT_WEIGHT: "giving {stable} all requests",
    Effect.SET_DEFAULT: "making {canary} the default version of the nodes",
    Effect.RESTORE_DEFAULT: "making {stable} the default version of the nodes again",
    Effect.RETIRE: "retiring old versions",
    Effect.EXTEND: "registering {canary} on nodes that joined",
    Effect.COPY: "sending copies of requests to {canary}",
    Effect.STOP_COPYING: "ending the copies to {canary}",
}


def rule(policy: RolloutPolicy) -> str:
    """How a canary is judged under this policy."""
    shares = ", ".join(f"{signal_name(name)} {share:.3g}" for name, share in policy.shares.items())
    return (
        "Each signal has an e-value: a number that stays small while the canary is no worse, however often it is read."
        f" The canary fails when the weighted average of the e-values ({shares}) reaches 1 / alpha ="
        f" {1 / policy.alpha:,.4g}. A canary that is no worse fails with a probability of at most alpha ="
        f" {policy.alpha:.3g}, ever. The error rate cap compares the canary's error rate with the policy's maximum. A"
        f" step passes after {duration(policy.hold_s)} and {policy.min_requests:,} canary requests, once the error rate"
        f" is surely below {policy.max_error_rate:.2%}; until then it is undecided and holds.{_stage(policy)} Each"
        f" interval contains the true rate at all times at once, with a probability of at least {1 - policy.alpha:.4g}."
    )


def _stage(policy: RolloutPolicy) -> str:
    if policy.shadow is None:
        return ""
    return (
        f" Before the first step the canary gets copies of {percent(policy.shadow.share)} of the requests. It fails"
        f" once its answers surely differ from stable's {policy.shadow.max_disagreement:.2%} more often than stable's"
        f" second answers do, and passes after {policy.shadow.min_pairs:,} pairs or more, once they surely do not. The"
        " stage has an alpha of its own."
    )


def outcome(state: State) -> str:
    """How the rollout ended or stands, and what that means."""
    canary, stable = f"{state.model} {state.canary}", state.stable
    if state.outcome is Outcome.PROMOTED:
        return f"{canary} was promoted: it gets all requests, and is the default version on every node."
    if state.outcome is Outcome.ROLLED_BACK and state.is_rejected:
        return f"{canary} failed before its first request, by {state.signal}: {state.why}. {_back(state)}"
    if state.outcome is Outcome.ROLLED_BACK and state.is_failed:
        by = f", by {signal_name(state.signal)}" if state.signal else ""
        return f"{canary} was rolled back{by}: {state.why}. {_back(state)}"
    if state.outcome is Outcome.ROLLED_BACK:
        return f"{canary} was rolled back by {state.commanded_by or 'a person'}. {_back(state)}"
    if state.outcome is Outcome.ABORTED:
        return f"The rollout of {canary} was aborted by {state.commanded_by or 'a person'}. {_back(state)}"
    if state.is_failed:
        return f"{canary} failed and is being rolled back to {stable}: {state.why}."
    if state.is_going_back:
        return f"The rollout of {canary} is being stopped; all requests go back to {stable}."
    return f"The rollout of {canary} has not ended: {progress(state)}."


def progress(state: State) -> str:
    """Where a rollout stands that has not ended, as the end of a sentence."""
    if state.waits_for:
        return f"it waits, {state.waits_for}"
    if state.doing:
        return f"it is {in_progress(state.doing, state)}"
    if state.step < 0 and state.is_in_shadow_stage and Effect.COPY in state.done:
        paused = "paused, " if state.is_paused else ""
        return f"{paused}it is compared with stable as a shadow, {state.judgement.verdict.value}: {state.judgement.why}"
    if state.step < 0:
        left = [effect.replace("prove", "golden samples") for effect in PREPARATION if effect not in state.done]
        return f"{', '.join(left)} {'is' if len(left) == 1 else 'are'} to come" if left else "a step is about to begin"
    judgement = state.judgement
    where = f"{where_of(state)}, held {duration(state.held_s)}"
    paused = ", paused" if state.is_paused else ""
    return f"{where}{paused}, {judgement.verdict.value}: {reason(state, judgement)}"


def where_of(state: State) -> str:
    """The present step and its weight: `step 2 of 5, 5% of the requests`."""
    return f"step {state.step + 1} of {len(state.weights)}, {percent(state.weight)} of the requests"


def reason(state: State, judgement: Judgement) -> str:
    """Why the present step is judged as it is, with a number that a person can do something with."""
    if judgement.verdict is Verdict.UNDECIDED and judgement.needed:
        return needed_text(judgement.needed)
    if judgement.verdict is Verdict.UNDECIDED and judgement.why != ONE_CLIENT:
        return f"{duration(state.policy.hold_s - state.held_s)} of hold time left"
    return judgement.why


def advice(state: State) -> tuple[str, ...]:
    """What a person may do next, a full sentence each."""
    model, canary, stable = state.model, state.canary, state.stable
    if state.outcome is Outcome.PROMOTED:
        if state.policy.keep:
            return (f"{stable} stays registered and warm for a rollback: tsctl rollout rollback {model}",)
        return (
            f"The policy keeps no old version; a rollout releases {stable} again: tsctl rollout start {model} {stable}",
        )
    if state.outcome is not None:
        lines = (
            f"{canary} stays registered without traffic. Inspect it: tsctl models describe {model} {canary}",
            f"Remove it: tsctl models retire {model} {canary}",
        )
        return (
            *(lines if Effect.REGISTER in state.done else ()),
            f"Release a fixed archive under a new version: tsctl rollout start {model} VERSION",
        )
    resume = f"If no tsctl process runs it, resume it: tsctl rollout resume {model}"
    if state.is_going_back:
        return (resume,)
    return (f"Watch it: tsctl rollout watch {model}", f"Abort it: tsctl rollout abort {model}", resume)


def deployment_hints(state: State, deployment: DeploymentSpec) -> list[str]:
    """Edits that deployment.yaml needs after a promotion or its rollback."""
    stable = state.canary if state.weight else state.stable
    target = deployment.models.get(state.model)
    if state.outcome is None or target is None:
        return []
    hints = []
    lacking = [name for name in deployment.nodes if target.is_on(stable, name) and name not in state.nodes]
    if lacking and state.nodes and stable == state.canary:
        where = f"{'node' if len(lacking) == 1 else 'nodes'} {', '.join(lacking)}"
        hints.append(f"the rollout did not put {state.model} {stable} on {where}, added meanwhile: run 'tsctl apply'")
    if stable not in target.versions:
        hints.append(f"deployment.yaml does not name {state.model} {stable}: add it to the model's versions")
    if target.default != stable:
        hints.append(
            f"deployment.yaml still has {target.default} as the default of {state.model}: make it {stable}, or"
            " 'tsctl apply' sets it back"
        )
    return hints


def in_progress(effect: Effect, state: State) -> str:
    """An effect in progress, as the rest of a sentence."""
    return _IN_PROGRESS[effect].format(canary=state.canary, stable=state.stable, weight=percent(state.weight))


def _back(state: State) -> str:
    is_shadow = Effect.COPY in state.done
    reached = "Only copies of requests had reached the canary." if is_shadow else "No request had reached the canary."
    never = "" if state.had_weight else f" {reached}"
    return f"All requests go to {state.stable}.{never}"
