"""A node's configuration, tokens and logs, without a node."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from handlers.contract import ANSWER_LIMIT_VARIABLE
from tsctl.config.nodes import TorchServeSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError, SpecError
from tsctl.host.files import tail
from tsctl.nodes.key_files import write_header_file
from tsctl.nodes.load_reports import read_load_reports
from tsctl.nodes.process import temporary_folder
from tsctl.nodes.torchserve.client import VersionState, Worker
from tsctl.nodes.torchserve.engine import open_node
from tsctl.nodes.torchserve.logs import Recovery, failed_recoveries
from tsctl.nodes.torchserve.paths import NodePaths
from tsctl.nodes.torchserve.process import node_environment
from tsctl.nodes.torchserve.properties import (
    CONSOLE_OFF,
    jvm_arguments,
    node_properties,
    parse_properties,
    read_properties,
    render_properties,
)
from tsctl.nodes.torchserve.readiness import given_up
from tsctl.nodes.torchserve.settings import log_config, node_defaults
from tsctl.nodes.torchserve.tokens import read_tokens

CHECKOUT = Path(__file__).resolve().parents[2]

KEYS = """{"management": {"key": "m4n", "expiration time": "2026-01-01T10:00:00.123456789Z"},
 "inference": {"key": "1nf", "expiration time": "2026-01-01T11:00:00Z"}, "API": {"key": "4p1"}}"""


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key_file.json"
    path.write_text(KEYS)
    path.chmod(0o600)
    return path


def test_the_nodes_own_values_come_before_the_defaults() -> None:
    defaults = {"load_models": "all", "inference_address": "http://0.0.0.0:1", "job_queue_size": "7", "vmargs": "-X"}
    node = TorchServeSpec(inference="http://127.0.0.1:18080", grpc_ports=(1, 2))
    properties = parse_properties(render_properties(node_properties(defaults, node, Path("/a/st,ore"), 4)))
    assert properties["inference_address"] == "http://127.0.0.1:18080"
    assert properties["grpc_management_port"] == "2"
    assert properties["job_queue_size"] == "7"
    assert properties["number_of_netty_threads"] == "4"
    assert node_properties({"number_of_netty_threads": "9"}, node, Path("/s"), 4)["number_of_netty_threads"] == "9"
    assert properties["model_store"] == "/a/st,ore"
    assert properties["allowed_urls"] == "file:///a/st.ore/[^/]+\\.mar"  # a comma would end the pattern
    assert "load_models" not in properties


def test_the_log_configuration_is_named_by_its_absolute_path() -> None:
    defaults = {"vmargs": "-Dlog4j2.configurationFile=log4j2.xml -Xmx1g"}
    assert jvm_arguments(defaults, Path("/p/log4j2.xml")) == [
        "-Xmx1g", "-Dlog4j2.configurationFile=/p/log4j2.xml", CONSOLE_OFF,
    ]  # fmt: skip


def test_a_project_without_files_of_its_own_has_the_settings_and_quiet_logs_of_the_package(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert node_defaults(project)["disable_token_authorization"] == "false"
    ours = log_config(project)
    assert ours.is_absolute() and '<Logger name="ACCESS_LOG" level="off"/>' in ours.read_text(encoding="utf-8")


def test_a_projects_own_file_replaces_the_packages_file_of_that_name_and_no_other(tmp_path: Path) -> None:
    project = Project(tmp_path)
    (tmp_path / "config.properties").write_text("job_queue_size=7\n")
    assert node_defaults(project) == {"job_queue_size": "7"}
    assert log_config(project) == log_config(Project(tmp_path / "elsewhere"))
    (tmp_path / "log4j2.xml").write_text("<Configuration/>")
    assert log_config(project) == tmp_path / "log4j2.xml"


def test_this_repository_has_no_second_copy_of_the_packages_files() -> None:
    for name in ("config.properties", "log4j2.xml"):
        assert (CHECKOUT / name).resolve() == CHECKOUT / "tsctl" / "nodes" / "torchserve" / name


def test_a_node_inherits_what_it_needs_and_no_secret(tmp_path: Path) -> None:
    environment = {"PATH": "/bin", "PYTHONPATH": "/x", "AWS_SECRET_ACCESS_KEY": "s", "CUDA_VISIBLE_DEVICES": "1"}
    inherited = node_environment(environment, NodePaths(tmp_path), tmp_path, {})
    assert inherited["PATH"] == "/bin"
    assert inherited["CUDA_VISIBLE_DEVICES"] == "1"
    assert not {"PYTHONPATH", "AWS_SECRET_ACCESS_KEY", "TS_SHARED_CACHE_URL"} & set(inherited)


PROMISED = (
    "PATH", "LANG", "LC_TIME", "TZ", "LD_PRELOAD", "TS_OWN_SETTING", "CUDA_CACHE_PATH", "OMP_PROC_BIND", "KMP_AFFINITY",
    "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_CACHE_DIR", "PYTORCH_CUDA_ALLOC_CONF", "MALLOC_ARENA_MAX",
    "HIP_VISIBLE_DEVICES",
)  # fmt: skip
KEPT_BACK = ("AWS_SECRET_ACCESS_KEY", "HTTP_PROXY", "PYTHONPATH", "MY_TOKEN", "PATHS", "TSCTL_PROJECT")


def test_a_token_that_no_header_can_hold_is_no_token_and_is_not_repeated(key_file: Path) -> None:
    key_file.write_text(KEYS.replace("m4n", "secret\\nvalue"))
    with pytest.raises(NodeError, match="is not a key file of TorchServe") as raised:
        read_tokens(key_file)
    assert "secret" not in raised.value.message


def test_what_config_properties_promises_to_workers_reaches_them_and_nothing_else(tmp_path: Path) -> None:
    properties = read_properties(CHECKOUT / "config.properties")
    environment = dict.fromkeys((*PROMISED, *KEPT_BACK), "C.UTF-8")
    passed_on = node_environment(environment, NodePaths(tmp_path), tmp_path, properties)
    assert set(PROMISED) <= passed_on.keys()
    assert not set(KEPT_BACK) & passed_on.keys()
    assert passed_on["TMPDIR"] == str(tmp_path)
    with pytest.raises(NodeError, match="blacklist_env_vars is no regular expression"):
        node_environment({"A": "1"}, NodePaths(tmp_path), tmp_path, {"blacklist_env_vars": "("})


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "C.UTF-8"),
        ({"LANG": "C"}, "C.UTF-8"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "POSIX"}, "C.UTF-8"),
        ({"LANG": "de_DE.ISO-8859-1"}, "C.UTF-8"),
        ({"LANG": "de_DE.UTF-8"}, None),
        ({"LANG": "C", "LC_ALL": "en_US.utf8"}, "en_US.utf8"),
    ],
)
def test_a_node_has_a_locale_in_which_java_finds_files_of_any_name(
    tmp_path: Path, environment: dict[str, str], expected: str | None
) -> None:
    assert node_environment(environment, NodePaths(tmp_path), tmp_path, {}).get("LC_ALL") == expected


def test_the_folder_of_sockets_has_a_path_that_is_short_in_bytes() -> None:
    with tempfile.TemporaryDirectory() as short:
        paths = NodePaths(Path(short) / ("ö" * 35))
        paths.folder.mkdir()
        folder = temporary_folder(paths.folder)
        assert len(os.fsencode(folder)) <= 80
        assert folder.is_dir()
        folder.rmdir()


def test_properties_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "config.properties"
    path.write_bytes(b"\xef\xbb\xbfa=1\nb=\xc3\xa9\n")
    assert read_properties(path) == {"a": "1", "b": "é"}
    path.write_bytes(b"a=\xe9")
    with pytest.raises(SpecError, match=r"config\.properties: cannot be read as UTF-8: .* at byte 2"):
        read_properties(path)


def test_workers_learn_the_address_of_the_shared_cache_that_no_archive_may_hold(tmp_path: Path) -> None:
    environment = {"TS_SHARED_CACHE_URL": "redis://:secret@cache:6379/0", "TS_SHARED_CACHE_KEY": "k" * 32}
    assert node_environment(environment, NodePaths(tmp_path), tmp_path, {}).items() >= environment.items()
    [pattern] = [
        line.partition("=")[2]
        for line in (CHECKOUT / "config.properties").read_text().splitlines()
        if line.startswith("blacklist_env_vars=")
    ]
    assert not any(re.fullmatch(pattern, name) for name in environment)


def test_workers_learn_the_longest_answer_that_their_node_reads(tmp_path: Path) -> None:
    properties = parse_properties((CHECKOUT / "config.properties").read_text())
    environment = node_environment({}, NodePaths(tmp_path), tmp_path, properties)
    assert environment[ANSWER_LIMIT_VARIABLE] == "16777216"
    assert not re.fullmatch(properties["blacklist_env_vars"], ANSWER_LIMIT_VARIABLE)
    assert ANSWER_LIMIT_VARIABLE not in node_environment({}, NodePaths(tmp_path), tmp_path, {})


def test_tokens_are_read_with_their_expiry(key_file: Path) -> None:
    tokens = read_tokens(key_file)
    assert tokens.inference.header == {"Authorization": "Bearer 1nf"}
    assert tokens.management.is_expired(datetime(2026, 1, 1, 10, 0, 1, tzinfo=UTC))
    assert not tokens.inference.is_expired(datetime(2026, 1, 1, 10, 59, tzinfo=UTC))
    assert not tokens.api.is_expired(datetime(2099, 1, 1, tzinfo=UTC))


def test_a_token_is_in_no_representation(key_file: Path) -> None:
    assert "1nf" not in repr(read_tokens(key_file))


def test_a_key_file_that_others_may_read_is_refused(key_file: Path) -> None:
    key_file.chmod(0o644)
    with pytest.raises(NodeError, match="0644") as caught:
        read_tokens(key_file)
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"inference": 1}', KEYS.replace("2026", "day")])
def test_a_damaged_key_file_is_refused_without_showing_it(key_file: Path, content: str) -> None:
    key_file.write_text(content)
    with pytest.raises(NodeError, match="not a key file") as caught:
        read_tokens(key_file)
    assert "4p1" not in str(caught.value)


def test_the_header_file_is_its_owners_alone(key_file: Path, tmp_path: Path) -> None:
    header = tmp_path / "inference.header"
    write_header_file(header, read_tokens(key_file).inference.value)
    assert header.read_text() == "Authorization: Bearer 1nf\n"
    assert header.stat().st_mode & 0o777 == 0o600


LOG = """2026-11-23T08:44:53,751 [INFO ] W-9000-digits_1.0-stdout - [TSCTL LOAD] {"model": "digits", "version": "1.0", \
"pid": 7, "outcome": "refused", "reason": "sample a.json is wrong"}
2026-11-23T08:44:54,000 [INFO ] W-9000-digits_1.0-stdout - something else
2026-11-23T08:44:55,000 [INFO ] W-9001-digits_1.0-stdout - [TSCTL LOAD] {"model": "digits", "version": "1.0", \
"pid": 8, "outcome": "ready", "seconds": 1.5}
2026-11-23T08:44:56,000 [INFO ] W-9001-digits_1.0-stdout - [TSCTL LOAD] {"model": "dig"""


def test_a_log_tells_how_each_load_ended(tmp_path: Path) -> None:
    path = tmp_path / "model_log.log"
    path.write_text(LOG)
    refused, ready = read_load_reports(path)
    assert (refused.is_ready, refused.reason, refused.pid) == (False, "sample a.json is wrong", 7)
    assert (ready.is_ready, ready.facts["seconds"]) == (True, 1.5)


def test_a_log_is_read_on_from_an_offset_and_from_the_start_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "model_log.log"
    path.write_text(LOG)
    assert [report.pid for report in read_load_reports(path, LOG.index("\n"))] == [8]
    assert [report.pid for report in read_load_reports(path, len(LOG) + 1000)] == [7, 8]
    assert read_load_reports(tmp_path / "none") == []


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("\n".join(str(n) for n in range(100_000)))
    assert tail(path, 2) == "99998\n99999"
    assert tail(tmp_path / "none") == ""


# ---- workers that TorchServe gave up ---------------------------------------------------------------------------------

BEGIN = "2026-11-26T03:45:{:02d},000 [INFO ] main ModelServer - \n"
FAILED = "2026-11-26T03:46:{:02d},500 [WARN ] W-{}-{} WorkerThread - Auto recovery failed again\n"


def test_tries_that_failed_are_counted_by_worker_since_the_nodes_start(tmp_path: Path) -> None:
    log = tmp_path / "ts_log.log"
    lines = [
        FAILED.format(1, 9000, "tiny_1.0"), BEGIN.format(2), "Torchserve version: 0.12.0\n",
        FAILED.format(3, 9000, "tiny_1.0"),
        FAILED.format(10, 9001, "tiny_1.0"), FAILED.format(14, 9000, "tiny_1.0"), FAILED.format(15, 9002, "tiny_2.0"),
        "2026-11-26T03:46:20,500 [ERROR] W-9003-other_1.0 WorkerThread - something\n", "no line of the log\n",
    ]  # fmt: skip
    log.write_text("".join(lines))
    modified = log.stat().st_mtime
    found = failed_recoveries(log, "tiny", "1.0", modified + 5)
    assert found == {"9000": Recovery(2, 11.0), "9001": Recovery(1, 15.0)}
    assert failed_recoveries(log, "tiny", "3.0", modified) == {}
    assert failed_recoveries(tmp_path / "none.log", "tiny", "1.0", modified) == {}


def test_the_cut_name_of_a_thread_is_known(tmp_path: Path) -> None:
    log = tmp_path / "ts_log.log"
    log.write_text(FAILED.format(1, 9000, "a_model_with_a_very_long_name_1.0"[:25]))
    assert failed_recoveries(log, "a_model_with_a_very_long_name", "1.0", log.stat().st_mtime).keys() == {"9000"}


@pytest.mark.parametrize(
    ("failures", "ago_s", "status", "is_given_up"),
    [(1, 3, "UNLOADING", False), (1, 5, "UNLOADING", True), (5, 10, "UNLOADING", False), (5, 12, "UNLOADING", True),
     (99, 1599, "UNLOADING", False), (99, 1601, "UNLOADING", True), (5, 99, "READY", False),
     (0, 99, "UNLOADING", False)],
)  # fmt: skip
def test_a_worker_is_given_up_once_no_pause_is_that_long(
    tmp_path: Path, failures: int, ago_s: float, status: str, is_given_up: bool
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    node = open_node(Project(tmp_path), "local", TorchServeSpec())
    node.paths.logs.mkdir(parents=True)
    node.paths.node_log.write_text(FAILED.format(1, 9000, "tiny_1.0") * failures)
    node.paths.worker_log.write_text("... W-9000-tiny_1.0-stderr - ValueError: no such file\n")

    def state(pid: int) -> VersionState:
        worker = Worker("9000", status, pid, False)
        return VersionState("tiny", "1.0", "tiny-1.0.mar", 1, 1, 8, 1, 30, 120, (worker,), 0, 100)

    now = node.paths.node_log.stat().st_mtime + ago_s
    reason = f"TorchServe gave up 1 of its 1 workers after {failures} tries: ValueError: no such file"
    assert given_up(node, state(ended.pid), now) == (reason if is_given_up else "")
    assert given_up(node, state(os.getpid()), now) == ""
