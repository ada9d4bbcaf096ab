"""The files of deploy/: valid by their published schemas, without secrets, nobody's process root,
and every name in them means something.

No image is built here. What the files name (secrets, settings, host names, configuration) is held
against what Esper makes and takes.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import pytest
import yaml
from cryptography import x509

from esper.config import Settings
from esper.oona.bus.rights import OWNER, PRINCIPALS

ROOT: Final = Path(__file__).parents[3]
DEPLOY: Final = ROOT / "deploy"
KUSTOMIZE: Final = DEPLOY / "kustomize"
PARTS: Final = ("tolaria", "tamiyo", "nissa", "history", "foundry")
OURS: Final = (*PARTS, "topics", "trainer")
MONITORING: Final = ("prometheus", "alertmanager", "grafana")
KUBERNETES: Final = "1.32"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `esper deploy secrets` writes."""
    folder = tmp_path_factory.mktemp("deploy") / "secrets"
    done = subprocess.run(
        [sys.executable, "-m", "esper.cli", "deploy", "secrets", "--to", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    again = subprocess.run(
        [sys.executable, "-m", "esper.cli", "deploy", "secrets", "--to", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert again.returncode == 2, "it overwrites nothing"
    assert len(again.stderr.splitlines()) == 1
    return folder


def kustomization(folder: Path) -> tuple[list[dict[str, Any]], dict[str, list[str]], list[Path]]:
    """The resources of a kustomization and of those that it names, the keys of what it generates by
    name, and the files that this is made of.
    """
    text = yaml.safe_load((folder / "kustomization.yaml").read_text())
    resources: list[dict[str, Any]] = []
    generated: dict[str, list[str]] = {}
    made_of: list[Path] = []
    for name in text.get("resources", ()):
        path = (folder / name).resolve()
        if path.is_dir():
            more, keys, parts = kustomization(path)
            resources, generated, made_of = (
                [*resources, *more],
                generated | keys,
                [*made_of, *parts],
            )
        else:
            resources += [one for one in yaml.safe_load_all(path.read_text()) if one]
    for one in [*text.get("configMapGenerator", ()), *text.get("secretGenerator", ())]:
        named = [entry.rpartition("=") for entry in one.get("files", ())]
        generated[one["name"]] = [key or Path(path).name for key, _, path in named]
        made_of += [folder / path for _, _, path in named] + [
            folder / path for path in one.get("envs", ())
        ]
    return resources, generated, made_of


@pytest.fixture(scope="module")
def kubernetes() -> tuple[list[dict[str, Any]], dict[str, list[str]], list[Path]]:
    return kustomization(KUSTOMIZE)


def pods(resources: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pods of workloads by name."""
    for one in resources:
        if one["kind"] in {"Deployment", "StatefulSet", "Job"}:
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def test_compose_is_valid_by_the_compose_specification(compose: dict[str, Any]) -> None:
    """The file holds what the published JSON schema of Compose allows, and nothing else."""
    schema = json.loads(
        files("check_jsonschema.builtin_schemas.vendor").joinpath("compose-spec.json").read_text()
    )
    plain = {name: value for name, value in compose.items() if not name.startswith("x-")}
    jsonschema.validators.validator_for(schema)(schema).validate(plain)


def test_every_kubernetes_resource_is_valid_by_its_schema(
    kubernetes: tuple[list[dict[str, Any]], Any, Any],
) -> None:
    """Each resource holds what the published schemas of Kubernetes allow, and no field that they do
    not know.
    """
    for resource in kubernetes[0]:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    assert {name for name, _ in pods(kubernetes[0])} == {
        *OURS,
        "kafka",
        "registry",
        "clickhouse",
        "s3",
        *MONITORING,
    }


@pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl, which has kustomize in it, is not installed"
)
def test_kustomize_renders_the_whole(secrets: Path, tmp_path: Path) -> None:
    """Where kubectl is there: it makes the resources of these files, every reference resolved to a
    generated name.
    """
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets"))
    shutil.copytree(secrets, tmp_path / "deploy" / "kustomize" / "secrets")
    command = ["kubectl", "kustomize", str(tmp_path / "deploy" / "kustomize")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    for resource in rendered:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    names = {one["metadata"]["name"] for one in rendered if one["kind"] in {"Secret", "ConfigMap"}}
    assert _named(rendered) <= names


def test_nobodys_process_is_root(
    compose: dict[str, Any], kubernetes: tuple[list[dict[str, Any]], Any, Any]
) -> None:
    """Every container: a user that is not root, no capability, no new privilege, limits.

    Esper's on a read-only file system.
    """
    for name, service in compose["services"].items():
        assert service["user"].partition(":")[0] not in {"", "0", "root"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert service.get("read_only", False) or name not in OURS, name
    for name, pod in pods(kubernetes[0]):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            mine = container["securityContext"]
            assert mine["allowPrivilegeEscalation"] is False, name
            assert mine["capabilities"] == {"drop": ["ALL"]}, name
            assert mine["readOnlyRootFilesystem"] is True or name not in OURS, name
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}, name


def test_what_serves_is_probed(
    compose: dict[str, Any], kubernetes: tuple[list[dict[str, Any]], Any, Any]
) -> None:
    """Every server has a probe; what runs to its end has none."""
    for name, service in compose["services"].items():
        assert ("healthcheck" in service) is (name not in {"topics", "trainer"}), name
    for name, pod in pods(kubernetes[0]):
        probes = {"startupProbe", "readinessProbe", "livenessProbe"} & pod["containers"][0].keys()
        assert len(probes) == (0 if name in {"topics", "trainer"} else 3), name


def test_every_secret_that_is_named_is_made(
    compose: dict[str, Any],
    kubernetes: tuple[list[dict[str, Any]], dict[str, list[str]], list[Path]],
    secrets: Path,
) -> None:
    """What compose mounts and kustomize generates from is written by `esper deploy secrets`.

    Every reference in a pod has its generator.
    """
    named = {
        str(one).split(":")[0] if "volumes" in kind else str(one)
        for service in compose["services"].values()
        for kind in ("volumes", "env_file")
        for one in service.get(kind, ())
    }
    mounted = {path.removeprefix("./") for path in named if "/" in path}
    assert all(
        (secrets / path.removeprefix("secrets/")).exists()
        for path in mounted
        if path.startswith("secrets/")
    )
    assert all((DEPLOY / path).exists() for path in mounted if not path.startswith("secrets/"))
    resources, generated, made_of = kubernetes
    for path in made_of:
        inside = path.relative_to(KUSTOMIZE).parts if path.is_relative_to(KUSTOMIZE) else ("",)
        assert (secrets.joinpath(*inside[1:]) if inside[0] == "secrets" else path).is_file(), path
    assert _named(resources) <= generated.keys()
    assert {f"kafka-{principal}" for principal in (OWNER, *PRINCIPALS)} <= generated.keys()


def test_a_part_has_only_its_own_password(
    compose: dict[str, Any], kubernetes: tuple[list[dict[str, Any]], Any, Any]
) -> None:
    """Each part sees its principal's password and no other.

    The administrator's certificate is seen by the job that makes topics alone.
    """
    allowed = {name: {name} for name in OURS} | {"tolaria": {"tolaria", "trainer"}}
    for name, service in compose["services"].items():
        seen = {
            Path(str(one).split(":")[0]).name
            for one in service.get("volumes", ())
            if "./secrets/" in str(one)
        }
        mine = {path.removesuffix(".password") for path in seen if path.endswith(".password")}
        assert mine == (set() if name == "topics" or name not in OURS else allowed[name]), name
        assert ("admin.pem" in seen) is (name == "topics"), name
        assert "root.key" not in seen
    for name, pod in pods(kubernetes[0]):
        mine = {
            one.removeprefix("kafka-")
            for one in _named([pod])
            if one.removeprefix("kafka-") in (OWNER, *PRINCIPALS)
        }
        assert mine == ({OWNER, *PRINCIPALS} if name == "topics" else allowed.get(name, set())), (
            name
        )
        assert ("kafka-administrator" in _named([pod])) is (name == "topics"), name


def test_the_settings_are_esper_s(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Esper takes every variable, and compose and kustomize say the same but for names of hosts and
    files.
    """
    ours = dict(compose["x-esper"]["environment"])
    theirs = dict(line.split("=", 1) for line in (KUSTOMIZE / "esper.env").read_text().splitlines())
    for environment in (ours, theirs):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            settings = Settings.load()
            assert settings.parts == "elsewhere"
            assert settings.kafka.security_protocol == "SASL_SSL"
            assert settings.history.url == "https://history:8123"
    own = {"ESPER_KAFKA__BOOTSTRAP", "ESPER_SERVICE__KEYS", "ESPER_CHECKPOINTS__MASTER_KEY_FILE"}
    assert {name: value for name, value in ours.items() if name not in own} == {
        name: value for name, value in theirs.items() if name not in own
    }


def test_certificates_carry_the_names_that_are_used(
    compose: dict[str, Any], kubernetes: tuple[list[dict[str, Any]], Any, Any], secrets: Path
) -> None:
    """Clients find each host name of the files in the certificate that answers there."""
    broker, parts, registry = (
        _names(secrets / name) for name in ("kafka.pem", "parts.pem", "registry.pem")
    )
    environment = compose["x-esper"]["environment"]
    theirs = (KUSTOMIZE / "esper.env").read_text()
    bootstraps = [environment["ESPER_KAFKA__BOOTSTRAP"], re.search(r"BOOTSTRAP=(.*)", theirs)[1]]  # type: ignore[index]  # it is there
    assert {one.partition(":")[0] for text in bootstraps for one in text.split(",")} <= broker
    urls = {
        name: value
        for name, value in environment.items()
        if name.endswith("__URL") and value.startswith("https")
    }
    assert {
        host
        for name, value in urls.items()
        if "REGISTRY" not in name
        for host in [value.split("/")[2].partition(":")[0]]
    } <= parts
    assert "registry" in registry
    assert set(environment["ESPER_SERVICE__HOSTS"].split(",")) <= parts
    services = {one["metadata"]["name"] for one in kubernetes[0] if one["kind"] == "Service"}
    assert services == {*PARTS, "kafka", "registry", "clickhouse", "s3", *MONITORING}


def test_secrets_are_their_owners(secrets: Path) -> None:
    """The folder is closed to everybody else; what Esper reads is closed in itself too."""
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    open_to_others = {
        path.name for path in secrets.rglob("*") if path.is_file() and path.stat().st_mode & 0o077
    }
    assert {name for name in open_to_others if not name.endswith((".pub.pem", ".since"))} == {
        "root.pem",
        "kafka.pem",
        "registry.pem",
        "registry.key",
        "nissa.token",
        "grafana.admin",
    }
    texts = [path.read_bytes() for path in secrets.rglob("*.password")]
    assert len(set(texts)) == len(texts) == len(PRINCIPALS) + 2
    assert min(map(len, texts)) >= 32


def test_no_secret_stands_in_a_file() -> None:
    """deploy/ holds no key, no password and no token."""
    for path in (
        path
        for path in DEPLOY.rglob("*")
        if path.is_file() and "secrets" not in path.relative_to(DEPLOY).parts
    ):
        text = path.read_text()
        assert "PRIVATE KEY" not in text, path
        assert not re.search(
            r"(?i)(password|secret|token)(?!name)[a-z_]*[\"']?\s*[:=]\s*[\"']?(?!/)[A-Za-z0-9+/_-]{16,}",
            text,
        ), path


def test_the_image_is_made_of_locked_wheels_and_runs_as_nobody() -> None:
    """Every wheel by its hash, every base by a version, every copied file there, and the last user
    is not root.
    """
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    installs = [line for line in lines if "pip install" in line or "pip sync" in line]
    assert all(
        "--require-hashes" in line or "--no-deps --no-build-isolation ." in line
        for line in installs
    )
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert all(":" in base and not base.endswith(":latest") for base in bases)
    sources = [
        source
        for line in lines
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert all((ROOT / source).exists() for source in sources)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in sources} == {
        line for line in ignored if line.startswith("!")
    }
    assert [line for line in lines if line.startswith("USER")][-1] == "USER $UID:$UID"
    assert "ARG UID=10001" in lines


def _named(tree: Any) -> set[str]:
    """Secrets and configuration that anything in a tree of resources refers to."""
    if isinstance(tree, list):
        return {name for one in tree for name in _named(one)}
    if not isinstance(tree, dict):
        return set()
    found = {name for value in tree.values() for name in _named(value)}
    for key in ("secretRef", "configMapRef", "configMap", "secret"):
        if isinstance(tree.get(key), dict):
            found |= {tree[key][word] for word in ("name", "secretName") if word in tree[key]}
    return found


def _names(path: Path) -> set[str]:
    pem = path.read_bytes()
    certificate = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERTIFICATE") :])
    return set(
        certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.DNSName)
    )
