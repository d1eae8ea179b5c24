"""Settings come from arguments, variables and a file, in that order; unknown keys are refused."""

from pathlib import Path

import pytest

from diptych.errors import SettingInvalid
from diptych.inference.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIPTYCH_HOME", "DIPTYCH_CONFIG", "DIPTYCH_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "diptych.yaml"
    path.write_text("log_level: warning\ninference:\n  port: 1234\n  max_rows: 4\n")
    return path


def refused(config: Path | None = None, arguments: dict[str, object] | None = None) -> list[str]:
    with pytest.raises(SettingInvalid) as caught:
        load_settings(config, arguments)
    return [violation.field for violation in caught.value.violations]


def test_defaults_are_loopback_and_the_embedded_pair() -> None:
    settings = load_settings().inference
    sources = (settings.base, settings.refiner_source())
    assert (settings.host, *sources) == ("127.0.0.1", "nano", "nano")


def test_home_is_a_folder_here_unless_set() -> None:
    assert load_settings().home == Path(".diptych")


def test_shared_variable_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DIPTYCH_HOME", str(tmp_path))
    assert load_settings().home == tmp_path


def test_variable_of_the_service_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_INFERENCE_METRICS_PORT", "4321")
    assert load_settings().inference.metrics_port == 4321


def test_variable_none_hosts_no_refiner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_INFERENCE_REFINER", "none")
    assert load_settings().inference.refiner is None


def test_file_is_read(config: Path) -> None:
    settings = load_settings(config)
    assert (settings.log_level, settings.inference.port) == ("warning", 1234)


def test_variable_names_the_file(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    monkeypatch.setenv("DIPTYCH_CONFIG", str(config))
    assert load_settings().inference.port == 1234


def test_variable_wins_over_file(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    monkeypatch.setenv("DIPTYCH_INFERENCE_PORT", "999")
    settings = load_settings(config).inference
    assert (settings.port, settings.max_rows) == (999, 4)


def test_argument_wins_over_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_INFERENCE_PORT", "999")
    assert load_settings(arguments={"inference": {"port": 5}}).inference.port == 5


def test_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_HOEM", "x")
    assert refused() == ["DIPTYCH_HOEM"]


def test_unknown_variable_of_the_service_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_INFERENCE_PROT", "1")
    assert refused() == ["inference.prot"]


def test_unknown_key_of_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "diptych.yaml"
    path.write_text("inferense: {}\n")
    assert refused(path) == ["inferense"]


def test_every_violation_is_named() -> None:
    bad: dict[str, object] = {"inference": {"port": 70000, "max_rows": 0}, "log_level": "loud"}
    assert sorted(refused(arguments=bad)) == ["inference.max_rows", "inference.port", "log_level"]


def test_violation_states_limit_and_value() -> None:
    with pytest.raises(SettingInvalid, match=r"less than or equal to 65535, not 70000"):
        load_settings(arguments={"inference": {"port": 70000}})


@pytest.mark.parametrize("text", ["- a list\n", "a: [\n", "\x00"])
def test_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "diptych.yaml"
    path.write_text(text)
    assert refused(path) == [str(path)]


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent.yaml") == [str(tmp_path / "absent.yaml")]


def test_constructor_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_INFERENCE_PORT", "999")
    assert Settings().inference.port != 999


def test_limits_follow_the_settings() -> None:
    settings = load_settings(arguments={"inference": {"max_side": 512}})
    assert settings.inference.limits().max_side == 512


@pytest.mark.parametrize(
    ("own", "source"),
    [
        ({}, "nano"),
        ({"base": "models/sdxl"}, None),
        ({"refiner_peer": "10.0.0.1:50051"}, None),
        ({"refiner": None}, None),
        ({"base": None, "refiner": "models/refiner"}, "models/refiner"),
    ],
)
def test_refiner_follows_the_base_unless_it_is_named(
    own: dict[str, object], source: str | None
) -> None:
    assert load_settings(arguments={"inference": own}).inference.refiner_source() == source


def test_refiner_here_and_at_a_peer_exclude_each_other() -> None:
    own = {"refiner": "nano", "refiner_peer": "10.0.0.1:50051"}
    arguments: dict[str, object] = {"inference": own}
    assert refused(arguments=arguments) == ["inference"]


def test_peers_are_trusted_by_their_tokens_only() -> None:
    arguments: dict[str, object] = {"inference": {"trusted_peers": ["base-pool"]}}
    assert refused(arguments=arguments) == ["inference"]


def test_trusted_peers_are_read_from_a_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DIPTYCH_INFERENCE_AUTH_TOKENS_FILE", str(tmp_path / "tokens"))
    monkeypatch.setenv("DIPTYCH_INFERENCE_TRUSTED_PEERS", '["base-pool"]')
    assert load_settings().inference.trusted_peers == ("base-pool",)


def test_token_is_not_shown() -> None:
    settings = load_settings(arguments={"inference": {"refiner_peer_token": "secret"}})
    assert "secret" not in repr(settings)


def test_token_is_not_shown_beside_settings_that_exclude_each_other() -> None:
    own = {"refiner": "nano", "refiner_peer": "10.0.0.1:50051", "refiner_peer_token": "secret"}
    with pytest.raises(SettingInvalid) as caught:
        load_settings(arguments={"inference": own})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3"])
def test_device_that_a_machine_may_have_is_taken(device: str) -> None:
    assert load_settings(arguments={"inference": {"device": device}}).inference.device == device


@pytest.mark.parametrize("device", ["abacus", "cuda:", "cuda:x", ""])
def test_device_that_no_machine_has_is_refused_before_anything_loads(device: str) -> None:
    assert refused(arguments={"inference": {"device": device}}) == ["inference.device"]


def test_server_without_an_expert_is_refused_before_anything_loads() -> None:
    with pytest.raises(SettingInvalid, match="neither base nor refiner is given"):
        load_settings(arguments={"inference": {"base": None}})
