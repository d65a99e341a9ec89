"""The chart, rendered and linted by the Helm library over a matrix of values, and all that comes out held to the rules
of Kubernetes, to Pod Security and to ``meshbridge check``.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

import meshbridge
from tests.command_line import run_command
from tests.support import program
from tools import chart as chart_files

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "meshbridge"
OLDEST, NEWEST = "1.29", "1.37"
OF_THE_OPERATOR = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}

Values = dict[str, Any]
Manifest = dict[str, Any]

DAEMON = {"url": "tcp://appmesh:6059", "username": "bridge"}
BASE: Values = {
    "existingSecrets": ["appmesh"],
    "config": {
        "daemons": {"node-a": DAEMON},
        "sinks": {"broker": {"type": "mqtt", "url": "mqtt://mosquitto"}},
    },
}
CREDENTIALS = ("meshbridge_daemons__node_a__password", "meshbridge_sinks__hook__secret")
SEVERAL = {f"node-{letter}": DAEMON for letter in "abcde"}
MAIN = {
    "name": "appmesh",
    "image": "appmesh:2.2.0",
    "securityContext": {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}},
}

CASES: dict[str, Values] = {
    "least": BASE,
    "deployment": {"workload": "Deployment"},
    "deployment, claim that exists": {"workload": "Deployment", "persistence": {"existingClaim": "journal"}},
    "deployment, no volume": {"workload": "Deployment", "persistence": {"enabled": False}},
    "no volume": {"persistence": {"enabled": False}},
    "claim that exists": {"persistence": {"existingClaim": "journal"}},
    "sharded": {"mode": "sharded", "shards": 3, "config": {"daemons": SEVERAL}},
    "one shard": {"mode": "sharded", "shards": 1},
    "pair": {"mode": "pair"},
    "sidecar": {"sidecar": {"enabled": True, "containers": [MAIN]}},
    "configuration alone": {"workload": "None", "podMonitor": {"enabled": True, "matchLabels": {"app": "shop"}}},
    "tls and users at the exporter": {
        "probes": {"scheme": "HTTPS", "exec": True},
        "config": {"exporter": {"web_config": "/etc/meshbridge/config/web.yaml", "listen": "[::]:9665"}},
        "files": {"web.yaml": "tls_server_config: {cert_file: a, key_file: b}\n", "ca.pem": "-----BEGIN…\n"},
    },
    "pod monitor": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "everything": {
        "image": {"repository": "registry.example.com/meshbridge", "digest": f"sha256:{'0' * 64}"},
        "imagePullSecrets": ["registry"],
        "fullnameOverride": "bridge",
        "existingSecrets": ["appmesh"],
        "credentials": [
            {"secret": {"name": "hook", "items": [{"key": "key", "path": "meshbridge_sinks__hook__secret"}]}},
            {"serviceAccountToken": {"path": "appmesh-token", "audience": "appmesh", "expirationSeconds": 3600}},
        ],
        "env": [{"name": "MESHBRIDGE_LOG__FORMAT", "value": "json"}],
        "envFrom": [{"secretRef": {"name": "more", "optional": True}}],
        "config": {
            "daemons": {"node-a": {**DAEMON, "url": "wss://node-a"}, "node-b": {**DAEMON, "password_file": "/x/y"}},
            "sinks": {"hook": {"type": "webhook", "url": "https://hooks.example.com/appmesh"}},
            "journal": {"max_bytes": 4294967296, "max_age": "7d"},
            "exporter": {"max_series": 2000000, "collectors": {"host": False}},
            "log": {"level": "debug"},
        },
        "persistence": {"size": "10Gi", "storageClass": "fast", "annotations": {"a": "b"}},
        "serviceAccount": {"annotations": {"a": "b"}},
        "service": {"port": 9700, "annotations": {"a": "b"}},
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"a": "b"}},
            }
        ],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        "podDisruptionBudget": {"enabled": True},
        "networkPolicy": {
            "enabled": True,
            "scrapers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        },
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "endpoint": {"honorLabels": False}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}, "runbookBase": "https://x.example/"},
        "dashboards": {"enabled": True, "annotations": {"folder": "App Mesh"}},
    },
}


@pytest.fixture(scope="module")
def chart() -> Iterator[helm.Chart]:
    with helm.Chart.load(CHART) as loaded:
        yield loaded


def merged(values: Values) -> Values:
    """``values`` over those that every case has."""
    config = {**BASE["config"], **values.get("config", {})}
    return {**BASE, **values, "config": config}


def parsed(rendered: dict[str, str]) -> list[Manifest]:
    return [
        document
        for path, text in rendered.items()
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def render(chart: helm.Chart, values: Values) -> list[Manifest]:
    return parsed(chart.render(merged(values), name="demo", namespace="mesh"))


def one(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def pod_specs(manifests: list[Manifest]) -> Iterator[Manifest]:
    for manifest in manifests:
        if manifest["kind"] == "Pod":
            yield manifest["spec"]
        elif manifest["kind"] in {"StatefulSet", "Deployment"}:
            yield manifest["spec"]["template"]["spec"]


def bridge_of(spec: Manifest) -> Manifest:
    (bridge,) = [each for each in spec.get("initContainers", []) + spec["containers"] if each["name"] == "meshbridge"]
    assert isinstance(bridge, dict)
    return bridge


def configurations(manifests: list[Manifest]) -> dict[str, str]:
    """Each meshbridge.yaml in the chart's ConfigMap, by file name."""
    maps = [each for each in manifests if each["kind"] == "ConfigMap" and "meshbridge.yaml" in each["data"]]
    maps = maps or [each for each in manifests if each["kind"] == "ConfigMap" and "0.yaml" in each["data"]]
    return {name: text for name, text in maps[0]["data"].items() if re.fullmatch(r"(meshbridge|\d+)\.yaml", name)}


# --- every case ----------------------------------------------------------------------------------------------------


def _cases(without: str = "") -> list[Any]:
    """Two in `make test`, all in `make test-slow`."""
    quick, slow = ("least", "everything"), pytest.mark.slow
    return [case if case in quick else pytest.param(case, marks=slow) for case in CASES if case != without]


each_case = pytest.mark.parametrize("case", _cases())


@each_case
def test_the_linter_finds_nothing(case: str) -> None:
    report = helm.lint(CHART, merged(CASES[case]), strict=True, kube_version=f"v{NEWEST}.0")
    assert not report["errors"]
    assert [message for message in report["messages"] if message["error"] != "icon is recommended"] == []


@each_case
def test_manifests_are_valid_in_kubernetes(chart: helm.Chart, case: str) -> None:
    manifests = render(chart, CASES[case])
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(names) == len(set(names))
    for manifest in manifests:
        if manifest["kind"] not in OF_THE_OPERATOR:
            for version in (OLDEST, NEWEST):
                kubernetes_validate.validate(manifest, version, strict=True)


@each_case
def test_pods_fulfil_the_restricted_standard(chart: helm.Chart, case: str) -> None:
    """Kubernetes, 'Pod Security Standards', Restricted; and beyond it a root file system that is read-only."""
    for spec in pod_specs(render(chart, CASES[case])):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for volume in spec.get("volumes", []):
            assert volume.keys() - {"name"} <= {"configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim"}
        for container in spec.get("initContainers", []) + spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "hostPort" not in str(container.get("ports"))
            if container["name"] != "appmesh":
                assert context["readOnlyRootFilesystem"] is True


@each_case
def test_what_is_mounted_is_there(chart: helm.Chart, case: str) -> None:
    manifests = render(chart, CASES[case])
    for manifest in manifests:
        if manifest["kind"] not in {"StatefulSet", "Deployment"}:
            continue
        spec = manifest["spec"]["template"]["spec"]
        claims = [claim["metadata"]["name"] for claim in manifest["spec"].get("volumeClaimTemplates", [])]
        volumes = [volume["name"] for volume in spec["volumes"]] + claims
        assert len(volumes) == len(set(volumes))
        mounts = {mount["name"]: mount["mountPath"] for mount in bridge_of(spec)["volumeMounts"]}
        assert mounts.keys() == set(volumes)
        assert mounts["meshbridge-journal"] == "/var/lib/meshbridge"
        for volume in spec["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                made = [each["metadata"]["name"] for each in manifests if each["kind"] == "PersistentVolumeClaim"]
                assert claim["claimName"] in {*made, "journal"}


@functools.cache
def check(text: str, environ: tuple[tuple[str, str], ...], directory: Path) -> tuple[int, str]:
    """``meshbridge check --offline`` as the pod would run it, with the Secret's and the sinks' files."""
    credentials = directory / "credentials"
    credentials.mkdir(exist_ok=True)
    for name in CREDENTIALS:
        (credentials / name).unlink(missing_ok=True)
        if "hook" not in name or "hook" in yaml.safe_load(text).get("sinks", {}):
            (credentials / name).write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", encoding="utf-8")
    config = directory / "meshbridge.yaml"
    config.write_text(text, encoding="utf-8")
    variables = {name: str(credentials) if name == "CREDENTIALS_DIRECTORY" else value for name, value in environ}
    environment = {"PATH": os.environ["PATH"], **variables, "MESHBRIDGE_CONFIG": str(config)}
    done = run_command("check", "--offline", env=environment)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("check")


@pytest.mark.parametrize("case", _cases(without="configuration alone"))
def test_the_configuration_is_accepted(chart: helm.Chart, case: str, directory: Path) -> None:
    manifests = render(chart, CASES[case])
    (spec,) = [spec for spec in pod_specs(manifests) if spec["containers"][0]["name"] != "ready"]
    environ = tuple((entry["name"], entry["value"]) for entry in bridge_of(spec)["env"] if "value" in entry)
    for text in configurations(manifests).values():
        code, output = check(text, environ, directory)
        daemons = len(yaml.safe_load(text)["daemons"])
        assert code == 0, output
        assert re.search(rf"^ok   configuration: .*: {daemons} daemons?, ", output, re.MULTILINE), output


# --- forms ---------------------------------------------------------------------------------------------------------


def test_a_bridge_alone_keeps_its_journal_in_a_claim(chart: helm.Chart) -> None:
    manifests = render(chart, {})
    stateful = one(manifests, "StatefulSet")["spec"]
    assert stateful["replicas"] == 1
    assert stateful["volumeClaimTemplates"][0]["spec"]["resources"]["requests"] == {"storage": "6Gi"}
    assert yaml.safe_load(configurations(manifests)["meshbridge.yaml"])["journal"] == {"path": "/var/lib/meshbridge"}


def test_a_deployment_never_has_two_pods_with_one_journal(chart: helm.Chart) -> None:
    deployment = one(render(chart, CASES["deployment"]), "Deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})


def test_each_daemon_is_in_one_shard_and_each_pod_reads_its_own(chart: helm.Chart) -> None:
    manifests = render(chart, CASES["sharded"])
    stateful = one(manifests, "StatefulSet")["spec"]
    files = configurations(manifests)
    assert sorted(files) == [f"{ordinal}.yaml" for ordinal in range(stateful["replicas"])]
    shards = [sorted(yaml.safe_load(text)["daemons"]) for text in files.values()]
    assert sorted(name for shard in shards for name in shard) == sorted(SEVERAL)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    # All pods have all secrets: each names those of its own daemons.
    for text in files.values():
        for name, daemon in yaml.safe_load(text)["daemons"].items():
            key = f"meshbridge_daemons__{name.replace('-', '_')}__password"
            assert daemon["password_file"] == f"/etc/meshbridge/credentials/{key}"
    environ = {entry["name"]: entry for entry in bridge_of(stateful["template"]["spec"])["env"]}
    assert "CREDENTIALS_DIRECTORY" not in environ
    ordinal = environ["POD_INDEX"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert ordinal == "metadata.labels['apps.kubernetes.io/pod-index']"
    assert environ["MESHBRIDGE_CONFIG"]["value"] == "/etc/meshbridge/config/$(POD_INDEX).yaml"
    assert list(environ).index("POD_INDEX") < list(environ).index("MESHBRIDGE_CONFIG"), "expanded from what is before"


def test_a_pair_has_the_same_daemons_under_the_same_names_and_keeps_one_up(chart: helm.Chart) -> None:
    """Ids are `<daemon>/<run>/<sequence>`, so the same names make equal ids."""
    manifests = render(chart, CASES["pair"])
    stateful = one(manifests, "StatefulSet")["spec"]
    assert stateful["replicas"] == 2
    assert list(configurations(manifests)) == ["meshbridge.yaml"]
    assert "podAntiAffinity" in stateful["template"]["spec"]["affinity"]
    assert one(manifests, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_a_sidecar_starts_before_and_ends_after_the_main_container(chart: helm.Chart) -> None:
    spec = one(render(chart, CASES["sidecar"]), "StatefulSet")["spec"]["template"]["spec"]
    assert [container["name"] for container in spec["containers"]] == ["appmesh"]
    (bridge,) = spec["initContainers"]
    assert (bridge["name"], bridge["restartPolicy"]) == ("meshbridge", "Always")
    assert "startupProbe" in bridge


PARENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata:
      labels: {app: shop}
      annotations: {{- include "meshbridge.sidecar.annotations" .Subcharts.meshbridge | nindent 8 }}
    spec:
      initContainers:
        {{- include "meshbridge.sidecar.container" .Subcharts.meshbridge | nindent 8 }}
      containers:
        - {name: shop, image: "shop:1"}
      volumes:
        {{- include "meshbridge.sidecar.volumes" .Subcharts.meshbridge | nindent 8 }}
"""


def test_another_chart_has_it_as_its_sidecar(tmp_path: Path) -> None:
    parent = tmp_path / "shop"
    (parent / "templates").mkdir(parents=True)
    shutil.copytree(CHART, parent / "charts" / "meshbridge")
    dependencies = [{"name": "meshbridge", "version": meshbridge.__version__, "repository": ""}]
    about = {"apiVersion": "v2", "name": "shop", "version": "1.0.0", "dependencies": dependencies}
    (parent / "Chart.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
    (parent / "templates" / "deployment.yaml").write_text(PARENT, encoding="utf-8")
    with helm.Chart.load(parent) as loaded:
        values = {"meshbridge": {**BASE, "workload": "None"}}
        manifests = parsed(loaded.render(values, name="demo", namespace="mesh"))
    assert sorted(manifest["kind"] for manifest in manifests) == ["ConfigMap", "Deployment"]
    for manifest in manifests:
        kubernetes_validate.validate(manifest, NEWEST, strict=True)
    spec = one(manifests, "Deployment")["spec"]["template"]["spec"]
    bridge = bridge_of(spec)
    assert bridge["restartPolicy"] == "Always"
    assert {mount["name"] for mount in bridge["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    config = [volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume]
    assert config == [one(manifests, "ConfigMap")["metadata"]["name"]]


def test_secrets_come_as_files_named_like_settings(chart: helm.Chart) -> None:
    spec = one(render(chart, CASES["everything"]), "StatefulSet")["spec"]["template"]["spec"]
    bridge = bridge_of(spec)
    environ = {entry["name"]: entry.get("value") for entry in bridge["env"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in bridge["volumeMounts"]}
    assert environ["CREDENTIALS_DIRECTORY"] == mounts["meshbridge-credentials"]
    (credentials,) = [volume["projected"] for volume in spec["volumes"] if "projected" in volume]
    assert [next(iter(source)) for source in credentials["sources"]] == ["secret", "secret", "serviceAccountToken"]
    assert credentials["defaultMode"] == 0o440


def test_a_changed_configuration_restarts_the_pods(chart: helm.Chart) -> None:
    def checksum(values: Values) -> str:
        metadata = one(render(chart, values), "StatefulSet")["spec"]["template"]["metadata"]
        return str(metadata["annotations"]["checksum/meshbridge"])

    assert checksum({}) == checksum({"podLabels": {"a": "b"}})
    assert len({checksum({}), checksum({"config": {"log": {"level": "debug"}}}), checksum({"files": {"a": "b"}})}) == 3


# --- around it -----------------------------------------------------------------------------------------------------


def egress_ports(policy: Manifest) -> list[int]:
    return [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]


def test_the_network_policy_lets_out_to_daemons_and_sinks_alone(chart: helm.Chart) -> None:
    policy = one(
        render(
            chart,
            {
                "networkPolicy": {"enabled": True},
                "config": {
                    "daemons": {
                        "tcp": {"url": "tcp://a"},
                        "wss": {"url": "wss://a"},
                        "https": {"url": "https://a"},
                        "own": {"url": "tcp://[fd00::1]:7000"},
                    },
                    "sinks": {
                        "broker": {"type": "mqtt", "url": "mqtts://a"},
                        "hook": {"type": "webhook", "url": "https://a/b:80"},
                        "ws": {"type": "mqtt", "url": "wss://a/mqtt"},
                        "log": {"type": "file", "path": "-"},
                    },
                },
            },
        ),
        "NetworkPolicy",
    )
    assert sorted(egress_ports(policy)) == [53, 53, 443, 6058, 6059, 6060, 7000, 8883]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "metrics", "protocol": "TCP"}]}]


def test_services_of_people_can_be_reached(chart: helm.Chart) -> None:
    urls = {"mail": "mailtos://user:secret@example.com", "hook": "json://hook:8100/x", "room": "slack://a/b/c"}
    sinks: dict[str, Any] = {name: {"type": "notify", "url": url} for name, url in urls.items()}
    sinks["file"] = {"type": "notify", "url_file": "/run/secrets/url"}
    sinks["rabbit"] = {"type": "amqp", "url": "amqps://rabbit"}
    values = {"networkPolicy": {"enabled": True}, "config": {"sinks": sinks}}
    policy = one(render(chart, values), "NetworkPolicy")
    assert {443, 587, 5671, 8100} <= set(egress_ports(policy))


def test_own_rules_of_egress_stand_instead_and_the_test_pod_may_come_in(chart: helm.Chart) -> None:
    rule = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 6059, "protocol": "TCP"}]}
    scrapers = [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]
    manifests = render(chart, {"networkPolicy": {"enabled": True, "egress": [rule], "scrapers": scrapers}})
    policy = one(manifests, "NetworkPolicy")
    assert policy["spec"]["egress"][1:] == [rule]
    peers = [peer["podSelector"]["matchLabels"] for peer in policy["spec"]["ingress"][0]["from"]]
    assert peers[0] == {"app": "prometheus"}
    assert peers[1].items() <= one(manifests, "Pod")["metadata"]["labels"].items()


def test_monitors_find_the_pods_by_the_name_that_the_alerts_use(chart: helm.Chart) -> None:
    manifests = render(chart, CASES["everything"])
    monitor = one(manifests, "ServiceMonitor")["spec"]
    services = [each for each in manifests if each["kind"] == "Service"]
    selected = [
        each for each in services if monitor["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    assert len(selected) == 1, "scraped once, not also through the headless service"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] == selected[0]["spec"]["ports"][0]["name"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "meshbridge"}]
    pod_monitor = one(render(chart, CASES["pod monitor"]), "PodMonitor")["spec"]
    pods = one(render(chart, CASES["pod monitor"]), "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert pod_monitor["selector"]["matchLabels"].items() <= pods.items()


@pytest.mark.needs("promtool")
def test_the_rules_are_those_of_prometheus(chart: helm.Chart, tmp_path: Path) -> None:
    rule = one(render(chart, CASES["everything"]), "PrometheusRule")["spec"]
    groups = [
        group
        for name in ("alerts.yml", "rules.yml")
        for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / name).read_text(encoding="utf-8"))["groups"]
    ]
    assert [group["name"] for group in rule["groups"]] == [group["name"] for group in groups]
    linked = [
        each["annotations"]["runbook_url"] for group in rule["groups"] for each in group["rules"] if "alert" in each
    ]
    assert all(url.startswith("https://x.example/docs/runbooks.md#") for url in linked)
    for rendered, original in zip(rule["groups"], groups, strict=True):
        assert json.loads(json.dumps(rendered).replace("https://x.example/", "")) == original
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(rule), encoding="utf-8")
    promtool = program("promtool")
    assert promtool is not None
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboards_come_whole(chart: helm.Chart) -> None:
    maps = [
        each
        for each in render(chart, CASES["everything"])
        if each["kind"] == "ConfigMap" and "grafana_dashboard" in each["metadata"]["labels"]
    ]
    originals = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
    rendered = {name: json.loads(text) for each in maps for name, text in each["data"].items()}
    assert rendered == {path.name: json.loads(path.read_text(encoding="utf-8")) for path in originals}


def test_helm_test_asks_the_service_whether_it_is_ready(chart: helm.Chart) -> None:
    manifests = render(chart, CASES["everything"])
    pod = one(manifests, "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    services = [each for each in manifests if each["kind"] == "Service" and each["spec"].get("clusterIP") != "None"]
    url = f"http://{services[0]['metadata']['name']}:{services[0]['spec']['ports'][0]['port']}"
    assert pod["spec"]["containers"][0]["args"] == ["healthcheck", "--ready", "--url", url]


# --- what is refused -----------------------------------------------------------------------------------------------

REFUSED: list[tuple[Values, str]] = [
    ({"mode": "pair", "workload": "Deployment"}, "mode pair needs workload StatefulSet"),
    ({"mode": "pair", "persistence": {"existingClaim": "journal"}}, "two can't share a journal"),
    ({"mode": "sharded", "shards": 2}, "2 bridges for 1 daemons"),
    (
        {"mode": "pair", "config": {"sinks": {"b": {"type": "mqtt", "url": "mqtt://b", "client_id": "x"}}}},
        "config.sinks.b.client_id",
    ),
    ({"config": {"daemons": {"node-a": {**DAEMON, "password": "x"}}}}, "meshbridge_daemons__node_a__password"),
    ({"sidecar": {"enabled": True}}, "sidecar.containers"),
    ({"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}, "scraped twice"),
    ({"replicas": 3}, "replicas"),
    ({"workload": "DaemonSet"}, "workload"),
    ({"service": {"port": 0}}, "port"),
    ({"persistence": {"size": "much"}}, "size"),
    ({"image": {"digest": "sha256:short"}}, "digest"),
    ({"config": {"daemons": {"Node_A": DAEMON}}}, "Node_A"),
    ({"files": {"meshbridge.yaml": "x"}}, "meshbridge.yaml"),
    ({"terminationGracePeriodSeconds": 5}, "terminationGracePeriodSeconds"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_work_is_refused_with_the_reason(chart: helm.Chart, values: Values, message: str) -> None:
    with pytest.raises(helm.HelmError, match=re.escape(message)):
        chart.render(merged(values), name="demo", namespace="mesh")


# --- held equal ----------------------------------------------------------------------------------------------------


def test_generated_files_are_up_to_date() -> None:
    """``python -m tools.chart`` writes them."""
    assert chart_files.README.read_text(encoding="utf-8") == chart_files.readme()
    assert chart_files.present() == chart_files.links()


def test_the_schema_knows_every_value(chart: helm.Chart) -> None:
    schema = chart.schema
    assert schema is not None

    def compare(values: Values, part: dict[str, Any], place: str) -> None:
        for key, value in values.items():
            assert key in part["properties"], f"{place}{key}"
            if isinstance(value, dict) and part["properties"][key].get("additionalProperties") is False:
                compare(value, part["properties"][key], f"{place}{key}.")

    compare(chart.values, schema, "")
    assert schema["properties"].keys() - chart.values.keys() == {"global", "enabled"}


def test_versions_are_the_projects(chart: helm.Chart) -> None:
    assert chart.metadata["version"] == chart.metadata["appVersion"] == meshbridge.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == chart.metadata["annotations"]["artifacthub.io/license"]
