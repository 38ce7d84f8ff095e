"""Cases of tests/live/test_oip_clients.py with KServe's client; a stock Triton answers as docs/oip.md says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.protocol.questions import answers
from benchmarks.protocol.servers import TRITON_VERSION, Place, running, triton
from benchmarks.protocol.table import read_equal, read_rows
from tests.live import test_oip_clients as cases
from tests.live.test_oip_clients import KSERVE_REST, documented, of_each_place, places, site  # noqa: F401 - fixtures
from tests.support.engines import installed
from tests.support.oip_clients import Client, Kserve, kserve_process
from tsctl.gateway.headers import KEY_HEADER

of_each_client = pytest.mark.parametrize("name", (*KSERVE_REST, "kserve-grpc"))
Clients = dict[tuple[str, str], Client]


@pytest.fixture(scope="module")
def clients(places: dict[str, Place]) -> Iterator[Clients]:
    """KServe's client of every place, and with a wrong key as of the place `wrong`."""
    wrong = replace(places["uvicorn"], headers={KEY_HEADER: "wrong"})
    with kserve_process() as process:
        yield {
            (at, f"kserve-{kind}"): Kserve(process, place, kind)
            for at, place in {**places, "wrong": wrong}.items()
            for kind in ("rest", "rest-binary", "grpc")
        }


@of_each_place
@of_each_client
def test_rows_are_answered(places: dict[str, Place], clients: Clients, place: str, name: str) -> None:
    cases.test_rows_are_answered(places, clients, place, name)


@of_each_place
@of_each_client
def test_server_and_model_are_live_and_ready(
    places: dict[str, Place],
    clients: Clients,
    place: str,
    name: str,
) -> None:
    cases.test_server_and_model_are_live_and_ready(places, clients, place, name)


@of_each_place
@of_each_client
def test_mistakes_have_the_same_code_and_say_what_is_wrong(
    places: dict[str, Place],
    clients: Clients,
    place: str,
    name: str,
) -> None:
    cases.test_mistakes_have_the_same_code_and_say_what_is_wrong(places, clients, place, name)


@of_each_client
def test_the_gateway_asks_for_a_key_but_for_the_servers_health(clients: Clients, name: str) -> None:
    cases.test_the_gateway_asks_every_client_for_a_key_but_for_the_servers_health(clients, name)


def test_a_stock_triton_answers_as_the_documentation_says(
    places: dict[str, Place],
    documented: str,
    tmp_path: Path,
) -> None:
    rows, equal = read_rows(documented), read_equal(documented)
    with running(triton(installed("triton").python, tmp_path), tmp_path, TRITON_VERSION) as place:
        said = answers(place)
    here = answers(places["uvicorn"])
    assert {title: said[title] for title in rows} == {title: cells["Triton"] for title, cells in rows.items()}
    assert {title: said[title] for title in equal} == {title: here[title] for title in equal}
