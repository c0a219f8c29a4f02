"""Deploy files: they parse, name pinned images and options that there are, and the dashboard shows metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimkit.serving.encode.metrics import EncodeMetrics
from trimkit.serving.server.metrics import Metrics
from trimkit.serving.vllm.metrics import EngineCollector

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "trimkit.json").read_text(encoding="utf-8"))
MANIFEST = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "vllm.yaml").read_text(encoding="utf-8")))
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*")
# Of the dashboard, those of vLLM 0.32.0 (vllm/v1/metrics/loggers.py), without endings.
VLLM = {
    "vllm:e2e_request_latency_seconds",
    "vllm:generation_tokens",
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:request_success",
    "vllm:time_to_first_token_seconds",
}


def families(text: str) -> set[str]:
    """Names as Prometheus sees them, from what ``/metrics`` says."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE):
        found |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return found


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def used() -> set[str]:
    return {name for each in expressions() for name in re.findall(r"\b(?:trimkit_|vllm:)\w+", each)}


@pytest.fixture(scope="module")
def served() -> set[str]:
    """The metrics of both servers; the gauges of trimkit serve are registered where they are read."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/trimkit/serving/server").glob("*.py"))
    gauges = {f"trimkit_{name}" for name in re.findall(r'\.watch\(\s*"(\w+)"', source)}
    assert gauges
    texts = (Metrics().text(), EncodeMetrics(lambda: 0).text())
    found = set().union(*(families(text.decode()) for text in texts), gauges)
    return {name for name in found if not name.endswith("_created")}


def test_the_dashboard_shows_metrics_that_there_are(served: set[str]) -> None:
    names = used()
    assert len(names) > 20
    assert {name for name in names if name.startswith("trimkit_")} - served == set()
    endings = ("_total", "_bucket")
    plain = {next((name.removesuffix(end) for end in endings if name.endswith(end)), name) for name in names}
    assert {name for name in plain if name.startswith("vllm:")} - VLLM == set()


def test_the_plugin_names_its_metrics_as_the_server_does(served: set[str]) -> None:
    collector = EngineCollector()
    plugin = {f"{each.name}_total" if each.type == "counter" else f"{each.name}_bucket" for each in collector.collect()}
    assert len(plugin) > 5
    assert plugin - served == set()
    (choosing,) = (each for each in collector.collect() if each.type == "histogram")
    (ours,) = (each for each in Metrics().collect() if each.name == choosing.name)
    assert {each.labels["le"] for each in choosing.samples if "le" in each.labels} == {
        each.labels["le"] for each in ours.samples if "le" in each.labels
    }


def test_every_metric_of_ours_is_shown_or_is_known_not_to_be(served: set[str]) -> None:
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used()}
    all_of_them = {re.sub(r"_(bucket|sum|count)$", "", name) for name in served}
    assert {name for name in all_of_them if name.startswith("trimkit_")} - shown <= {"trimkit_prompt_tokens_total"}


def test_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        mine = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not mine & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= mine
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_dashboards_source_is_the_provisioned_one() -> None:
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    uids = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "datasource" in panel}
    assert uids == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/trimkit.yaml").read_text())["providers"]
    mounts = [mount.split(":")[1] for mount in COMPOSE["services"]["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounts


def test_prometheus_asks_services_that_there_are() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    for job in config["scrape_configs"]:
        for group in job["static_configs"]:
            for target in group["targets"]:
                service = COMPOSE["services"][target.split(":")[0]]
                assert "watching" in service["networks"]


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_services_of_compose(name: str) -> None:
    service = COMPOSE["services"][name]
    built = "build" in service
    assert built or PINNED.fullmatch(service["image"]), service["image"]
    if built:
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    for mount in service.get("volumes", ()):
        source = mount.split(":")[0]
        if source.startswith("./") and source != "./language-model":  # which the user writes
            assert (DEPLOY / source).exists(), source
        elif not source.startswith("./"):
            assert source in COMPOSE["volumes"]
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def options_of(command: str) -> set[str]:
    from typer.main import get_command

    from trimkit.cli import app

    found: Any = get_command(app).commands[command]  # type: ignore[attr-defined]
    return {option for parameter in found.params for option in parameter.opts}


@pytest.mark.parametrize("words", [COMPOSE["services"][name]["command"] for name in ("server", "encoder")], ids=str)
def test_commands_of_compose_have_options_that_there_are(words: list[str]) -> None:
    assert {word for word in words if word.startswith("--")} <= options_of(words[0])


def test_only_the_encoder_reaches_the_engine_that_takes_embeddings() -> None:
    takes = COMPOSE["services"]["language-model"]
    assert "--enable-prompt-embeds" in takes["command"]
    assert "ports" not in takes
    assert COMPOSE["networks"]["inside"]["internal"]
    assert "serving" not in takes["networks"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_start_from_pinned_ones_and_not_as_root(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert PINNED.fullmatch(image), image
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["10001"]
    allowed = (path.parent / f"{path.name}.dockerignore").read_text(encoding="utf-8").splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert f"!{source.removeprefix('./')}" in allowed


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_volumes_are_mounted_on_is_the_users_own(path: Path) -> None:
    """A mount point that is not in the image is made as root's, and the first download then fails."""
    text = path.read_text(encoding="utf-8")
    owned = set(re.findall(r"/home/trimkit/\S+", text[text.index("install --directory") : text.index("USER")]))
    mounted = {part for service in COMPOSE["services"].values() for part in service.get("volumes", ())}
    pods = [part["spec"]["template"]["spec"] for part in MANIFEST if part["kind"] == "Deployment"]
    mounted |= {mount["mountPath"] for pod in pods for each in pod["containers"] for mount in each["volumeMounts"]}
    at = {place for part in mounted for place in re.findall(r"/home/trimkit/[^:]+", str(part))}
    assert at
    assert at <= owned


def test_the_manifest_holds_together() -> None:
    kinds = {part["kind"]: part for part in MANIFEST}
    assert set(kinds) == {
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
    }
    deployment = kinds["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        kinds["Service"]["spec"]["selector"],
        kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert kinds["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert PINNED.fullmatch(container["image"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
